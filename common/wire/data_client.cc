#include "common/wire/data_client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/status_macros.h"
#include "common/wire/codec.h"

namespace sounder::wire {
namespace {

// Says in the error of a malformed answer which node gave it.
template <typename T>
absl::StatusOr<T> Named(const std::string& address, absl::StatusOr<T> answer) {
  if (answer.ok()) return answer;
  return base::Annotate(answer.status(), "node " + address);
}

absl::Status StatusOfPong(const transport::Message& message) {
  ASSIGN_OR_RETURN(const Envelope envelope, DecodeEnvelope(message));
  if (envelope.kind == MessageKind::kPong) return envelope.status;
  return absl::InvalidArgumentError(
      absl::StrCat("answered a ping with a message of kind ", static_cast<int>(envelope.kind)));
}

bool IsAnswer(MessageKind kind) {
  return kind == MessageKind::kAttendReply || kind == MessageKind::kAppendReply ||
         kind == MessageKind::kFetchReply || kind == MessageKind::kPong;
}

}  // namespace

DataClient::DataClient(transport::Transport* transport, base::Executor* executor,
                       const DataClientOptions& options)
    : transport_(transport),
      executor_(executor),
      options_(options),
      gate_(std::make_shared<Gate>()),
      random_(options.seed, /*stream=*/0x7265) {}

DataClient::~DataClient() {
  std::vector<base::TimerId> timers;
  {
    std::lock_guard gate(gate_->mutex);  // waits for a timer that is running
    gate_->open = false;
  }
  {
    std::lock_guard lock(mutex_);
    for (const auto& [ticket, pending] : pending_) {
      timers.insert(timers.end(), {pending.timer, pending.retry});
    }
  }
  for (const base::TimerId timer : timers) executor_->Cancel(timer);
}

DataClient::NodeIndex DataClient::AddNode(std::string address) {
  std::lock_guard lock(mutex_);
  nodes_.push_back(std::make_unique<Node>());
  nodes_.back()->address = std::move(address);
  return nodes_.size() - 1;
}

const std::string& DataClient::AddressOf(NodeIndex node) const {
  std::lock_guard lock(mutex_);
  return nodes_.at(node)->address;
}

uint64_t DataClient::NewTicket() {
  std::lock_guard lock(mutex_);
  return ++last_ticket_;
}

template <typename Request, typename Reply>
void DataClient::Ask(NodeIndex node, MessageKind kind, Request request, base::Duration deadline,
                     bool attend, absl::StatusOr<Reply> (*decode)(transport::Message),
                     Callback<Reply> done) {
  const uint64_t ticket = NewTicket();
  request.envelope.kind = kind;
  request.envelope.ticket = ticket;
  request.envelope.deadline_us = DeadlineMicros(deadline);
  Send(
      node, ticket, Encode(request), transport::SendMode::kAuto, deadline, attend,
      [this, node, decode, done = std::move(done)](absl::StatusOr<transport::Message> message) {
        done(message.ok() ? Named(AddressOf(node), decode(*std::move(message))) : message.status());
      });
}

void DataClient::Attend(NodeIndex node, AttendRequest request, base::Duration deadline,
                        Callback<AttendReply> done) {
  Ask(node, MessageKind::kAttend, std::move(request), deadline, /*attend=*/true, DecodeAttendReply,
      std::move(done));
}

void DataClient::Append(NodeIndex node, AppendRequest request, base::Duration deadline,
                        Callback<AppendReply> done) {
  Ask(node, MessageKind::kAppend, std::move(request), deadline, /*attend=*/false, DecodeAppendReply,
      std::move(done));
}

void DataClient::Fetch(NodeIndex node, FetchRequest request, base::Duration deadline,
                       Callback<FetchReply> done) {
  Ask(node, MessageKind::kFetch, std::move(request), deadline, /*attend=*/false, DecodeFetchReply,
      std::move(done));
}

void DataClient::Ping(NodeIndex node, base::Duration deadline,
                      std::function<void(absl::Status)> done) {
  Envelope envelope;
  envelope.kind = MessageKind::kPing;
  envelope.ticket = NewTicket();
  envelope.deadline_us = DeadlineMicros(deadline);
  Send(node, envelope.ticket, EncodeBare(envelope), transport::SendMode::kEager, deadline,
       /*attend=*/false,
       [this, node, done = std::move(done)](absl::StatusOr<transport::Message> message) {
         if (!message.ok()) return done(message.status());
         done(base::Annotate(StatusOfPong(*message), "node " + AddressOf(node)));
       });
}

absl::StatusOr<transport::ConnectionInfo> DataClient::Describe(NodeIndex node) {
  transport::ConnectionId connection = 0;
  {
    std::lock_guard lock(mutex_);
    connection = nodes_.at(node)->connection;
  }
  if (connection == 0) return absl::UnavailableError("not connected");
  return transport_->Describe(connection);
}

DataClientCounters DataClient::counters() const {
  std::lock_guard lock(mutex_);
  return counters_;
}

void DataClient::CountSent(const Pending& pending, const transport::Message& message) {
  counters_.bytes_sent += WireBytes(message);
  if (pending.attend) counters_.attend_bytes_sent += WireBytes(message);
}

void DataClient::Send(NodeIndex node, uint64_t ticket, transport::Message message,
                      transport::SendMode mode, base::Duration deadline, bool attend, Finish finish,
                      bool trial) {
  transport::ConnectionId connection = 0;
  {
    std::lock_guard lock(mutex_);
    ++counters_.requests;
    Node& entry = *nodes_.at(node);
    if (pending_.size() >= options_.max_pending) {
      ++counters_.failures;
      return FailLater(std::move(finish), absl::ResourceExhaustedError(absl::StrCat(
                                              "node ", entry.address, ": ", pending_.size(),
                                              " requests wait for their answers already")));
    }
    if (entry.away && !trial) {
      ++counters_.failures;
      ++counters_.refused_away;
      return FailLater(std::move(finish), AwayStatus(entry));
    }
    connection = entry.connection;
    Pending& pending = pending_[ticket];
    pending.node = node;
    pending.connection = connection;
    pending.deadline = deadline;
    pending.attend = attend;
    pending.finish = std::move(finish);
    pending.until = executor_->clock().Now() + deadline;
    if (options_.retry && !message.payload.empty()) pending.again = CopyOf(message);
    pending.timer = At(pending.until, [this, ticket] { OnDeadline(ticket); });
    if (connection != 0) {
      CountSent(pending, message);
    } else {
      entry.waiting.push_back({ticket, std::move(message), mode});
      if (entry.connecting) return;
      entry.connecting = true;
      ++connecting_;
    }
  }
  if (connection != 0) return transport_->Send(connection, std::move(message), mode, nullptr);
  Connect(node);
}

// The transport may look up a name: not under mutex_, which the events of all nodes need.
void DataClient::Connect(NodeIndex node) {
  const std::string address = AddressOf(node);
  absl::StatusOr<transport::ConnectionId> connected = transport_->Connect(address);
  std::vector<Waiting> ready;
  std::vector<Pending> lost;
  {
    std::lock_guard lock(mutex_);
    Node& entry = *nodes_.at(node);
    if (connected.ok()) {
      const auto ended = ended_early_.find(*connected);
      if (ended != ended_early_.end()) {
        connected = absl::UnavailableError(ended->second.ok() ? "closed the connection"
                                                              : base::MessageOf(ended->second));
      }
    }
    entry.connecting = false;
    if (--connecting_ == 0) ended_early_.clear();
    if (connected.ok()) {
      entry.connection = *connected;
      connections_[*connected] = node;
      entry.heartbeat = policy::Heartbeat(executor_->clock().Now());
      entry.heard = false;
      StartBeating(node);
    } else if (absl::IsUnavailable(connected.status())) {
      MarkAway(node, executor_->clock().Now(), base::MessageOf(connected.status()));
    }
    for (Waiting& waiting : std::exchange(entry.waiting, {})) {
      const auto found = pending_.find(waiting.ticket);
      if (found == pending_.end()) continue;  // too late
      if (connected.ok()) {
        found->second.connection = *connected;
        CountSent(found->second, waiting.message);
        ready.push_back(std::move(waiting));
        continue;
      }
      ++counters_.failures;
      lost.push_back(std::move(found->second));
      pending_.erase(found);
    }
  }
  for (Waiting& waiting : ready) {
    transport_->Send(*connected, std::move(waiting.message), waiting.mode, nullptr);
  }
  for (Pending& pending : lost) {
    CancelTimers(pending);
    FailLater(std::move(pending.finish), base::Annotate(connected.status(), "node " + address));
  }
}

void DataClient::FailLater(Finish finish, absl::Status status) {
  executor_->Run([finish = std::move(finish), status] { finish(status); });
}

void DataClient::OnAccept(transport::ConnectionId connection, const std::string&) {
  transport_->Close(connection);  // nobody is expected to connect to the asking side
}

void DataClient::OnMessage(transport::ConnectionId connection, transport::Message message) {
  const absl::StatusOr<Envelope> envelope = DecodeEnvelope(message);
  Pending answered;
  {
    std::lock_guard lock(mutex_);
    const auto owner = connections_.find(connection);
    if (owner == connections_.end()) return;
    nodes_[owner->second]->heartbeat.Heard(executor_->clock().Now());
    nodes_[owner->second]->heard = true;
    counters_.bytes_received += WireBytes(message);
    if (envelope.ok() && IsAnswer(envelope->kind)) {
      const auto found = pending_.find(envelope->ticket);
      if (found == pending_.end() || found->second.connection != connection) return;
      if (found->second.attend) counters_.attend_bytes_received += WireBytes(message);
      if (absl::IsResourceExhausted(envelope->status) && envelope->retry_after_us > 0) {
        ++counters_.refusals;
        if (RetryLater(envelope->ticket, *envelope)) return;
      }
      answered = std::move(found->second);
      pending_.erase(found);
    }
  }
  if (!envelope.ok()) {
    std::vector<Pending> lost;
    {
      std::lock_guard lock(mutex_);
      lost = TakeAll(connection);
    }
    transport_->Close(connection);
    return Fail(std::move(lost), envelope.status());
  }
  if (answered.finish != nullptr) {
    CancelTimers(answered);
    answered.finish(std::move(message));
  } else if (envelope->kind == MessageKind::kPing) {
    Envelope pong = *envelope;
    pong.kind = MessageKind::kPong;
    transport_->Send(connection, EncodeBare(pong), transport::SendMode::kEager, nullptr);
  }
}

void DataClient::OnClosed(transport::ConnectionId connection, absl::Status reason) {
  std::vector<Pending> lost;
  {
    std::lock_guard lock(mutex_);
    const auto owner = connections_.find(connection);
    if (owner != connections_.end() && !nodes_[owner->second]->heard && !reason.ok()) {
      MarkAway(owner->second, executor_->clock().Now(), base::MessageOf(reason));
    } else if (connecting_ > 0 && owner == connections_.end()) {
      ended_early_[connection] = reason;
    }
    lost = TakeAll(connection);
  }
  Fail(std::move(lost), reason);
  // A timer may be calling the transport about this connection. The transport lives at least until
  // we return: it reports the end of every connection before its own.
  std::unique_lock lock(mutex_);
  call_done_.wait(lock, [&] { return in_call_.count(connection) == 0; });
}

// Under mutex_: the connection is forgotten, and what was in flight on it handed over.
std::vector<DataClient::Pending> DataClient::TakeAll(transport::ConnectionId connection) {
  const auto owner = connections_.find(connection);
  if (owner != connections_.end()) {
    Node& node = *nodes_[owner->second];
    if (node.connection == connection) node.connection = 0;
    connections_.erase(owner);
  }
  std::vector<Pending> lost;
  for (auto entry = pending_.begin(); entry != pending_.end();) {
    if (entry->second.connection != connection) {
      ++entry;
      continue;
    }
    lost.push_back(std::move(entry->second));
    entry = pending_.erase(entry);
    ++counters_.failures;
  }
  return lost;
}

void DataClient::Fail(std::vector<Pending> lost, const absl::Status& reason) {
  if (lost.empty()) return;
  const std::string address = AddressOf(lost.front().node);
  const std::string why = reason.ok() ? "closed the connection" : base::MessageOf(reason);
  for (Pending& pending : lost) {
    CancelTimers(pending);
    pending.finish(absl::UnavailableError(absl::StrCat("node ", address, ": ", why)));
  }
}

}  // namespace sounder::wire
