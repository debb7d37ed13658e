// The node's data plane: decodes requests, hands them to sessions and their jobs, sends answers.
#ifndef SOUNDER_KV_NODE_SERVER_DATA_SERVER_H_
#define SOUNDER_KV_NODE_SERVER_DATA_SERVER_H_

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/base/executor.h"
#include "common/policy/liveness.h"
#include "common/transport/transport.h"
#include "common/wire/control_service.h"
#include "kv_node/sampler/scratch_pool.h"
#include "kv_node/server/append_credits.h"
#include "kv_node/server/attend_queue.h"
#include "kv_node/server/intake.h"
#include "kv_node/server/probe.h"
#include "kv_node/session/session_map.h"
#include "kv_node/store/row_source.h"

namespace sounder::kv_node {

struct DataServerOptions {
  IntakeOptions intake = {};
  uint64_t max_attends = 1024;  // taken on and not ended
};

// What requests are told from the moment the node begins to end.
inline absl::Status ShuttingDown() { return absl::UnavailableError("the node is shutting down"); }

// Thread safe. The transport's thread only decodes: sessions are touched on the executor. A request
// that cannot be decoded is answered with what was wrong where its envelope could be read, and
// dropped (and counted) where not; a peer of another protocol version is told both versions. So
// are requests for which there is no room or no time: RESOURCE_EXHAUSTED, with advice when to come
// again. A peer that leaves too many answers untaken is closed.
// The end: Stop, WaitIdle, then the executor, the transport, and this.
class DataServer final : public transport::TransportEvents {
 public:
  // All outlive the server. num_threads: how many of the executor's threads attends may use.
  // schedule: how kernels run. rows: of the store; null: every session's rows are in memory.
  DataServer(transport::Transport* transport, SessionMap* sessions, base::Executor* executor,
             int num_threads, ServerProbe* probe, const kernels::KernelSchedule& schedule = {},
             const DataServerOptions& options = {}, RowSource* rows = nullptr);
  ~DataServer() override;

  void OnAccept(transport::ConnectionId connection, const std::string& peer) override;
  void OnMessage(transport::ConnectionId connection, transport::Message message) override;
  void OnClosed(transport::ConnectionId connection, absl::Status reason) override;

  // From now on connections that are silent are probed and, unanswered, closed. Once. Runs on the
  // executor until its end.
  void StartHeartbeats(const policy::HeartbeatOptions& options);

  // Refuses requests from now on (UNAVAILABLE: the node is shutting down); returns when none is
  // being taken. Requests taken before are still answered.
  void Stop();
  // After Stop: returns when every request taken has its answer, given to the transport, and no
  // disk's thread works for one. Before the executor's end, which waits for what is queued there
  // but not for attends and fetches whose rows are being read, or that wait for room or in their
  // session (SessionMap::CloseAll ends that).
  void WaitIdle();
  // Waits until what was taken is answered and the answers are on their way; false past `deadline`.
  bool WaitAnswered(base::Time deadline);
  // Says goodbye on every connection, and closes those that come later; false if some are still
  // there at `deadline`.
  bool CloseConnections(base::Time deadline);

  // The open connections and what carries them.
  std::vector<wire::NodeConnection> Connections() const;

 private:
  struct AppendJob;
  struct Peer {
    std::string address;
    policy::Heartbeat heartbeat;
  };
  std::string AddressOf(transport::ConnectionId connection) const;
  void CheckSilence();
  void CountTaken();
  void OnAnswered();  // its answer has gone
  void OnDone();      // or is the transport's to send
  void RefuseStopped(transport::ConnectionId connection, wire::Envelope envelope,
                     wire::MessageKind reply_kind);
  void OnAttend(transport::ConnectionId connection, const wire::Envelope& envelope,
                transport::Message message);
  void OnAppend(transport::ConnectionId connection, const wire::Envelope& envelope,
                transport::Message message);
  void OnFetch(transport::ConnectionId connection, const wire::Envelope& envelope,
               transport::Message message);
  void Apply(transport::ConnectionId connection, const std::vector<wire::AppendItem>& items,
             const std::shared_ptr<AppendJob>& job, base::Time deadline);
  void Acknowledge(transport::ConnectionId connection, const std::shared_ptr<AppendJob>& job);
  void Refuse(transport::ConnectionId connection, wire::Envelope envelope,
              wire::MessageKind reply_kind, absl::Status status, base::Duration retry_after = {});
  // Room for a request; null, and the request is refused, if there is none.
  Intake::SharedHold TakeOrRefuse(transport::ConnectionId connection,
                                  const wire::Envelope& envelope, wire::MessageKind reply_kind,
                                  size_t bytes);
  // An answer without payload. Closes the connection of a peer that does not take them.
  void SendBare(transport::ConnectionId connection, const wire::Envelope& envelope);
  void SendHeld(transport::ConnectionId connection, transport::Message message,
                transport::SendMode mode, Intake::SharedHold hold);

  transport::Transport* const transport_;
  SessionMap* const sessions_;
  base::Executor* const executor_;
  ServerProbe* const probe_;
  RowSource* const rows_;  // or null
  ScratchPool scratches_;
  Intake intake_;
  AttendQueue attends_;
  AppendCredits credits_;

  std::mutex taking_mutex_;  // held while a message is taken; before mutex_
  bool stopped_ = false;     // guarded by taking_mutex_
  mutable std::mutex mutex_;
  absl::flat_hash_map<transport::ConnectionId, Peer> peers_;  // guarded by mutex_
  size_t unanswered_ = 0;                                     // guarded by mutex_
  size_t in_work_ = 0;                                        // guarded by mutex_
  bool leaving_ = false;                                      // guarded by mutex_
  const std::unique_ptr<base::Condition> changed_;            // of the four above
  policy::HeartbeatOptions heartbeat_;                        // set before the first CheckSilence
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_DATA_SERVER_H_
