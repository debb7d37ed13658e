#include "tests/fuzz/wire_checks.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/wire/codec.h"
#include "common/wire/codec_parts.h"
#include "tests/common/wire/wire_values.h"
#include "tests/fuzz/target.h"

namespace sounder::fuzz {
namespace {

using transport::Message;

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

void CheckItem(const memory::AlignedBuffer& payload, const wire::AttendItem& item) {
  CHECK(IsAllowed(item));
  const uint64_t rows = uint64_t{item.query_count} * item.query_heads();
  CheckTensor(payload, item.queries, rows * item.head_dim * base::SizeOf(item.query_dtype));
  CheckTensor(payload, item.signatures, rows * item.signature_words);
  CheckTensor(payload, item.lse_hints, item.lse_hints.empty() ? 0 : rows);
  CheckTensor(payload, item.head_hints, item.head_hints.empty() ? 0 : item.kv_head_count);
}

void CheckItem(const memory::AlignedBuffer& payload, const wire::AttendReplyItem& item) {
  CHECK(IsAllowed(item));
  if (!item.status.ok()) {
    CHECK(item.status.message().size() <= wire::kMaxStatusMessage);
    CHECK(item.outputs.empty() && item.lse.empty() && item.error_terms.empty() &&
          item.head_mass.empty());
    return;
  }
  const uint64_t rows = uint64_t{item.query_count} * item.query_heads;
  CheckTensor(payload, item.outputs, rows * item.head_dim);
  CheckTensor(payload, item.lse, rows);
  CheckTensor(payload, item.error_terms, item.error_terms.empty() ? 0 : rows);
  CheckTensor(payload, item.head_mass, item.head_mass.size());
}

void CheckItem(const memory::AlignedBuffer& payload, const wire::AppendItem& item) {
  CHECK(IsAllowed(item));
  CheckTensor(payload, item.keys, item.kv_head_count * item.head_bytes());
  CheckTensor(payload, item.values, item.kv_head_count * item.head_bytes());
  CheckTensor(payload, item.tokens, item.tokens.empty() ? 0 : item.row_count);
}

void CheckItem(const memory::AlignedBuffer& payload, const wire::FetchReplyItem& item) {
  CHECK(IsAllowed(item));
  if (!item.status.ok()) {
    CHECK(item.status.message().size() <= wire::kMaxStatusMessage);
    CHECK(item.keys.empty() && item.values.empty() && item.tokens.empty());
    return;
  }
  CheckTensor(payload, item.keys, item.row_bytes());
  CheckTensor(payload, item.values, item.row_bytes());
  CheckTensor(payload, item.tokens, item.tokens.empty() ? 0 : item.row_count);
}

void CheckItems(const wire::FetchRequest& request) {
  for (const wire::FetchItem& item : request.items) CHECK(IsAllowed(item));
  CHECK(AnswerBytes(request) <= base::kMaxPayloadBytes);
}
void CheckItems(const wire::AppendReply& reply) {
  for (const wire::AppendReplyItem& item : reply.items) {
    CHECK(item.status.message().size() <= wire::kMaxStatusMessage);
  }
}
void CheckItems(const auto& message) {
  for (const auto& item : message.items) CheckItem(message.payload, item);
}

void CheckCodecRefusal(const absl::Status& status) {
  CheckRefusal(status, {absl::StatusCode::kInvalidArgument, absl::StatusCode::kFailedPrecondition,
                        absl::StatusCode::kDataLoss});
}

template <typename Decoded>
bool RunDecoder(const Message& message, absl::StatusOr<Decoded> (*decode)(Message)) {
  absl::StatusOr<Decoded> decoded = decode(wire::CopyOf(message));
  if (!decoded.ok()) {
    CheckCodecRefusal(decoded.status());
    return false;
  }
  CHECK(decoded->items.size() <= base::kMaxItems);
  CheckItems(*decoded);
  const absl::StatusOr<Decoded> again = decode(wire::Encode(*decoded));
  CHECK(again.ok()) << again.status().ToString();
  // Timings belong to answers to attend, and travel with no other message.
  if (decoded->envelope.kind != wire::MessageKind::kAttendReply) decoded->envelope.timings = {};
  CHECK(wire::Describe(*decoded) == wire::Describe(*again))
      << wire::Describe(*decoded) << "\nand again:\n"
      << wire::Describe(*again);
  return true;
}

bool InRange(base::PositionRange range) {
  return range.begin >= 0 && range.begin <= range.end && range.end <= base::kMaxPositions;
}

bool DimsAllowed(uint32_t layer, uint32_t head_begin, uint32_t heads, uint32_t dim) {
  return layer < base::kMaxLayers && heads > 0 &&
         uint64_t{head_begin} + heads <= base::kMaxKvHeads && dim > 0 && dim % 8 == 0 &&
         dim <= base::kMaxHeadDim;
}

bool IsShare(float value) { return value >= 0 && value <= 1; }

}  // namespace

bool IsAllowed(const wire::AttendItem& item) {
  const auto position = [](base::Position at, base::Position least) {
    return at >= least && at <= base::kMaxPositions;
  };
  return DimsAllowed(item.layer, item.kv_head_begin, item.kv_head_count, item.head_dim) &&
         InRange(item.range) && item.group > 0 && item.group <= base::kMaxGroup &&
         item.query_count > 0 && item.query_count <= base::kMaxQueryBlock &&
         item.query_dtype <= base::DType::kBF16 && item.attention <= wire::AttentionKind::kSketch &&
         item.row_format <= wire::RowFormat::kInt8 && position(item.layout_position, 0) &&
         position(item.causal_from, -1) && std::abs(item.scale) < 1e6f &&
         IsShare(item.rows_budget) &&
         item.signature_words <= base::kMaxTables * base::kMaxBitsPerTable / 64 &&
         std::all_of(item.lse_hints.begin(), item.lse_hints.end(),
                     [](float hint) { return std::isfinite(hint); }) &&
         std::all_of(item.head_hints.begin(), item.head_hints.end(), [](wire::HeadHint hint) {
           return IsShare(hint.mean_size) && IsShare(hint.uniform_fraction);
         });
}

bool IsAllowed(const wire::AttendReplyItem& item) {
  if (!item.status.ok()) return true;
  return InRange(item.covered) && item.query_count <= base::kMaxQueryBlock &&
         item.query_heads <= base::kMaxKvHeads * base::kMaxGroup &&
         item.head_dim <= base::kMaxHeadDim && item.head_mass.size() <= base::kMaxKvHeads &&
         std::all_of(item.head_mass.begin(), item.head_mass.end(),
                     [](float mass) { return std::isfinite(mass) && mass >= 0; });
}

bool IsAllowed(const wire::AppendItem& item) {
  return DimsAllowed(item.layer, item.kv_head_begin, item.kv_head_count, item.head_dim) &&
         item.dtype <= base::DType::kBF16 && item.first_position >= 0 &&
         item.first_position <= base::kMaxPositions - int64_t{item.row_count};
}

bool IsAllowed(const wire::FetchItem& item) {
  return (item.kv_head_count > 0 || item.want_tokens) &&
         DimsAllowed(item.layer, item.kv_head_begin, std::max(item.kv_head_count, 1u),
                     item.head_dim) &&
         InRange(item.range) && item.dtype <= base::DType::kBF16;
}

bool IsAllowed(const wire::FetchReplyItem& item) {
  if (!item.status.ok()) return true;
  return item.kv_head_count <= base::kMaxKvHeads && item.head_dim <= base::kMaxHeadDim &&
         item.dtype <= base::DType::kBF16;
}

unsigned __int128 AnswerBytes(const wire::FetchRequest& request) {
  unsigned __int128 bytes = 0;
  for (const wire::FetchItem& item : request.items) {
    const auto rows = static_cast<unsigned __int128>(item.range.size());
    bytes += 2 * rows * item.kv_head_count * item.head_dim * base::SizeOf(item.dtype);
    if (item.want_tokens) bytes += rows * sizeof(int32_t);
  }
  return bytes;
}

bool RunMessage(const Message& message) {
  bool accepted = false;
  absl::StatusOr<wire::Envelope> envelope = wire::DecodeEnvelope(message);
  if (envelope.ok()) {
    CHECK(envelope->kind >= wire::MessageKind::kAttend);
    CHECK(envelope->kind <= wire::MessageKind::kFetchReply);
    CHECK(envelope->status.message().size() <= wire::kMaxStatusMessage);
    const auto again = wire::DecodeEnvelope(wire::EncodeBare(*envelope));
    CHECK(again.ok()) << again.status().ToString();
    if (envelope->kind != wire::MessageKind::kAttendReply) envelope->timings = {};
    CHECK(wire::Describe(*envelope) == wire::Describe(*again)) << wire::Describe(*envelope);
    accepted = message.payload.empty();
  } else {
    CheckCodecRefusal(envelope.status());
  }
  int decoders = 0;
  decoders += RunDecoder<wire::AttendRequest>(message, wire::DecodeAttend);
  decoders += RunDecoder<wire::AttendReply>(message, wire::DecodeAttendReply);
  decoders += RunDecoder<wire::AppendRequest>(message, wire::DecodeAppend);
  decoders += RunDecoder<wire::AppendReply>(message, wire::DecodeAppendReply);
  decoders += RunDecoder<wire::FetchRequest>(message, wire::DecodeFetch);
  decoders += RunDecoder<wire::FetchReply>(message, wire::DecodeFetchReply);
  CHECK(decoders <= 1) << "a message of two kinds";
  CHECK(decoders == 0 || envelope.ok());
  return accepted || decoders > 0;
}

}  // namespace sounder::fuzz
