// Attends for a node at any rate, whether it answers or not.
#ifndef SOUNDER_BENCH_OVERLOAD_LOAD_H_
#define SOUNDER_BENCH_OVERLOAD_LOAD_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/base/thread_executor.h"
#include "common/memory/aligned_buffer.h"
#include "common/transport/ucx_transport.h"
#include "common/wire/control_client.h"
#include "common/wire/data_client.h"

namespace sounder::bench {

struct LoadSpec {
  uint32_t kv_heads = 4;
  uint32_t group = 4;
  uint32_t dim = 128;
  int64_t rows = 4096;
  int sessions = 1;  // asked in turn
  int connections = 4;
  base::Duration deadline = std::chrono::milliseconds(50);
};

// What became of the requests of one run.
struct LoadResult {
  double seconds = 0;  // in which they were sent
  uint64_t asked = 0;
  uint64_t good = 0;               // answered within the deadline
  uint64_t refused = 0;            // RESOURCE_EXHAUSTED
  uint64_t late = 0;               // DEADLINE_EXCEEDED, here or at the node
  uint64_t failed = 0;             // anything else
  std::vector<double> refused_us;  // from sending to the refusal
  std::vector<double> good_us;
  double PerSecond() const { return static_cast<double>(good) / seconds; }
};

// Sessions of synthetic rows on a node, and connections that attend to them, each with a client of
// its own that sends nothing twice. Used from one thread.
class Load {
 public:
  // CHECKs that the sessions could be opened and filled. control: the node's address.
  Load(const LoadSpec& spec, const std::string& control);
  ~Load();
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  // A closed loop: so many requests always in flight, without a deadline that matters.
  LoadResult Closed(int in_flight, base::Duration duration);
  // An open loop: requests at random times, `per_second` in the mean, turn by turn on the
  // connections. Returns when the last has ended.
  LoadResult Open(double per_second, base::Duration duration);

 private:
  struct Client {
    std::unique_ptr<wire::DataClient> data;
    std::unique_ptr<transport::UcxTransport> transport;  // destroyed before the client
  };
  void Connect(const std::string& address);
  void Fill(wire::ControlClient& channel);
  absl::Status Append(const wire::SessionRef& session, int64_t first);
  wire::AttendRequest Request();
  void Send(Client& client, base::Duration deadline, std::function<void()> then);
  void WaitForAll();

  const LoadSpec spec_;
  base::ThreadExecutor executor_{1, "load"};
  std::shared_ptr<transport::UcxEngine> engine_;
  std::vector<Client> clients_;
  std::vector<wire::SessionRef> sessions_;
  size_t turn_ = 0;             // in sessions_
  uint64_t operations_ = 0;     // of each
  memory::AlignedBuffer rows_;  // of every append
  std::vector<float> queries_;
  base::PhiloxStream random_{1, 0};

  std::mutex mutex_;  // guards everything below, and turn_
  std::condition_variable ended_;
  uint64_t in_flight_ = 0;
  LoadResult result_;
};

}  // namespace sounder::bench

#endif  // SOUNDER_BENCH_OVERLOAD_LOAD_H_
