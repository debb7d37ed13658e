#include "kv_node/server/data_server.h"

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/limits.h"
#include "common/wire/codec.h"
#include "kv_node/server/attend_job.h"
#include "kv_node/server/request_deadline.h"

namespace sounder::kv_node {

// The answer to an append request until all of its items are applied or refused. The request itself
// is not kept so long.
struct DataServer::AppendJob {
  wire::AppendReply reply;
  std::atomic<size_t> unfinished{0};
};

namespace {

// What the tensors of the answer take, paddings included.
size_t AnswerBytes(const wire::AttendRequest& request) {
  size_t bytes = 0;
  for (const wire::AttendItem& item : request.items) {
    const size_t rows = size_t{item.query_count} * item.query_heads();
    bytes += rows * (item.head_dim + (item.want_error_terms ? 3 : 1)) * sizeof(float) + 512;
  }
  return bytes;
}

}  // namespace

DataServer::DataServer(transport::Transport* transport, SessionMap* sessions,
                       base::Executor* executor, int num_threads, ServerProbe* probe,
                       const kernels::KernelSchedule& schedule)
    : transport_(transport),
      sessions_(sessions),
      executor_(executor),
      num_threads_(num_threads),
      probe_(probe),
      scratches_(schedule),
      changed_(executor->NewCondition()) {}

void DataServer::OnAccept(transport::ConnectionId connection, const std::string& peer) {
  probe_->Accepted();
  bool leaving;
  {
    std::lock_guard lock(mutex_);
    peers_.insert_or_assign(connection, Peer{peer, policy::Heartbeat(executor_->clock().Now())});
    leaving = leaving_;
  }
  if (leaving) transport_->Close(connection);
}

void DataServer::OnClosed(transport::ConnectionId connection, absl::Status reason) {
  probe_->Closed();
  std::string peer;
  {
    std::lock_guard lock(mutex_);
    const auto found = peers_.find(connection);
    if (found == peers_.end()) return;
    peer = std::move(found->second.address);
    peers_.erase(found);
    changed_->NotifyAll();
  }
  if (!reason.ok()) {
    probe_->ConnectionRefused("data", "broken", peer + ": " + base::MessageOf(reason));
  }
}

void DataServer::OnMessage(transport::ConnectionId connection, transport::Message message) {
  std::lock_guard taking(taking_mutex_);
  {
    std::lock_guard lock(mutex_);
    const auto found = peers_.find(connection);
    if (found != peers_.end()) found->second.heartbeat.Heard(executor_->clock().Now());
  }
  const absl::StatusOr<wire::Envelope> envelope = wire::DecodeEnvelope(message);
  if (!envelope.ok()) {
    probe_->MessageRefused();
    probe_->ConnectionRefused("data", "malformed",
                              AddressOf(connection) + ": " + base::MessageOf(envelope.status()));
    // Another version of our protocol looks at the version before all else, so it is told in ours.
    if (absl::IsFailedPrecondition(envelope.status())) {
      wire::Envelope refusal;
      refusal.kind = wire::MessageKind::kPong;
      refusal.status = base::Annotate(envelope.status(), "refused by the node");
      transport_->Send(connection, wire::EncodeBare(refusal), transport::SendMode::kEager, nullptr);
    }
    transport_->Close(connection);  // whoever this is does not speak our protocol
    return;
  }
  switch (envelope->kind) {
    case wire::MessageKind::kAttend:
      if (stopped_) return RefuseStopped(connection, *envelope, wire::MessageKind::kAttendReply);
      OnAttend(connection, *envelope, std::move(message));
      return;
    case wire::MessageKind::kAppend:
      if (stopped_) return RefuseStopped(connection, *envelope, wire::MessageKind::kAppendReply);
      OnAppend(connection, *envelope, std::move(message));
      return;
    case wire::MessageKind::kPong:
      return;  // of a peer that was silent
    case wire::MessageKind::kPing: {
      wire::Envelope pong = *envelope;
      pong.kind = wire::MessageKind::kPong;
      if (stopped_) pong.status = ShuttingDown();
      transport_->Send(connection, wire::EncodeBare(pong), transport::SendMode::kEager, nullptr);
      return;
    }
    default:
      probe_->MessageRefused();  // an answer to a question we did not ask
  }
}

std::string DataServer::AddressOf(transport::ConnectionId connection) const {
  std::lock_guard lock(mutex_);
  const auto found = peers_.find(connection);
  return found == peers_.end() ? "?" : found->second.address;
}

void DataServer::RefuseStopped(transport::ConnectionId connection, wire::Envelope envelope,
                               wire::MessageKind reply_kind) {
  probe_->RequestRefusedAtShutdown();
  envelope.kind = reply_kind;
  envelope.status = ShuttingDown();
  transport_->Send(connection, wire::EncodeBare(envelope), transport::SendMode::kEager, nullptr);
}

void DataServer::Refuse(transport::ConnectionId connection, wire::Envelope envelope,
                        wire::MessageKind reply_kind, absl::Status status) {
  probe_->MessageRefused();
  envelope.kind = reply_kind;
  envelope.status = std::move(status);
  transport_->Send(connection, wire::EncodeBare(envelope), transport::SendMode::kEager, nullptr);
}

void DataServer::OnAttend(transport::ConnectionId connection, const wire::Envelope& envelope,
                          transport::Message message) {
  const base::Time arrival = executor_->clock().Now();
  absl::StatusOr<wire::AttendRequest> request = wire::DecodeAttend(std::move(message));
  if (!request.ok()) {
    Refuse(connection, envelope, wire::MessageKind::kAttendReply, request.status());
    return;
  }
  // An answer is larger than its question where queries are of 16 bits.
  if (const size_t bytes = AnswerBytes(*request); bytes > base::kMaxPayloadBytes) {
    Refuse(connection, envelope, wire::MessageKind::kAttendReply,
           absl::InvalidArgumentError(absl::StrCat("the answer would have ", bytes,
                                                   " bytes, at most ", base::kMaxPayloadBytes,
                                                   " fit into a message; ask for less at once")));
    return;
  }
  CountTaken();
  auto job = std::make_shared<AttendJob>(
      *std::move(request), arrival, sessions_, executor_, num_threads_, &scratches_,
      [this, connection, arrival](const wire::AttendReply& reply) {
        probe_->AttendDone(
            reply, std::chrono::duration<double>(executor_->clock().Now() - arrival).count());
        transport_->Send(connection, wire::Encode(reply), transport::SendMode::kAuto,
                         [this](const absl::Status&) { OnAnswered(); });
      });
  executor_->Run([job] { job->Start(); });
}

void DataServer::OnAppend(transport::ConnectionId connection, const wire::Envelope& envelope,
                          transport::Message message) {
  absl::StatusOr<wire::AppendRequest> request = wire::DecodeAppend(std::move(message));
  if (!request.ok()) {
    Refuse(connection, envelope, wire::MessageKind::kAppendReply, request.status());
    return;
  }
  CountTaken();
  auto job = std::make_shared<AppendJob>();
  job->reply.envelope = request->envelope;
  job->reply.envelope.kind = wire::MessageKind::kAppendReply;
  job->reply.items.resize(request->items.size());
  job->unfinished = request->items.size() + 1;  // one for the loop in Apply
  const base::Time deadline = RequestDeadline(envelope, executor_->clock().Now());
  executor_->Run([this, connection, job, deadline,
                  rows = std::make_shared<wire::AppendRequest>(*std::move(request))] {
    Apply(connection, rows->items, job, deadline);
  });
}

// Messages that overtake each other on the executor's threads wait in their session for their turn.
void DataServer::Apply(transport::ConnectionId connection,
                       const std::vector<wire::AppendItem>& items,
                       const std::shared_ptr<AppendJob>& job, base::Time deadline) {
  const auto finish_one = [this, connection, job] {
    if (job->unfinished.fetch_sub(1) != 1) return;
    probe_->AppendDone(job->reply);
    transport_->Send(connection, wire::Encode(job->reply), transport::SendMode::kEager,
                     [this](const absl::Status&) { OnAnswered(); });
  };
  // Withheld while index builds lag behind, but answered in time whatever they do.
  const base::Time now = executor_->clock().Now();
  const base::Time acknowledged = now + (deadline - now) / 2;
  for (size_t i = 0; i < items.size(); ++i) {
    const wire::AppendItem& item = items[i];
    absl::StatusOr<std::shared_ptr<Session>> session =
        sessions_->Find(item.session.id, job->reply.envelope.tenant);
    if (!session.ok()) {
      job->reply.items[i].status = session.status();
      finish_one();
      continue;
    }
    const uint64_t row_bytes = uint64_t{2} * item.head_dim * SizeOf(item.dtype);
    (*session)->Append(item, deadline, [=, this, session = *session](const AppendResult& result) {
      job->reply.items[i] = {result.status, result.applied_sequence};
      probe_->RowsAppended(result.rows, result.rows * row_bytes);
      if (result.status.ok()) {
        session->WhenCaughtUp(acknowledged, finish_one);
      } else {
        finish_one();
      }
    });
  }
  finish_one();
}

std::vector<wire::NodeConnection> DataServer::Connections() const {
  std::vector<std::pair<transport::ConnectionId, std::string>> peers;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, peer] : peers_) peers.emplace_back(id, peer.address);
  }
  std::vector<wire::NodeConnection> connections;
  for (auto& [id, peer] : peers) {
    absl::StatusOr<transport::ConnectionInfo> info = transport_->Describe(id);
    if (info.ok()) connections.push_back({peer, info->transport, info->detail});
  }
  return connections;
}

}  // namespace sounder::kv_node
