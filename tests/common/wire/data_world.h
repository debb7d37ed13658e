// A client of the data plane and nodes that answer as told, on one loopback fabric, on threads or
// in virtual time.
#ifndef SOUNDER_TESTS_COMMON_WIRE_DATA_WORLD_H_
#define SOUNDER_TESTS_COMMON_WIRE_DATA_WORLD_H_

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "common/base/executor.h"
#include "common/base/thread_executor.h"
#include "common/base/virtual_executor.h"
#include "common/transport/loopback_transport.h"
#include "common/wire/codec.h"
#include "common/wire/data_client.h"

namespace sounder::wire {

inline constexpr base::Duration kPatience = std::chrono::hours(1);

// The right answer to a request: its sample key comes back as rows_visible, appends as applied.
// Nothing for what is no request.
std::vector<transport::Message> RightAnswer(const transport::Message& message);

using Messages = std::vector<transport::Message>;
Messages One(transport::Message message);
inline Messages Silence(const transport::Message&) { return {}; }

// A node. `answer` says what goes back for each message; empty: RightAnswer.
class DataNode final : public transport::TransportEvents {
 public:
  using Answer = std::function<std::vector<transport::Message>(const transport::Message&)>;

  DataNode(transport::LoopbackFabric* fabric, const std::string& address);
  void SetAnswer(Answer answer) {
    std::lock_guard lock(mutex_);
    answer_ = std::move(answer);
  }
  // To whoever connected last.
  void Send(transport::Message message);
  std::vector<Envelope> envelopes() const {
    std::lock_guard lock(mutex_);
    return envelopes_;
  }
  int accepted() const {
    std::lock_guard lock(mutex_);
    return accepted_;
  }

  void OnAccept(transport::ConnectionId connection, const std::string&) override;
  void OnMessage(transport::ConnectionId connection, transport::Message message) override;
  void OnClosed(transport::ConnectionId, absl::Status) override {}

 private:
  mutable std::mutex mutex_;  // guards all but the transport
  Answer answer_;
  std::vector<Envelope> envelopes_;
  int accepted_ = 0;
  transport::ConnectionId last_ = 0;
  transport::LoopbackTransport transport_;  // last: it calls the above
};

// Collects what calls ended with and lets the test wait for it.
class Ends {
 public:
  explicit Ends(base::Executor* executor) : condition_(executor->NewCondition()) {}

  // Callbacks that note their end under `name`.
  std::function<void(absl::Status)> Of(const std::string& name);
  DataClient::Callback<AttendReply> OfAttend(const std::string& name);
  DataClient::Callback<AppendReply> OfAppend(const std::string& name);
  void Note(const std::string& name, absl::Status status, uint64_t value = 0);

  // False if it takes too long.
  [[nodiscard]] bool WaitFor(size_t count);
  // The end of `name`; it must have ended once.
  absl::Status StatusOf(const std::string& name) const;
  uint64_t ValueOf(const std::string& name) const;
  size_t count() const {
    std::lock_guard lock(mutex_);
    return ends_.size();
  }

 private:
  struct End {
    std::string name;
    absl::Status status;
    uint64_t value = 0;  // rows_visible or applied_sequence of the first item
  };
  const End* Find(const std::string& name) const;

  mutable std::mutex mutex_;
  std::unique_ptr<base::Condition> condition_;
  std::vector<End> ends_;
};

AttendRequest AttendOf(uint64_t sample_key);
AppendRequest AppendOf(uint64_t sequence);

// One client and its transport, taken down in the right order.
struct DataWorld {
  explicit DataWorld(std::unique_ptr<base::Executor> own_executor,
                     transport::LoopbackOptions options = {});
  ~DataWorld() {
    transport = nullptr;
    client = nullptr;
  }

  std::unique_ptr<base::Executor> executor;
  transport::LoopbackFabric fabric;
  Ends ends;
  std::unique_ptr<transport::Transport> transport;
  std::unique_ptr<DataClient> client;
};

// Everything below such a test happens on threads (false) and in virtual time (true).
class DataWorldTest : public testing::TestWithParam<bool> {
 protected:
  static std::unique_ptr<base::Executor> NewExecutor() {
    if (GetParam()) return std::make_unique<base::VirtualExecutor>(91);
    return std::make_unique<base::ThreadExecutor>(2, "data");
  }

  DataWorld world_{NewExecutor()};
  Ends& ends_ = world_.ends;
};
// For INSTANTIATE_TEST_SUITE_P.
inline std::string ExecutorName(const testing::TestParamInfo<bool>& test) {
  return test.param ? "VirtualTime" : "Threads";
}

// A failure that has `text` in its message and names a node.
void ExpectStatus(const absl::Status& status, absl::StatusCode code, const std::string& text);

}  // namespace sounder::wire

#endif  // SOUNDER_TESTS_COMMON_WIRE_DATA_WORLD_H_
