// The data plane's messages as plain values. codec.h turns them into transport::Message and back,
// and is the only place that judges bytes from outside. See proto/data.capnp for each field.
#ifndef SOUNDER_COMMON_WIRE_MESSAGES_H_
#define SOUNDER_COMMON_WIRE_MESSAGES_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/memory/aligned_buffer.h"

namespace sounder::wire {

inline constexpr uint16_t kProtocolVersion = 3;

enum class MessageKind : uint16_t {
  kNone = 0,
  kAttend = 1,
  kAttendReply = 2,
  kAppend = 3,
  kAppendReply = 4,
  kPing = 5,
  kPong = 6,
  kFetch = 7,
  kFetchReply = 8,
};

enum class AttentionKind : uint8_t { kExact = 0, kLshTables = 1, kSketch = 2 };

// What sampling reads; exact attention reads rows as they were appended.
enum class RowFormat : uint8_t { kAsAppended = 0, kInt8 = 1 };

struct Timings {
  uint32_t queue_us = 0;
  uint32_t wait_us = 0;
  uint32_t compute_us = 0;
  uint32_t merge_us = 0;
};

// What every message carries. `status`, `timings` and `retry_after_us` belong to answers.
struct Envelope {
  MessageKind kind = MessageKind::kNone;
  uint32_t tenant = 0;
  uint64_t ticket = 0;
  uint64_t trace_id = 0;
  uint32_t deadline_us = 0;
  absl::Status status;
  Timings timings;
  uint32_t retry_after_us = 0;
};

struct SessionRef {
  base::SessionId id;
  uint64_t epoch = 0;
};

// What the asking side knows about a kv head; proto/data.capnp says what it is good for.
struct HeadHint {
  float mean_size = 0;         // [0, 1]; 0: unknown
  float uniform_fraction = 0;  // [0, 1]; above 0: rows are drawn alike
};

// Per query head: terms of the variance of the output, and how concentrated attention is.
struct ErrorTerms {
  float a = 0;
  float b = 0;
  float concentration = 0;
};

// One block of queries of one session, layer and kv-head range. The spans point into memory of the
// sender, or into the payload of a decoded request.
struct AttendItem {
  SessionRef session;
  uint64_t sequence = 0;
  uint64_t step = 0;
  uint32_t layer = 0;
  uint32_t kv_head_begin = 0;
  uint32_t kv_head_count = 0;
  uint32_t group = 0;        // query heads per kv head
  uint32_t query_count = 0;  // T
  uint32_t head_dim = 0;
  base::DType query_dtype = base::DType::kF32;
  base::PositionRange range;
  base::Position layout_position = 0;
  base::Position causal_from = -1;
  float scale = 0;
  AttentionKind attention = AttentionKind::kExact;
  uint64_t sample_key = 0;
  float rows_budget = 0;
  uint64_t rows_cap = 0;
  uint32_t signature_words = 0;
  bool want_error_terms = false;
  RowFormat row_format = RowFormat::kAsAppended;

  std::span<const std::byte> queries;    // [T, query_heads(), head_dim] of query_dtype
  std::span<const uint64_t> signatures;  // [T, query_heads(), signature_words] or empty
  std::span<const float> lse_hints;      // [T, query_heads()] or empty
  std::span<const HeadHint> head_hints;  // [kv_head_count] or empty

  uint32_t query_heads() const { return kv_head_count * group; }
  // What its answer takes in a message, at most; of an item that was decoded.
  uint64_t reply_bytes() const;
};

struct AttendRequest {
  Envelope envelope;
  std::vector<AttendItem> items;
  memory::AlignedBuffer payload;  // what the spans point into, in a decoded request
};

struct AttendReplyItem {
  absl::Status status;
  uint32_t query_count = 0;
  uint32_t query_heads = 0;
  uint32_t head_dim = 0;
  base::PositionRange covered;
  uint64_t rows_visible = 0;
  uint64_t rows_read = 0;
  uint64_t rows_loaded = 0;
  uint64_t rows_exact = 0;

  std::span<const float> outputs;           // [T, query_heads, head_dim]
  std::span<const float> lse;               // [T, query_heads]
  std::span<const ErrorTerms> error_terms;  // [T, query_heads] or empty
  std::span<const float> head_mass;         // [kv heads] or empty
};

struct AttendReply {
  Envelope envelope;
  std::vector<AttendReplyItem> items;
  memory::AlignedBuffer payload;
};

// Rows of one session and layer at consecutive positions.
struct AppendItem {
  SessionRef session;
  uint64_t sequence = 0;
  uint32_t layer = 0;
  uint32_t kv_head_begin = 0;
  uint32_t kv_head_count = 0;
  base::Position first_position = 0;
  uint32_t row_count = 0;
  uint32_t head_dim = 0;
  base::DType dtype = base::DType::kF32;
  bool seal_after = false;

  std::span<const std::byte> keys;    // [kv_head_count, row_count, head_dim] of dtype
  std::span<const std::byte> values;  // the same
  std::span<const int32_t> tokens;    // [row_count] or empty

  size_t head_bytes() const { return size_t{row_count} * head_dim * base::SizeOf(dtype); }
  base::PositionRange range() const { return {first_position, first_position + row_count}; }
};

struct AppendRequest {
  Envelope envelope;
  std::vector<AppendItem> items;
  memory::AlignedBuffer payload;
};

struct AppendReplyItem {
  absl::Status status;
  uint64_t applied_sequence = 0;
  uint32_t credit_bytes = 0;  // 0: none given
};

struct AppendReply {
  Envelope envelope;
  std::vector<AppendReplyItem> items;
};

// Rows of one session and layer to be read back, and token ids.
struct FetchItem {
  SessionRef session;
  uint64_t sequence = 0;
  uint32_t layer = 0;
  uint32_t kv_head_begin = 0;
  uint32_t kv_head_count = 0;  // 0: token ids alone
  base::PositionRange range;
  uint32_t head_dim = 0;
  base::DType dtype = base::DType::kF32;
  bool want_tokens = false;

  uint64_t reply_bytes() const;  // as AttendItem's
};

struct FetchRequest {
  Envelope envelope;
  std::vector<FetchItem> items;
};

struct FetchReplyItem {
  absl::Status status;
  uint32_t kv_head_count = 0;
  uint32_t row_count = 0;
  uint32_t head_dim = 0;
  base::DType dtype = base::DType::kF32;

  std::span<const std::byte> keys;    // [kv_head_count, row_count, head_dim] of dtype
  std::span<const std::byte> values;  // the same
  std::span<const int32_t> tokens;    // [row_count] or empty

  size_t row_bytes() const {
    return size_t{kv_head_count} * row_count * head_dim * base::SizeOf(dtype);
  }
};

struct FetchReply {
  Envelope envelope;
  std::vector<FetchReplyItem> items;
  memory::AlignedBuffer payload;  // what the spans point into, in a decoded answer
};

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_MESSAGES_H_
