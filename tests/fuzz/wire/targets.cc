#include "tests/fuzz/wire/targets.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <vector>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/wire/codec.h"
#include "common/wire/codec_parts.h"
#include "common/wire/control_codec.h"

namespace sounder::fuzz {
namespace {

using transport::Message;

constexpr wire::MessageKind kKindsWithItems[] = {
    wire::MessageKind::kAttend, wire::MessageKind::kAttendReply,
    wire::MessageKind::kAppend, wire::MessageKind::kAppendReply,
    wire::MessageKind::kFetch,  wire::MessageKind::kFetchReply};

Message CopyOf(const Message& message) {
  return {message.header, memory::AlignedBuffer::CopyOf(message.payload.bytes())};
}

// The tensor lies in the payload and has `count` elements. Every byte is read.
template <typename T>
void CheckTensor(const memory::AlignedBuffer& payload, std::span<const T> tensor, uint64_t count) {
  CHECK(tensor.size() == count) << tensor.size() << " " << count;
  if (count == 0) return;
  const std::span<const std::byte> bytes = std::as_bytes(tensor);
  CHECK(bytes.data() >= payload.data());
  CHECK(bytes.data() + bytes.size() <= payload.data() + payload.size());
  CHECK(reinterpret_cast<uintptr_t>(bytes.data()) % memory::kAlignment == 0);
  volatile unsigned sum = 0;
  for (const std::byte byte : bytes) sum = sum + static_cast<unsigned>(byte);
}

void CheckDims(uint32_t layer, uint32_t head_begin, uint32_t heads, uint32_t dim) {
  CHECK(layer < base::kMaxLayers);
  CHECK(heads > 0 && uint64_t{head_begin} + heads <= base::kMaxKvHeads);
  CHECK(dim > 0 && dim % 8 == 0 && dim <= base::kMaxHeadDim);
}

void CheckRange(base::PositionRange range) {
  CHECK(range.begin >= 0 && range.begin <= range.end && range.end <= base::kMaxPositions);
}

void CheckItem(const memory::AlignedBuffer& payload, const wire::AttendItem& item) {
  CheckDims(item.layer, item.kv_head_begin, item.kv_head_count, item.head_dim);
  CheckRange(item.range);
  CHECK(item.group > 0 && item.group <= base::kMaxGroup);
  CHECK(item.query_count > 0 && item.query_count <= base::kMaxQueryBlock);
  CHECK(item.query_dtype <= base::DType::kBF16);
  CHECK(item.attention <= wire::AttentionKind::kSketch);
  CHECK(item.row_format <= wire::RowFormat::kInt8);
  CHECK(item.rows_budget >= 0 && item.rows_budget <= 1);
  const uint64_t rows = uint64_t{item.query_count} * item.query_heads();
  CheckTensor(payload, item.queries, rows * item.head_dim * base::SizeOf(item.query_dtype));
  CheckTensor(payload, item.signatures, rows * item.signature_words);
  CheckTensor(payload, item.lse_hints, item.lse_hints.empty() ? 0 : rows);
  for (const float hint : item.lse_hints) CHECK(std::isfinite(hint));
  CheckTensor(payload, item.head_hints, item.head_hints.empty() ? 0 : item.kv_head_count);
  for (const wire::HeadHint& hint : item.head_hints) {
    CHECK(hint.mean_size >= 0 && hint.mean_size <= 1);
    CHECK(hint.uniform_fraction >= 0 && hint.uniform_fraction <= 1);
  }
}

void CheckItem(const memory::AlignedBuffer& payload, const wire::AttendReplyItem& item) {
  if (!item.status.ok()) {
    CHECK(item.status.message().size() <= wire::kMaxStatusMessage);
    CHECK(item.outputs.empty() && item.lse.empty() && item.error_terms.empty() &&
          item.head_mass.empty());
    return;
  }
  CheckRange(item.covered);
  const uint64_t rows = uint64_t{item.query_count} * item.query_heads;
  CheckTensor(payload, item.outputs, rows * item.head_dim);
  CheckTensor(payload, item.lse, rows);
  CheckTensor(payload, item.error_terms, item.error_terms.empty() ? 0 : rows);
  CheckTensor(payload, item.head_mass, item.head_mass.size());
  CHECK(item.head_mass.size() <= base::kMaxKvHeads);
  for (const float mass : item.head_mass) CHECK(std::isfinite(mass) && mass >= 0);
}

void CheckItem(const memory::AlignedBuffer& payload, const wire::AppendItem& item) {
  CheckDims(item.layer, item.kv_head_begin, item.kv_head_count, item.head_dim);
  CheckRange(item.range());
  CHECK(item.dtype <= base::DType::kBF16);
  CheckTensor(payload, item.keys, item.kv_head_count * item.head_bytes());
  CheckTensor(payload, item.values, item.kv_head_count * item.head_bytes());
  CheckTensor(payload, item.tokens, item.tokens.empty() ? 0 : item.row_count);
}

void CheckItem(const memory::AlignedBuffer& payload, const wire::FetchReplyItem& item) {
  CheckTensor(payload, item.keys, item.keys.size());
  CHECK(item.keys.size() == item.values.size());
  if (!item.status.ok()) {
    CHECK(item.keys.empty() && item.tokens.empty());
    return;
  }
  CHECK(item.kv_head_count <= base::kMaxKvHeads && item.head_dim <= base::kMaxHeadDim);
  CHECK(item.dtype <= base::DType::kBF16);
  CHECK(item.keys.size() == item.row_bytes());
  CheckTensor(payload, item.values, item.row_bytes());
  CheckTensor(payload, item.tokens, item.tokens.empty() ? 0 : item.row_count);
}

// Has no tensors.
void CheckFetch(const wire::FetchItem& item) {
  CHECK(item.kv_head_count > 0 || item.want_tokens);
  CheckDims(item.layer, item.kv_head_begin, std::max(item.kv_head_count, 1u), item.head_dim);
  CheckRange(item.range);
  CHECK(item.dtype <= base::DType::kBF16);
  CHECK(static_cast<uint64_t>(item.range.size()) * sizeof(int32_t) <= base::kMaxPayloadBytes);
}

// What was accepted says the same when it is written and read again: the item tables are equal
// byte by byte in their second and third writing.
template <typename Decoded>
void CheckAgain(const Decoded& decoded, absl::StatusOr<Decoded> (*decode)(Message)) {
  const Message second = wire::Encode(decoded);
  const absl::StatusOr<Decoded> again = decode(CopyOf(second));
  CHECK(again.ok()) << again.status().ToString();
  const Message third = wire::Encode(*again);
  CHECK(second.header == third.header);
  CHECK(second.payload.size() == third.payload.size());
  CHECK(std::memcmp(second.payload.data(), third.payload.data(), second.payload.size()) == 0);
}

template <typename Decoded>
bool RunItems(const Message& message, absl::StatusOr<Decoded> (*decode)(Message)) {
  const absl::StatusOr<Decoded> decoded = decode(CopyOf(message));
  if (!decoded.ok()) return false;
  CHECK(decoded->items.size() <= base::kMaxItems);
  if constexpr (std::is_same_v<Decoded, wire::FetchRequest>) {
    for (const wire::FetchItem& item : decoded->items) CheckFetch(item);
  } else if constexpr (!std::is_same_v<Decoded, wire::AppendReply>) {
    for (const auto& item : decoded->items) CheckItem(decoded->payload, item);
  }
  CheckAgain(*decoded, decode);
  return true;
}

bool RunHeader(std::span<const std::byte> bytes) {
  Message message;
  message.header.assign(bytes.begin(), bytes.end());
  const bool unsealed = RunMessage(message);
  const XXH64_hash_t seal = XXH3_64bits(bytes.data(), bytes.size());
  const auto* const raw = reinterpret_cast<const std::byte*>(&seal);
  message.header.insert(message.header.end(), raw, raw + sizeof seal);
  return RunMessage(message) || unsealed;
}

bool RunItemTable(std::span<const std::byte> bytes) {
  ItemsShape given;
  if (bytes.size() < sizeof given) return false;
  std::memcpy(&given, bytes.data(), sizeof given);
  bytes = bytes.subspan(sizeof given);
  Message message;
  message.payload = memory::AlignedBuffer::Zeroed(wire::Padded(bytes.size()));
  if (!bytes.empty()) std::memcpy(message.payload.data(), bytes.data(), bytes.size());
  wire::Envelope envelope;
  envelope.kind = kKindsWithItems[given.kind % std::size(kKindsWithItems)];
  message.header =
      wire::EncodeHeader(envelope, {given.item_count, given.item_table_bytes,
                                    static_cast<uint32_t>(message.payload.size()),
                                    XXH3_64bits(message.payload.data(), message.payload.size())});
  return RunMessage(message);
}

template <typename Root, typename Value>
bool RunControlValue(const absl::StatusOr<Value>& value) {
  if (!value.ok()) return false;
  capnp::MallocMessageBuilder second;
  wire::Put(*value, second.initRoot<Root>());
  const absl::StatusOr<Value> again = wire::Get(second.getRoot<Root>().asReader());
  CHECK(again.ok()) << again.status().ToString();
  capnp::MallocMessageBuilder third;
  wire::Put(*again, third.initRoot<Root>());
  const auto second_words = capnp::messageToFlatArray(second);
  const auto third_words = capnp::messageToFlatArray(third);
  CHECK(second_words.asBytes() == third_words.asBytes());
  return true;
}

bool RunControl(std::span<const std::byte> bytes) {
  std::vector<capnp::word> words(bytes.size() / sizeof(capnp::word));
  if (words.empty()) return false;
  std::memcpy(static_cast<void*>(words.data()), bytes.data(), words.size() * sizeof(capnp::word));
  bool accepted = false;
  const auto with_reader = [&](auto read) {
    try {
      capnp::FlatArrayMessageReader reader(kj::arrayPtr(words.data(), words.size()));
      accepted = read(reader) || accepted;
    } catch (const kj::Exception&) {
      // Malformed as a message; the RPC system catches it in the same way.
    }
  };
  with_reader([](capnp::MessageReader& reader) {
    return RunControlValue<proto::SessionSpec>(wire::Get(reader.getRoot<proto::SessionSpec>()));
  });
  with_reader([](capnp::MessageReader& reader) {
    return RunControlValue<proto::SessionInfo>(wire::Get(reader.getRoot<proto::SessionInfo>()));
  });
  with_reader([](capnp::MessageReader& reader) {
    return RunControlValue<proto::NodeStatus>(
        absl::StatusOr<wire::NodeStatus>(wire::Get(reader.getRoot<proto::NodeStatus>())));
  });
  with_reader(
      [](capnp::MessageReader& reader) { return wire::Get(reader.getRoot<proto::Status>()).ok(); });
  return accepted;
}

}  // namespace

bool RunMessage(const Message& message) {
  bool accepted = false;
  const absl::StatusOr<wire::Envelope> envelope = wire::DecodeEnvelope(message);
  if (envelope.ok()) {
    CHECK(envelope->kind >= wire::MessageKind::kAttend);
    CHECK(envelope->kind <= wire::MessageKind::kFetchReply);
    const auto again = wire::DecodeEnvelope(wire::EncodeBare(*envelope));
    CHECK(again.ok() && again->ticket == envelope->ticket && again->status == envelope->status);
    accepted = message.payload.empty();
  }
  int decoders = 0;
  decoders += RunItems<wire::AttendRequest>(message, wire::DecodeAttend);
  decoders += RunItems<wire::AttendReply>(message, wire::DecodeAttendReply);
  decoders += RunItems<wire::AppendRequest>(message, wire::DecodeAppend);
  decoders += RunItems<wire::AppendReply>(message, wire::DecodeAppendReply);
  decoders += RunItems<wire::FetchRequest>(message, wire::DecodeFetch);
  decoders += RunItems<wire::FetchReply>(message, wire::DecodeFetchReply);
  CHECK(decoders <= 1) << "a message of two kinds";
  CHECK(decoders == 0 || envelope.ok());
  return accepted || decoders > 0;
}

std::span<const WireTarget> WireTargets() {
  static constexpr WireTarget kTargets[] = {
      {"wire_header", RunHeader}, {"wire_items", RunItemTable}, {"wire_control", RunControl}};
  return kTargets;
}

std::string ItemsInput(const Message& message) {
  wire::PayloadShape shape;
  const auto envelope = wire::DecodeHeader(message.header, &shape);
  CHECK(envelope.ok());
  const auto kind =
      std::find(std::begin(kKindsWithItems), std::end(kKindsWithItems), envelope->kind);
  const ItemsShape head{static_cast<uint32_t>(kind - std::begin(kKindsWithItems)), shape.item_count,
                        shape.item_table_bytes};
  std::string input(reinterpret_cast<const char*>(&head), sizeof head);
  return input.append(reinterpret_cast<const char*>(message.payload.data()),
                      message.payload.size());
}

std::string HeaderInput(const Message& message) {
  const size_t bytes = message.header.size() - sizeof(XXH64_hash_t);
  return {reinterpret_cast<const char*>(message.header.data()), bytes};
}

}  // namespace sounder::fuzz
