// A ControlService for tests: remembers what it was asked, answers what it was told to, on a
// thread of its own, inside the call, late, or never.
#ifndef SOUNDER_TESTS_COMMON_WIRE_FAKE_SERVICE_H_
#define SOUNDER_TESTS_COMMON_WIRE_FAKE_SERVICE_H_

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/wire/control_channel.h"
#include "common/wire/control_service.h"
#include "tests/common/wire/wire_values.h"

namespace sounder::wire {

class FakeService : public ControlService {
 public:
  enum class Mode {
    kInline,  // answers inside the call
    kThread,  // answers on another thread
    kHold,    // keeps the reply until Release()
  };

  explicit FakeService(Mode mode = Mode::kInline) : mode_(mode) {}
  ~FakeService() override {
    Release();
    for (std::thread& thread : threads_) thread.join();
  }

  void SetMode(Mode mode) {
    std::lock_guard lock(mutex_);
    mode_ = mode;
  }
  // What every call ends with; OK: the value.
  void SetStatus(absl::Status status) {
    std::lock_guard lock(mutex_);
    status_ = std::move(status);
  }
  std::vector<std::string> calls() const {
    std::lock_guard lock(mutex_);
    return calls_;
  }
  void WaitForCalls(size_t count) {
    std::unique_lock lock(mutex_);
    called_.wait(lock, [&] { return calls_.size() >= count; });
  }
  // Answers what was held.
  void Release() {
    std::vector<std::function<void()>> held;
    {
      std::lock_guard lock(mutex_);
      held.swap(held_);
    }
    for (const auto& answer : held) answer();
  }
  // Drops what was held, without an answer.
  void Forget() {
    std::lock_guard lock(mutex_);
    held_.clear();
  }

  OpenResult open_result{4096, 1024};
  SessionInfo info;
  std::vector<SessionInfo> list;
  NodeStatus node;

  void Open(const SessionSpec& spec, Reply<OpenResult> reply) override {
    Answer("open" + wire::Describe(spec), open_result, std::move(reply));
  }
  void Close(const SessionOp& op, StatusReply reply) override {
    AnswerStatus(absl::StrCat("close ", Name(op)), std::move(reply));
  }
  void Fork(const ForkCall& call, StatusReply reply) override {
    AnswerStatus(
        absl::StrCat("fork ", Name(call.op), " ", call.position, " ", call.child.id.ToString(), " ",
                     call.child.epoch, " ", call.ttl_seconds),
        std::move(reply));
  }
  void Truncate(const SessionOp& op, base::Position position, StatusReply reply) override {
    AnswerStatus(absl::StrCat("truncate ", Name(op), " ", position), std::move(reply));
  }
  void Adopt(const AdoptCall& call, Reply<SessionInfo> reply) override {
    Answer(absl::StrCat("adopt ", call.session.id.ToString(), " ", call.session.epoch, " ",
                        call.tenant, " ", call.holder),
           info, std::move(reply));
  }
  void Describe(const DescribeCall& call, Reply<SessionInfo> reply) override {
    Answer(absl::StrCat("describe ", call.session.id.ToString(), " ", call.session.epoch, " ",
                        call.tenant, call.keep_alive ? " alive" : ""),
           info, std::move(reply));
  }
  void List(Reply<std::vector<SessionInfo>> reply) override {
    Answer("list", list, std::move(reply));
  }
  void Pin(const PinCall& call, StatusReply reply) override {
    AnswerStatus(absl::StrCat("pin ", call.session.ToString(), " ", call.seconds, " ", call.soft),
                 std::move(reply));
  }
  void Spill(const base::SessionId& session, StatusReply reply) override {
    AnswerStatus("spill " + session.ToString(), std::move(reply));
  }
  void Load(const base::SessionId& session, StatusReply reply) override {
    AnswerStatus("load " + session.ToString(), std::move(reply));
  }
  void Drain(bool on, StatusReply reply) override {
    AnswerStatus(on ? "drain on" : "drain off", std::move(reply));
  }
  void Status(Reply<NodeStatus> reply) override { Answer("status", node, std::move(reply)); }

 private:
  static std::string Name(const SessionOp& op) {
    return absl::StrCat(op.session.id.ToString(), " ", op.session.epoch, " ", op.sequence, " ",
                        op.tenant);
  }

  template <typename T>
  void Answer(std::string call, const T& value, Reply<T> reply) {
    Do(std::move(call), [reply = std::move(reply), value](const absl::Status& status) {
      if (status.ok()) {
        reply(value);
      } else {
        reply(status);
      }
    });
  }
  void AnswerStatus(std::string call, StatusReply reply) { Do(std::move(call), std::move(reply)); }

  void Do(std::string call, std::function<void(const absl::Status&)> answer) {
    absl::Status status;
    {
      std::lock_guard lock(mutex_);
      calls_.push_back(std::move(call));
      called_.notify_all();
      status = status_;
      if (mode_ == Mode::kHold) {
        held_.emplace_back([answer, status] { answer(status); });
        return;
      }
      if (mode_ == Mode::kThread) {
        threads_.emplace_back([answer, status] { answer(status); });
        return;
      }
    }
    answer(status);
  }

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable called_;
  Mode mode_;
  absl::Status status_;
  std::vector<std::string> calls_;
  std::vector<std::function<void()>> held_;
  std::vector<std::thread> threads_;
};

// Makes every call once, in the order of the interface, and says what each ended with.
std::vector<std::string> CallEverything(ControlChannel* channel, const SessionSpec& spec);

}  // namespace sounder::wire

#endif  // SOUNDER_TESTS_COMMON_WIRE_FAKE_SERVICE_H_
