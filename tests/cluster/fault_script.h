// What a worker does with its sessions, drawn from a seed: append, attend, truncate, fork, adopt,
// close, and what it must not. Whatever fails is tried again until it succeeds, and every answer is
// kept: over a network that loses, doubles and breaks things, and over nodes that stop or start
// anew, the answers are the same bit for bit as over a network without faults.
#ifndef SOUNDER_TESTS_CLUSTER_FAULT_SCRIPT_H_
#define SOUNDER_TESTS_CLUSTER_FAULT_SCRIPT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/executor.h"
#include "common/base/philox.h"
#include "common/transport/faulty_transport.h"
#include "gpu_worker/kv/kv_client.h"
#include "tests/cluster/branch_model.h"

namespace sounder::tests {

// What the network does to messages in the schedule of that seed: each kind of fault in half of
// the schedules, delays, doubles and reorders in all.
transport::FaultOptions MessageFaults(uint64_t seed);

// Where a script runs. Pointers outlive it.
struct ScriptNetwork {
  gpu_worker::KvClient* client = nullptr;
  base::Executor* executor = nullptr;
  int nodes = 1;
  base::Duration deadline{};  // of the client's requests and calls
  base::Duration slack{};     // beyond it, for what is only late because the machine is busy
  // Messages are damaged: requests may be refused with what was done to them.
  bool damages = false;
  // Called before every action: may stop nodes, or start them anew, empty. Returns how many were
  // started anew so far. Null: none ever.
  std::function<int()> disturb;
  std::function<void()> mend;  // called before something is tried again: stopped nodes go on
};

struct ScriptTally {
  int64_t requests = 0;
  int64_t failures = 0;  // that were tried again
  int64_t attends = 0;   // answered
  int64_t adoptions = 0;
  int64_t rebuilt = 0;  // sessions that a node had lost
  int64_t refused = 0;  // of another epoch, or after close
};

class FaultScript {
 public:
  // restarts: nodes may lose sessions. Such scripts do not fork: a child that is built anew lies on
  // other nodes than its parent, which changes rounding.
  FaultScript(uint64_t seed, bool restarts, ScriptNetwork network);

  // Runs all of it, and closes what it opened. What is wrong first, empty if nothing is.
  std::string Run();
  // The bits of every answer, in order.
  const std::vector<std::string>& answers() const { return answers_; }
  const ScriptTally& tally() const { return tally_; }

 private:
  struct Live {
    std::shared_ptr<gpu_worker::RemoteSession> session;
    BranchContent content;
    base::Position acknowledged = 0;
    int restarts = 0;   // of nodes, when it was opened last
    bool gone = false;  // closed, to be opened anew
    std::vector<std::shared_ptr<gpu_worker::RemoteSession>> stale;  // as earlier workers hold it
  };
  enum class Misuse { kAppend, kAttend, kTruncate, kClose };

  void Fail(const std::string& what);
  void Pause();
  // One request; `bound`: how long it may take.
  absl::Status Timed(base::Duration bound, const std::function<absl::Status()>& request);
  absl::Status Call(const std::function<absl::Status()>& call);  // of the control plane
  // Until it succeeds, repairing the session when trying again does not help; null: there is none.
  void Insist(Live* one, const std::function<absl::Status()>& attempt);
  // Makes the session hold its content again, whatever has become of it.
  bool Repair(Live& one);
  absl::Status TryRepair(Live& one);
  absl::Status AdoptNow(Live& one);
  absl::Status Rebuild(Live& one);
  absl::Status AppendMissing(Live& one);
  bool Settled(Live& one);

  gpu_worker::RemoteSessionOptions NewOptions();
  void Open();
  void Act();
  void Append(Live& one);
  void Attend(Live& one);
  void Truncate(Live& one);
  void Fork(Live& one);
  void Adopt(Live& one);
  void Close(size_t chosen);
  void Check(Live& one, uint64_t draw);
  // What must be refused: by a worker that lost the session, or after close.
  void MisuseStale(Live& one);
  void MisuseClosed();
  absl::Status Misuses(gpu_worker::RemoteSession* session, Misuse how, uint64_t seed);
  base::Position Place(const Live& one);

  const uint64_t seed_;
  const bool restarts_;
  const ScriptNetwork network_;
  base::PhiloxStream random_;  // of the script alone: never of what the network does
  const RowVersions rows_;
  gpu_worker::RemoteSessionOptions options_;
  uint64_t number_ = 0;  // of sessions
  int restarted_ = 0;
  std::vector<std::unique_ptr<Live>> live_;
  std::vector<std::shared_ptr<gpu_worker::RemoteSession>> closed_;
  std::vector<std::string> answers_;
  ScriptTally tally_;
  std::string fault_;
};

}  // namespace sounder::tests

#endif  // SOUNDER_TESTS_CLUSTER_FAULT_SCRIPT_H_
