#include "tests/common/wire/data_world.h"

#include <gtest/gtest.h>

#include <cstring>

#include "common/base/absl_text.h"

namespace sounder::wire {

std::vector<transport::Message> RightAnswer(const transport::Message& message) {
  const absl::StatusOr<Envelope> envelope = DecodeEnvelope(message);
  if (!envelope.ok()) return {};
  transport::Message copy{message.header, memory::AlignedBuffer::CopyOf(message.payload.bytes())};
  std::vector<transport::Message> answers;
  if (envelope->kind == MessageKind::kPing) {
    Envelope pong = *envelope;
    pong.kind = MessageKind::kPong;
    answers.push_back(EncodeBare(pong));
  } else if (envelope->kind == MessageKind::kAttend) {
    const auto request = DecodeAttend(std::move(copy));
    AttendReply reply;
    reply.envelope = *envelope;
    reply.envelope.kind = MessageKind::kAttendReply;
    reply.envelope.status = request.status();
    const float zeros[9] = {};
    for (size_t i = 0; request.ok() && i < request->items.size(); ++i) {
      AttendReplyItem& item = reply.items.emplace_back();
      item.query_count = 1;
      item.query_heads = 1;
      item.head_dim = 8;
      item.rows_visible = request->items[i].sample_key;
      item.outputs = std::span(zeros).first(8);
      item.lse = std::span(zeros).last(1);
    }
    answers.push_back(Encode(reply));
  } else if (envelope->kind == MessageKind::kAppend) {
    const auto request = DecodeAppend(std::move(copy));
    AppendReply reply;
    reply.envelope = *envelope;
    reply.envelope.kind = MessageKind::kAppendReply;
    reply.envelope.status = request.status();
    for (size_t i = 0; request.ok() && i < request->items.size(); ++i) {
      reply.items.push_back({absl::OkStatus(), request->items[i].sequence});
    }
    answers.push_back(Encode(reply));
  }
  return answers;
}

Messages One(transport::Message message) {
  Messages messages;
  messages.push_back(std::move(message));
  return messages;
}

DataNode::DataNode(transport::LoopbackFabric* fabric, const std::string& address)
    : transport_(fabric, address) {
  EXPECT_TRUE(transport_.Start(this).ok());
  const auto real = transport_.Listen(address);
  EXPECT_TRUE(real.ok()) << real.status();
}

void DataNode::Send(transport::Message message) {
  transport::ConnectionId connection;
  {
    std::lock_guard lock(mutex_);
    connection = last_;
  }
  transport_.Send(connection, std::move(message), transport::SendMode::kEager, nullptr);
}

void DataNode::OnAccept(transport::ConnectionId connection, const std::string&) {
  std::lock_guard lock(mutex_);
  ++accepted_;
  last_ = connection;
}

void DataNode::OnMessage(transport::ConnectionId connection, transport::Message message) {
  Answer answer;
  {
    std::lock_guard lock(mutex_);
    if (auto envelope = DecodeEnvelope(message); envelope.ok()) envelopes_.push_back(*envelope);
    answer = answer_;
  }
  for (transport::Message& each : answer == nullptr ? RightAnswer(message) : answer(message)) {
    transport_.Send(connection, std::move(each), transport::SendMode::kEager, nullptr);
  }
}

void Ends::Note(const std::string& name, absl::Status status, uint64_t value) {
  std::lock_guard lock(mutex_);
  ends_.push_back({name, std::move(status), value});
  condition_->NotifyAll();
}

std::function<void(absl::Status)> Ends::Of(const std::string& name) {
  return [this, name](absl::Status status) { Note(name, std::move(status)); };
}

DataClient::Callback<AttendReply> Ends::OfAttend(const std::string& name) {
  return [this, name](absl::StatusOr<AttendReply> reply) {
    if (!reply.ok()) return Note(name, reply.status());
    Note(name, reply->envelope.status, reply->items.empty() ? 0 : reply->items[0].rows_visible);
  };
}

DataClient::Callback<AppendReply> Ends::OfAppend(const std::string& name) {
  return [this, name](absl::StatusOr<AppendReply> reply) {
    if (!reply.ok()) return Note(name, reply.status());
    Note(name, reply->envelope.status, reply->items.empty() ? 0 : reply->items[0].applied_sequence);
  };
}

bool Ends::WaitFor(size_t count) {
  std::unique_lock lock(mutex_);
  return condition_->WaitFor(lock, 10 * kPatience, [&] { return ends_.size() >= count; });
}

const Ends::End* Ends::Find(const std::string& name) const {
  const End* found = nullptr;
  for (const End& end : ends_) {
    if (end.name != name) continue;
    EXPECT_EQ(found, nullptr) << name << " ended twice";
    found = &end;
  }
  EXPECT_NE(found, nullptr) << name << " has not ended";
  return found;
}

absl::Status Ends::StatusOf(const std::string& name) const {
  std::lock_guard lock(mutex_);
  const End* end = Find(name);
  return end == nullptr ? absl::UnknownError("has not ended") : end->status;
}

uint64_t Ends::ValueOf(const std::string& name) const {
  std::lock_guard lock(mutex_);
  const End* end = Find(name);
  return end == nullptr || !end->status.ok() ? 0 : end->value;
}

AttendRequest AttendOf(uint64_t sample_key) {
  static const std::byte zeros[32] = {};
  AttendRequest request;
  request.envelope.tenant = 5;
  request.envelope.trace_id = 6;
  AttendItem& item = request.items.emplace_back();
  item.session.id = {1, 2};
  item.kv_head_count = 1;
  item.group = 1;
  item.query_count = 1;
  item.head_dim = 8;
  item.range = {0, 1};
  item.scale = 1;
  item.sample_key = sample_key;
  item.queries = zeros;
  return request;
}

AppendRequest AppendOf(uint64_t sequence) {
  static const std::byte zeros[32] = {};
  AppendRequest request;
  request.envelope.tenant = 7;
  AppendItem& item = request.items.emplace_back();
  item.session.id = {1, 2};
  item.sequence = sequence;
  item.kv_head_count = 1;
  item.row_count = 1;
  item.head_dim = 8;
  item.keys = zeros;
  item.values = zeros;
  return request;
}

DataWorld::DataWorld(std::unique_ptr<base::Executor> own_executor,
                     transport::LoopbackOptions options)
    : executor(std::move(own_executor)),
      fabric(executor.get(), options),
      ends(executor.get()),
      transport(std::make_unique<transport::LoopbackTransport>(&fabric, "worker:0")),
      client(std::make_unique<DataClient>(transport.get(), executor.get())) {
  EXPECT_TRUE(transport->Start(client.get()).ok());
}

void ExpectStatus(const absl::Status& status, absl::StatusCode code, const std::string& text) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_NE(base::MessageOf(status).find(text), std::string::npos) << status;
  EXPECT_NE(base::MessageOf(status).find("node "), std::string::npos) << status;
}

}  // namespace sounder::wire
