// Whole lives of sessions, one after another: what a service does all day, for tests that ask what
// stays behind.
#ifndef SOUNDER_TESTS_CLUSTER_SESSION_CYCLES_H_
#define SOUNDER_TESTS_CLUSTER_SESSION_CYCLES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "gpu_worker/kv/kv_client.h"
#include "tests/cluster/test_session.h"

namespace sounder::tests {

// A cycle opens a session, appends past seal marks so that indexes are built (LSH tables, or
// sketches with rows in eight bits), attends exactly and by samples, forks, goes on in the fork,
// truncates, now and then adopts one of the two, and closes both in either order. Blocking; not
// thread safe. The client outlives it.
class SessionCycles {
 public:
  SessionCycles(gpu_worker::KvClient* client, uint64_t seed);

  // "" or the first thing that went wrong, which names the cycle.
  std::string Run(int cycles);

  // For negative controls: every so many cycles one session is not closed; 0: never.
  void LeakSessions(int every) { leak_every_ = every; }

  int64_t cycles() const { return cycles_; }
  int64_t adoptions() const { return adoptions_; }
  // Rows that samples left out: there were indexes, and they were used.
  uint64_t rows_not_read() const { return rows_not_read_; }

 private:
  using Session = std::shared_ptr<gpu_worker::RemoteSession>;
  absl::Status Cycle();
  absl::Status Append(gpu_worker::RemoteSession* session, base::PositionRange range);
  absl::Status Attend(gpu_worker::RemoteSession* session, bool sampled);

  gpu_worker::KvClient* const client_;
  base::PhiloxStream random_;
  const TestRows rows_;
  const std::vector<int32_t> tokens_;
  const std::vector<float> queries_;
  int leak_every_ = 0;
  int64_t cycles_ = 0;
  int64_t adoptions_ = 0;
  uint64_t rows_not_read_ = 0;
};

}  // namespace sounder::tests

#endif  // SOUNDER_TESTS_CLUSTER_SESSION_CYCLES_H_
