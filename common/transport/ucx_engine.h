// The progress thread of UcxTransports and everything it owns. Users of a transport only pass it
// around (see ucx_transport.h).
//
// Picture of one turn of the loop (all of it on the progress thread):
//
//   commands (Send, Close ... of any thread) -> ucp_worker_progress -> new connections -> timers
//      -> callbacks of finished sends -> Step of every connection that something happened to
//      (deliver its messages, move its state) -> nothing done for `spin`? arm and sleep
//
// UCX's own callbacks only take notes (lists below); user code runs afterwards, outside of UCX.
#ifndef SOUNDER_COMMON_TRANSPORT_UCX_ENGINE_H_
#define SOUNDER_COMMON_TRANSPORT_UCX_ENGINE_H_

#include <array>
#include <atomic>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/executor.h"
#include "common/transport/address.h"
#include "common/transport/ordered_lanes.h"
#include "common/transport/ucx_frame.h"
#include "common/transport/ucx_handles.h"
#include "common/transport/ucx_strays.h"
#include "common/transport/ucx_transport.h"

namespace sounder::transport {

class UcxEngine;
struct UcxConnection;

// One transport's share of the engine. `stopping` is for any thread, all else for the engine's.
struct UcxPort {
  UcxEngine* const engine;
  TransportEvents* const events;
  std::atomic<bool> stopping{false};
  std::vector<UcxListener> listeners{};
  int connections = 0;
  std::promise<void> retired{};
};

// One message on its way out, from the call of Send to the end of its UCX request.
struct UcxSend {
  UcxConnection* connection = nullptr;
  FrameKind kind = FrameKind::kMessage;
  bool polled = false;  // counted in UcxEngine::polled_sends_
  SendMode mode = SendMode::kAuto;
  memory::AlignedBuffer payload;
  SendDone done;
  size_t frame_bytes = 0;
  std::array<std::byte, kMaxFrameBytes> frame;  // UCX may read it until the request ends
};

// One rendezvous payload on its way in.
struct UcxReceive {
  UcxConnection* connection = nullptr;
  size_t lane = 0;
  uint64_t sequence = 0;
  void* descriptor = nullptr;  // UCX's, until the transfer starts
  base::Time deadline{};       // of the transfer
  size_t payload_bytes = 0;
  Message message;
};

struct UcxConnection {
  enum class State {
    kConnecting,  // the peer's hello has not come
    kOpen,
    kDraining,  // we close: what was sent before goes out, then goodbyes are exchanged
    kLeaving,   // the peer said goodbye and so do we
    kClosing,   // force closed; waiting for UCX to return what it holds
  };

  UcxEngine* engine = nullptr;
  UcxPort* port = nullptr;
  ConnectionId id = 0;
  std::string peer;
  bool accepted = false;        // in UcxEngine::accepted_peers_
  ucp_ep_h endpoint = nullptr;  // null once closed
  State state = State::kConnecting;
  bool announced = false;  // the user knows of it, so OnClosed is due
  bool failed = false;     // to be force closed at the next Step
  bool shared_memory = false;
  bool touched = false;  // in UcxEngine::touched_
  absl::Status reason;   // what OnClosed will say
  base::Time deadline = base::kNever;

  bool hello_received = false;
  bool goodbye_sent = false;
  bool goodbye_flushed = false;  // it has left this machine's buffers, or cannot
  bool goodbye_received = false;
  LaneCounts sent{};            // messages handed to UCX
  LaneCounts goodbye_counts{};  // messages the peer says it sent
  OrderedLanes received;
  // Messages sent before the peer's hello came. UCX picks a protocol when it is given a message;
  // one given while the endpoint still changes transports may be too large for the final one.
  std::deque<std::unique_ptr<UcxSend>> unsent;
  // What UCX holds and will call back for.
  std::unordered_map<UcxSend*, std::unique_ptr<UcxSend>> sends;
  std::unordered_map<UcxReceive*, std::unique_ptr<UcxReceive>> receives;
  size_t receiving_bytes = 0;     // of `receives`
  size_t announced_receives = 0;  // of UcxEngine::waiting_receives_
  int user_sends = 0;             // those of `sends` that are the user's
  int own_requests = 0;           // flush and close
  // UCX did not give everything back in time; the user has been told all the same.
  bool abandoned = false;

  bool HeldByUcx() const { return !sends.empty() || !receives.empty() || own_requests > 0; }
};

// Of a connection: messages that are kept while one before them has not come, and rendezvous
// payloads that are announced and not begun.
inline constexpr size_t kWaitingMessagesMax = 4096;

inline absl::Status StoppingError() {
  return absl::CancelledError("the transport is being destroyed");
}

class UcxEngine {
 public:
  explicit UcxEngine(UcxOptions options) : options_(std::move(options)) {}
  ~UcxEngine();

  // Any thread. The first port starts the thread.
  absl::StatusOr<std::unique_ptr<UcxPort>> AddPort(TransportEvents* events);
  // Closes what the port has open; returns when its last callback has run.
  void RemovePort(UcxPort& port);
  absl::StatusOr<std::string> Listen(UcxPort& port, const std::string& address);
  absl::StatusOr<ConnectionId> Connect(UcxPort& port, const std::string& address);
  void Send(UcxPort& port, ConnectionId connection, Message message, SendMode mode, SendDone done);
  void Close(UcxPort& port, ConnectionId connection);
  absl::StatusOr<ConnectionInfo> Describe(UcxPort& port, ConnectionId connection);
  // On its thread: whatever comes next may wait for so long.
  void Rest(base::Duration pause);
  size_t CloseStrays();

 private:
  struct Command {
    UcxPort* port = nullptr;
    ConnectionId connection = 0;
    std::unique_ptr<UcxSend> send = {};  // or
    base::Work work = {};
  };

  // ucx_engine.cc: the thread.
  absl::Status Start();
  absl::Status Open();
  void Run(std::promise<absl::Status>* started);
  bool Turn();
  void Sleep();
  void Post(Command command);
  bool RunCommands();
  bool RunTimers();
  bool RunFinishedSends();
  bool StepTouched();
  void RetirePorts();
  void Touch(UcxConnection& connection);
  void SetDeadline(UcxConnection& connection, base::Time deadline);

  // ucx_connect.cc
  bool AcceptRequests();
  void StopListening(UcxPort& port);
  absl::StatusOr<std::string> ListenHere(UcxPort& port, const SocketAddress& address,
                                         const std::string& text);
  void ConnectHere(UcxPort& port, ConnectionId id, const SocketAddress& address,
                   const std::string& peer);
  void OpenEndpoint(UcxConnection& connection, ucp_ep_params_t params);
  UcxConnection& Add(UcxPort& port, ConnectionId id, std::string peer);
  static void OnConnectionRequest(ucp_conn_request_h request, void* port);
  static void OnEndpointError(void* connection, ucp_ep_h endpoint, ucs_status_t status);

  // ucx_send.cc
  std::unique_ptr<UcxSend> NewSend(FrameKind kind) const;
  void SendHere(UcxPort& port, ConnectionId id, std::unique_ptr<UcxSend> send);
  void Issue(UcxConnection& connection, std::unique_ptr<UcxSend> send);
  void IssueUnsent(UcxConnection& connection);
  void FinishSend(UcxSend& finished, absl::Status status);
  void SendHello(UcxConnection& connection);
  void SendGoodbye(UcxConnection& connection);
  void FlushGoodbye(UcxConnection& connection);
  static void OnSent(void* request, ucs_status_t status, void* send);

  // ucx_receive.cc
  static ucs_status_t OnActiveMessage(void* engine, const void* header, size_t header_bytes,
                                      void* data, size_t data_bytes,
                                      const ucp_am_recv_param_t* param);
  ucs_status_t Receive(UcxConnection& connection, const Frame& frame,
                       std::span<const std::byte> header, void* data, size_t data_bytes,
                       bool rendezvous);
  absl::Status CheckFrame(const UcxConnection& connection, const Frame& frame, size_t header_bytes,
                          size_t data_bytes) const;
  void StartReceives();
  void StartReceive(std::unique_ptr<UcxReceive> receive);
  static void OnReceived(void* request, ucs_status_t status, size_t bytes, void* receive);
  void EndReceiving(UcxReceive& receive);
  void WatchReceives(UcxConnection& connection);
  void DropWaitingReceives(UcxConnection& connection);

  // ucx_close.cc: the life of a connection after it was made.
  void Step(UcxConnection& connection);
  void Open(UcxConnection& connection);
  void Deliver(UcxConnection& connection);
  void Fail(UcxConnection& connection, absl::Status reason);
  void BeginClose(UcxConnection& connection);
  void ForceClose(UcxConnection& connection);
  void Abandon(UcxConnection& connection);
  void Finish(UcxConnection& connection);
  static absl::Status SendFailure(const UcxConnection& connection);
  void Expire(UcxConnection& connection);
  absl::Status LearnTransport(UcxConnection& connection);

  // Constant after Start.
  const UcxOptions options_;
  FileDescriptor wake_;   // eventfd
  FileDescriptor epoll_;  // the eventfd and UCX's own

  // Any thread.
  std::atomic<ConnectionId> next_connection_{1};
  std::atomic<bool> has_commands_{false};
  std::atomic<bool> sleeping_{false};
  std::mutex commands_mutex_;
  std::vector<Command> commands_;  // guarded by commands_mutex_
  std::mutex infos_mutex_;
  // Guarded by infos_mutex_; every live connection; nullopt while it is being made.
  std::unordered_map<ConnectionId, std::pair<UcxPort*, std::optional<ConnectionInfo>>> infos_;
  std::set<std::string> accepted_peers_;  // guarded by infos_mutex_; addresses of live connections
  UcxStrays strays_;

  // The progress thread only.
  base::SteadyClock clock_;
  base::Time now_{};
  base::Time rest_until_{};
  bool stopping_ = false;
  UcxContext context_;
  UcxWorker worker_;
  std::vector<UcxPort*> retiring_;
  std::deque<std::pair<UcxPort*, ucp_conn_request_h>> requests_;
  std::unordered_map<ConnectionId, std::unique_ptr<UcxConnection>> connections_;
  std::unordered_map<ucp_ep_h, UcxConnection*> by_endpoint_;
  // Finished for the user, but UCX may still touch their buffers.
  std::unordered_map<UcxConnection*, std::unique_ptr<UcxConnection>> abandoned_;
  std::set<std::pair<base::Time, ConnectionId>> deadlines_;
  std::vector<UcxConnection*> touched_;
  std::vector<std::pair<SendDone, absl::Status>> finished_sends_;
  std::deque<std::unique_ptr<UcxReceive>> waiting_receives_;  // no room for them yet
  int polled_sends_ = 0;  // sends in flight through shared memory
  size_t receiving_bytes_ = 0;
  bool receives_ended_ = false;

  std::mutex start_mutex_;
  std::optional<absl::Status> started_;  // guarded by start_mutex_
  std::thread thread_;                   // guarded by start_mutex_ until started
};

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_UCX_ENGINE_H_
