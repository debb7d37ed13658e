// Errors of messages that no program of ours sends.
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "tests/errors/error_case.h"
#include "tests/errors/world.h"

namespace sounder::tests {
namespace {

using enum absl::StatusCode;
using kv_node::SessionDriver;
using transport::Message;

template <typename Change>
absl::Status AttendOf(Change change) {
  World world;
  const auto session = world.OpenSpec(SessionDriver::Spec(1));
  wire::AttendItem item = SessionDriver::Query(*session, 0, 0, {0, 0});
  change(item);
  return world.Send(item);
}

template <typename Change>
absl::Status AppendOf(Change change) {
  World world;
  const auto session = world.OpenSpec(SessionDriver::Spec(1));
  wire::AppendItem item = SessionDriver::Item(*session, 1, 0, 0, 1);
  change(item);
  return world.Send({item});
}

absl::Status FetchOf(uint32_t heads, int64_t rows) {
  World world;
  const auto session = world.OpenSpec(SessionDriver::Spec(1));
  wire::FetchItem item;
  item.session = session->spec().session;
  item.kv_head_count = heads;
  item.head_dim = 16;
  item.range = {0, rows};
  return world.Send(item);
}

// An attend whose hints are of no use.
absl::Status Hinted(bool heads) {
  World world;
  const auto session = world.OpenSpec(SessionDriver::Spec(1));
  wire::Tensors tensors(1);
  wire::AttendItem item = SessionDriver::Query(*session, 0, 0, {0, 0});
  wire::Fill(&item, /*hints=*/true, &tensors);
  std::vector<float> lse(item.lse_hints.begin(), item.lse_hints.end());
  std::vector<wire::HeadHint> means(item.head_hints.begin(), item.head_hints.end());
  if (heads) means[0].mean_size = 2;
  if (!heads) lse[0] = std::numeric_limits<float>::quiet_NaN();
  item.lse_hints = lse;
  item.head_hints = means;
  wire::AttendRequest request;
  request.envelope.kind = wire::MessageKind::kAttend;
  request.items.push_back(item);
  base::VirtualExecutor executor(1);
  kv_node::ServerDriver driver(&executor);
  driver.server.OnMessage(1, wire::Encode(request));
  std::vector<Message> answers = driver.transport.Take();
  return wire::DecodeEnvelope(answers.at(0))->status;
}

absl::Status WideAttend() {
  World world;
  wire::SessionSpec spec = SessionDriver::Spec(1);
  spec.model.head_dim = 512;
  spec.lsh = {};
  const auto session = world.OpenSpec(spec);
  wire::AttendItem item = SessionDriver::Query(*session, 0, 0, {0, 0});
  item.query_count = base::kMaxQueryBlock;
  item.query_dtype = base::DType::kBF16;
  item.group = 16;
  item.kv_head_count = 2;
  return world.Send(item);
}

absl::Status Shaped(const std::function<void(wire::PayloadShape&)>& change) {
  return WhenAppendArrivesAs(
      [&change](Message message) { return WithShape(std::move(message), change); });
}
// The message with a payload of so many bytes; tear: its beginning makes no sense.
Message Repack(Message message, size_t bytes, bool tear = false) {
  memory::AlignedBuffer payload = memory::AlignedBuffer::Zeroed(bytes);
  std::memcpy(payload.data(), message.payload.data(), std::min(bytes, message.payload.size()));
  if (tear) std::memset(payload.data(), 0xff, 8);
  const uint64_t checksum = XXH3_64bits(payload.data(), bytes);
  message.payload = std::move(payload);
  return WithShape(std::move(message), [&](wire::PayloadShape& shape) {
    shape.payload_bytes = static_cast<uint32_t>(bytes);
    shape.checksum = checksum;
  });
}
absl::Status Repacked(size_t bytes, bool tear = false) {
  return WhenAppendArrivesAs(
      [=](Message message) { return Repack(std::move(message), bytes, tear); });
}

// The right answer under a header that was changed.
absl::Status WithHeader(const std::function<void(std::vector<std::byte>&)>& change) {
  return WhenAttendIsAnswered([&change](const Message& message) {
    std::vector<Message> answers = wire::RightAnswer(message);
    change(answers.at(0).header);
    return answers;
  });
}

absl::Status WithPayload(const std::function<Message(Message)>& change) {
  return WhenAttendIsAnswered([&change](const Message& message) {
    std::vector<Message> answers = wire::RightAnswer(message);
    answers.at(0) = change(std::move(answers.at(0)));
    return answers;
  });
}

// Flips single bytes of a header until what is wrong with it is the version.
void ChangeVersion(std::vector<std::byte>& header) {
  for (std::byte& byte : header) {
    byte ^= std::byte{4};
    if (absl::IsFailedPrecondition(wire::DecodeEnvelope({header, {}}).status())) return;
    byte ^= std::byte{4};
  }
  CHECK(false) << "no version in the header";
}

// An answer without content, of a kind that may be another one than was asked for.
absl::Status Enveloped(wire::MessageKind kind) {
  return WhenAttendIsAnswered([kind](const Message& message) {
    wire::Envelope envelope = *wire::DecodeEnvelope(message);
    envelope.kind = kind;
    std::vector<Message> answers;
    answers.push_back(wire::EncodeBare(envelope));
    return answers;
  });
}

// What is said of an answer without items.
template <typename Reply>
absl::Status Empty(wire::MessageKind kind, absl::Status (*when)(const wire::DataNode::Answer&)) {
  return when([kind](const Message& message) {
    Reply reply;
    reply.envelope = *wire::DecodeEnvelope(message);
    reply.envelope.kind = kind;
    std::vector<Message> answers;
    answers.push_back(wire::Encode(reply));
    return answers;
  });
}

absl::Status PingedWrongly() {
  base::VirtualExecutor executor(1);
  transport::LoopbackFabric fabric(&executor);
  wire::DataNode node(&fabric, "node0:7401");
  node.SetAnswer([](const Message& message) {
    wire::Envelope envelope = *wire::DecodeEnvelope(message);
    envelope.kind = wire::MessageKind::kAttendReply;
    std::vector<Message> answers;
    answers.push_back(wire::EncodeBare(envelope));
    return answers;
  });
  auto transport = std::make_unique<transport::LoopbackTransport>(&fabric, "status:0");
  wire::DataClient client(transport.get(), &executor, {});
  CHECK(transport->Start(&client).ok());
  absl::Status answered;
  client.Ping(client.AddNode("node0:7401"), std::chrono::seconds(1),
              [&answered](absl::Status status) { answered = std::move(status); });
  executor.RunUntil([&answered] { return !answered.ok(); });
  transport = nullptr;
  return answered;
}

absl::Status WhenFetchedHas(const std::function<void(wire::FetchReplyItem&)>& change) {
  return WhenFetchIsAnswered([&change](const Message& message) {
    wire::Tensors tensors(1);
    wire::FetchReply reply;
    reply.envelope = *wire::DecodeEnvelope(message);
    reply.envelope.kind = wire::MessageKind::kFetchReply;
    reply.items.push_back(wire::SmallFetchReply(&tensors));
    change(reply.items[0]);
    wire::Fill(&reply.items[0], /*tokens=*/false, &tensors);
    std::vector<Message> answers;
    answers.push_back(wire::Encode(reply));
    return answers;
  });
}

}  // namespace

ErrorGroup RequestErrors() {
  return {
      "Malformed requests",
      "What a node answers to bytes that none of our programs sends: a client of yours is wrong, "
      "or it is of another release.\nWhat cannot be read at all ends its connection and is logged "
      "with the peer's address\n"
      "(`sounder_node_refused_connections_total{cause=\"malformed\"}`).",
      {
          {kInvalidArgument,
           {{"layer <n>, expected less than <n>",
             [] { return AttendOf([](auto& item) { item.layer = base::kMaxLayers; }); }},
            {"kv heads [<n>, +<n>), expected one or more in [0, <n>)",
             [] { return AttendOf([](auto& item) { item.kv_head_begin = base::kMaxKvHeads; }); }},
            {"head dim <n>, expected a multiple of 8 up to <n>",
             [] { return AttendOf([](auto& item) { item.head_dim = 12; }); }},
            {"unknown dtype <n>, expected 0 to <n>",
             [] {
               return AttendOf([](auto& item) { item.query_dtype = static_cast<base::DType>(3); });
             }},
            {"unknown row format <n>, expected 0 to <n>",
             [] {
               return AttendOf(
                   [](auto& item) { item.row_format = static_cast<wire::RowFormat>(2); });
             }},
            {"unknown attention kind <n>, expected 0 to <n>",
             [] {
               return AttendOf(
                   [](auto& item) { item.attention = static_cast<wire::AttentionKind>(3); });
             }},
            {"malformed position range [<n>, <n>), expected ordered positions of 0 to <n>",
             [] { return AttendOf([](auto& item) {
                    item.range = {6, 5};
                  }); }},
            {"group of <n> query heads, expected 1 to <n>",
             [] { return AttendOf([](auto& item) { item.group = 0; }); }},
            {"block of <n> queries, expected 1 to <n>",
             [] { return AttendOf([](auto& item) { item.query_count = 0; }); }},
            {"layout position <n> and causal bound <n>, expected 0 and -1 (none) to <n>",
             [] { return AttendOf([](auto& item) { item.layout_position = -1; }); }},
            {"scale <x> and rows budget <x>, expected within a million of 0, and 0 to 1",
             [] { return AttendOf([](auto& item) { item.rows_budget = 2; }); }},
            {"signatures of <n> words, at most <n> are allowed",
             [] { return AttendOf([](auto& item) { item.signature_words = 257; }); }},
            {"an lse hint is <x>, expected finite", [] { return Hinted(/*heads=*/false); }},
            {"a head hint is mean size <x>, uniform fraction <x>; expected 0 to 1",
             [] { return Hinted(/*heads=*/true); }},
            {"append of <n> rows at position <n>, expected positions of 0 to <n>",
             [] { return AppendOf([](auto& item) { item.first_position = -1; }); }},
            {"the fetch asks for neither rows nor token ids", [] { return FetchOf(0, 4); }}},
           "A field is out of its bounds. The item it is of stands before: `item 3: ...`.",
           "Give what the message expects."},
          {kInvalidArgument,
           {{"the answer would take <n> bytes, at most <n> are allowed: ask for fewer queries at "
             "once",
             [] { return WideAttend(); }},
            {"the answer would take <n> bytes or more, at most <n> are allowed: ask for fewer rows "
             "at once",
             [] { return FetchOf(2, int64_t{1} << 30); }}},
           "The answer would not fit into a message.",
           "Ask for less at once."},
          {kInvalidArgument,
           {{"<n> items, at most <n> are allowed",
             [] { return Shaped([](auto& shape) { shape.item_count = base::kMaxItems + 1; }); }},
            {"an item table of <n> bytes does not fit into the payload of <n> bytes",
             [] { return Shaped([](auto& shape) { shape.item_table_bytes += 4; }); }},
            {"malformed item table: <reason>", [] { return Repacked(512, /*tear=*/true); }},
            {"the item table has <n> items, the header announces <n>",
             [] { return Shaped([](auto& shape) { shape.item_count = 2; }); }},
            {"the payload is too short for the item's tensors", [] { return Repacked(192); }},
            {"bytes left over behind the tensors", [] { return Repacked(4096); }}},
           "The message's parts do not fit together.",
           "Send messages that the client library makes."},
          {kDataLoss,
           {{"payload checksum mismatch",
             [] {
               return WhenAppendArrivesAs([](Message message) {
                 message.payload.data()[0] ^= std::byte{1};
                 return message;
               });
             }}},
           "Bytes changed on their way.",
           "Send it again. If it comes back, the network or the memory of a machine is faulty."},
      }};
}

ErrorGroup AnswerErrors() {
  return {
      "Malformed answers",
      "What a worker says of a node that answers something else than was asked: another program "
      "at that port, another\nrelease, a faulty network, or a mistake of ours. Nothing of such an "
      "answer is used.",
      {
          {kUnavailable,
           {{"data protocol version mismatch: the peer speaks version <n>, this side speaks "
             "version <n>",
             [] { return WithHeader(ChangeVersion); }}},
           "Worker and node are of different releases.",
           "Install the same release on both sides."},
          {kUnavailable,
           {{"header checksum mismatch",
             [] { return WithHeader([](auto& header) { header.back() ^= std::byte{1}; }); }},
            {"malformed header: <n> bytes, expected a multiple of 8 in 16 to <n>",
             [] { return WithHeader([](auto& header) { header.resize(9); }); }},
            {"malformed header: <reason>",
             [] { return WithHeader([](auto& header) { header[0] = std::byte{0xff}; }); }},
            {"payload of <n> bytes, the header announces <n>",
             [] {
               return WithPayload([](Message message) {
                 return WithShape(std::move(message),
                                  [](auto& shape) { shape.payload_bytes += 64; });
               });
             }},
            {"payload of <n> bytes, expected a multiple of <n> up to <n>",
             [] {
               return WithPayload([](Message message) { return Repack(std::move(message), 100); });
             }},
            {"unknown message kind <n>, expected 1 to <n>",
             [] { return Enveloped(static_cast<wire::MessageKind>(99)); }}},
           "The answer cannot be read. The connection is closed.",
           "Look what listens at the node's data address, and try again."},
          {kInvalidArgument,
           {{"message of kind <n>, expected <n>",
             [] { return Enveloped(wire::MessageKind::kAppendReply); }},
            {"an answer for <n> queries of <n> heads, dim <n>, with <n> masses, which is out of "
             "bounds",
             [] { return WhenAnswerHas([](auto& item) { item.query_count = 5000; }); }},
            {"an answer with <n> rows of dim <n> and <n> kv heads, which is out of bounds",
             [] { return WhenFetchedHas([](auto& item) { item.head_dim = 1000; }); }},
            {"the ends of <n> kv heads, at most <n> are allowed",
             [] { return DescribeOverTcp([](auto& info) { info.head_ends.assign(1025, 0); }); }},
            {"answered a ping with a message of kind <n>", [] { return PingedWrongly(); }},
            {"the mass of a head is <x>, expected 0 or more",
             [] {
               static constexpr float kMass[1] = {-1};
               return WhenAnswerHas([](auto& item) { item.head_mass = kMass; });
             }}},
           "The answer has something in it that no node says.",
           "As above; if worker and node are of one release, please report it."},
          {kInternal,
           {{"the answer has <n> items, asked were <n>",
             [] {
               return Empty<wire::AttendReply>(wire::MessageKind::kAttendReply,
                                               WhenAttendIsAnswered);
             }},
            {"the answer has <n> items, asked were <n>",
             [] {
               return Empty<wire::AppendReply>(wire::MessageKind::kAppendReply,
                                               WhenAppendIsAnswered);
             }},
            {"the answer has <n> items, asked was 1",
             [] {
               return Empty<wire::FetchReply>(wire::MessageKind::kFetchReply, WhenFetchIsAnswered);
             }},
            {"the answer covers something else than was asked for",
             [] { return WhenAnswerHas([](auto& item) {
                    item.covered = {0, 7};
                  }); }},
            {"the answer holds something else than was asked for",
             [] { return WhenFetchedHas([](auto& item) { item.row_count += 1; }); }}},
           "The answer can be read, but is none to the question.",
           "Please report it."},
      }};
}

}  // namespace sounder::tests
