#include "kv_node/server/data_server.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/limits.h"
#include "common/wire/codec.h"
#include "kv_node/server/attend_job.h"
#include "kv_node/server/fetch_job.h"
#include "kv_node/server/request_deadline.h"

namespace sounder::kv_node {

// The answer to an append request until all of its items are applied or refused. The request itself
// is not kept so long.
struct DataServer::AppendJob {
  wire::AppendReply reply;
  Intake::SharedHold hold;
  std::atomic<size_t> unfinished{0};
};

namespace {

// When a request for which there is no room may come again: messages go in milliseconds.
constexpr base::Duration kRetryMemoryAfter = std::chrono::milliseconds(10);
// When appends for which memory is full may come again while segments leave it: those are written
// in milliseconds.
constexpr base::Duration kRetryRoomAfter = std::chrono::milliseconds(20);
// Between two looks at the network while requests are refused: of their time, and at most.
constexpr int kRestShare = 50;
constexpr base::Duration kMostRest = std::chrono::milliseconds(1);
// What a message of appends takes once its rows are gone, and each append in it. Little, because
// they may wait for one that was refused and has to find room.
constexpr size_t kBytesPerAnswer = 512;
constexpr size_t kBytesPerAppend = 256;

// What the answer takes, and what there is to a request beside its message.
template <typename Request>
size_t AnswerBytes(const Request& request) {
  size_t bytes = Intake::kBytesPerRequest;
  for (const auto& item : request.items) bytes += item.reply_bytes();
  return bytes;
}

// Beside the memory's cap, so less where that is small.
WorkRoomOptions WorkRoomOf(uint64_t memory_bytes) {
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  WorkRoomOptions room;
  room.read_bytes = std::clamp<uint64_t>(memory_bytes / 16, 8 * kMiB, room.read_bytes);
  room.partial_bytes = std::clamp<uint64_t>(memory_bytes / 4, 64 * kMiB, room.partial_bytes);
  return room;
}

}  // namespace

DataServer::DataServer(transport::Transport* transport, SessionMap* sessions,
                       base::Executor* executor, int num_threads, ServerProbe* probe,
                       const kernels::KernelSchedule& schedule, const DataServerOptions& options,
                       RowSource* rows)
    : transport_(transport),
      sessions_(sessions),
      executor_(executor),
      probe_(probe),
      rows_(rows),
      scratches_(schedule),
      intake_(options.intake, probe),
      attends_(executor, {num_threads, options.max_attends}, probe,
               WorkRoomOf(sessions->budget().limit())),
      credits_(sessions, options.intake.message_bytes, probe),
      changed_(executor->NewCondition()) {}

DataServer::~DataServer() {
  if (rows_ != nullptr) rows_->WaitIdle();
}

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
  intake_.Forget(connection);
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
  if (intake_.Slow(connection)) return;
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
    case wire::MessageKind::kFetch:
      if (stopped_) return RefuseStopped(connection, *envelope, wire::MessageKind::kFetchReply);
      OnFetch(connection, *envelope, std::move(message));
      return;
    case wire::MessageKind::kPong:
      return;  // of a peer that was silent
    case wire::MessageKind::kPing: {
      wire::Envelope pong = *envelope;
      pong.kind = wire::MessageKind::kPong;
      if (stopped_) pong.status = ShuttingDown();
      SendBare(connection, pong);
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
  Refuse(connection, std::move(envelope), reply_kind, ShuttingDown());
}

void DataServer::Refuse(transport::ConnectionId connection, wire::Envelope envelope,
                        wire::MessageKind reply_kind, absl::Status status,
                        base::Duration retry_after) {
  envelope.kind = reply_kind;
  envelope.status = std::move(status);
  envelope.retry_after_us = static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(retry_after).count());
  SendBare(connection, envelope);
}

void DataServer::SendBare(transport::ConnectionId connection, const wire::Envelope& envelope) {
  switch (intake_.AddBare(connection)) {
    case Intake::BareAnswer::kSend:
      transport_->Send(connection, wire::EncodeBare(envelope), transport::SendMode::kEager,
                       [this, connection](const absl::Status&) { intake_.BareGone(connection); });
      return;
    case Intake::BareAnswer::kDrop:
      return;
    case Intake::BareAnswer::kTooMany:
      break;
  }
  probe_->SlowReaderClosed();
  probe_->ConnectionRefused(
      "data", "slow reader",
      absl::StrCat(AddressOf(connection), ": it sends requests and does not take its answers; ",
                   intake_.held_by(connection), " bytes are held for it"));
  transport_->Close(connection);
}

void DataServer::SendHeld(transport::ConnectionId connection, transport::Message message,
                          transport::SendMode mode, Intake::SharedHold hold) {
  transport_->Send(connection, std::move(message), mode,
                   [this, hold = std::move(hold)](const absl::Status&) { OnAnswered(); });
  OnDone();
}

Intake::SharedHold DataServer::TakeOrRefuse(transport::ConnectionId connection,
                                            const wire::Envelope& envelope,
                                            wire::MessageKind reply_kind, size_t bytes) {
  absl::StatusOr<Intake::SharedHold> hold = intake_.Take(connection, bytes);
  if (hold.ok()) return *std::move(hold);
  probe_->RequestRefused("memory");
  // What could never be held gets no advice.
  const base::Duration retry_after = intake_.Possible(bytes) ? kRetryMemoryAfter : base::Duration();
  Refuse(connection, envelope, reply_kind, hold.status(), retry_after);
  return nullptr;
}

void DataServer::OnAttend(transport::ConnectionId connection, const wire::Envelope& envelope,
                          transport::Message message) {
  const base::Time arrival = executor_->clock().Now();
  const auto reply_kind = wire::MessageKind::kAttendReply;
  const base::Time deadline = RequestDeadline(envelope, arrival);
  AttendQueue::Refused refused;
  // More work than time: what else comes may wait a little, and costs less together.
  const auto refuse = [&] {
    Refuse(connection, envelope, reply_kind, refused.status, refused.retry_after);
    transport_->Rest(std::clamp((deadline - arrival) / kRestShare, base::Duration(0), kMostRest));
  };
  if (attends_.RefusesUnread(connection, arrival, deadline, &refused)) return refuse();
  const size_t asked_bytes = wire::WireBytes(message);
  absl::StatusOr<wire::AttendRequest> request = wire::DecodeAttend(std::move(message));
  if (!request.ok()) {
    probe_->MessageRefused();
    Refuse(connection, envelope, reply_kind, request.status());
    return;
  }
  Intake::SharedHold hold =
      TakeOrRefuse(connection, envelope, reply_kind, asked_bytes + AnswerBytes(*request));
  if (hold == nullptr) return;
  const uint64_t number = attends_.Offer(connection, *request, arrival, deadline, &refused);
  if (number == 0) return refuse();
  CountTaken();
  auto job = std::make_shared<AttendJob>(
      *std::move(request), arrival, number, sessions_, rows_, executor_, &attends_, &scratches_,
      [this, connection, arrival, hold = std::move(hold)](const wire::AttendReply& reply) {
        if (absl::IsDeadlineExceeded(reply.envelope.status)) {
          probe_->RequestRefused("expired");
        } else if (reply.envelope.status.ok()) {
          probe_->AttendDone(
              reply, std::chrono::duration<double>(executor_->clock().Now() - arrival).count());
        }
        SendHeld(connection, wire::Encode(reply), transport::SendMode::kAuto, hold);
      });
  executor_->Run([job] { job->Start(); });
}

void DataServer::OnAppend(transport::ConnectionId connection, const wire::Envelope& envelope,
                          transport::Message message) {
  const size_t bytes = wire::WireBytes(message);
  absl::StatusOr<wire::AppendRequest> request = wire::DecodeAppend(std::move(message));
  if (!request.ok()) {
    probe_->MessageRefused();
    Refuse(connection, envelope, wire::MessageKind::kAppendReply, request.status());
    return;
  }
  const size_t answer_bytes = kBytesPerAnswer + request->items.size() * kBytesPerAppend;
  Intake::SharedHold hold =
      TakeOrRefuse(connection, envelope, wire::MessageKind::kAppendReply, bytes + answer_bytes);
  if (hold == nullptr) return;
  CountTaken();
  auto job = std::make_shared<AppendJob>();
  job->hold = std::move(hold);
  job->reply.envelope = request->envelope;
  job->reply.envelope.kind = wire::MessageKind::kAppendReply;
  job->reply.items.resize(request->items.size());
  job->unfinished = request->items.size() + 1;  // one for the loop of Apply
  const base::Time deadline = RequestDeadline(envelope, executor_->clock().Now());
  executor_->Run([this, connection, job, deadline, answer_bytes,
                  rows = std::make_shared<wire::AppendRequest>(*std::move(request))]() mutable {
    Apply(connection, rows->items, job, deadline);
    rows.reset();
    // The one of the loop: the answer, and with it the hold, cannot have gone before.
    job->hold->Shrink(answer_bytes);
    Acknowledge(connection, job);
  });
}

void DataServer::OnFetch(transport::ConnectionId connection, const wire::Envelope& envelope,
                         transport::Message message) {
  const size_t asked_bytes = wire::WireBytes(message);
  absl::StatusOr<wire::FetchRequest> request = wire::DecodeFetch(std::move(message));
  if (!request.ok()) {
    probe_->MessageRefused();
    Refuse(connection, envelope, wire::MessageKind::kFetchReply, request.status());
    return;
  }
  Intake::SharedHold hold = TakeOrRefuse(connection, envelope, wire::MessageKind::kFetchReply,
                                         asked_bytes + AnswerBytes(*request));
  if (hold == nullptr) return;
  CountTaken();
  const auto job = std::make_shared<FetchJob>(
      *std::move(request), RequestDeadline(envelope, executor_->clock().Now()), sessions_, rows_,
      &attends_.reads(), executor_,
      [this, connection, hold = std::move(hold)](const wire::FetchReply& reply) {
        SendHeld(connection, wire::Encode(reply), transport::SendMode::kAuto, hold);
      });
  executor_->Run([job] { job->Start(); });
}

// Messages that overtake each other on the executor's threads wait in their session for their turn.
void DataServer::Apply(transport::ConnectionId connection,
                       const std::vector<wire::AppendItem>& items,
                       const std::shared_ptr<AppendJob>& job, base::Time deadline) {
  const auto finish_one = [this, connection, job] { Acknowledge(connection, job); };
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
    const auto acknowledge = [=, this, id = item.session.id,
                              bytes = uint64_t{2} * item.kv_head_count * item.head_bytes()] {
      job->reply.items[i].credit_bytes = credits_.Grant(id, bytes, executor_->clock().Now());
      finish_one();
    };
    (*session)->Append(item, deadline, [=, this, session = *session](const AppendResult& result) {
      job->reply.items[i] = {result.status, result.applied_sequence, 0};
      probe_->RowsAppended(result.rows, result.rows * row_bytes);
      if (result.status.ok()) {
        session->WhenCaughtUp(acknowledged, acknowledge);
      } else {
        finish_one();
      }
    });
  }
}

// One part of the job is done; the last sends the answer. Where the store makes room, what did not
// fit into memory may come again: it goes on where it stopped.
void DataServer::Acknowledge(transport::ConnectionId connection,
                             const std::shared_ptr<AppendJob>& job) {
  if (job->unfinished.fetch_sub(1) != 1) return;
  for (const wire::AppendReplyItem& item : job->reply.items) {
    if (sessions_->tiers() == nullptr || !absl::IsResourceExhausted(item.status)) continue;
    probe_->RequestRefused("room");
    Refuse(connection, job->reply.envelope, wire::MessageKind::kAppendReply, item.status,
           kRetryRoomAfter);
    OnAnswered();
    OnDone();
    return;
  }
  probe_->AppendDone(job->reply);
  SendHeld(connection, wire::Encode(job->reply), transport::SendMode::kEager, std::move(job->hold));
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
