// Messages of the data plane from their values: the input says what the fields of the items are,
// possible or not, and the tensors are made to fit. So every rule is reached without a table that
// is well formed by chance. A message is accepted exactly if all its items are allowed (and, of a
// fetch, the answer fits into a message), and then says what was written.
#include <cstdint>
#include <cstring>

#include "common/base/limits.h"
#include "common/wire/codec.h"
#include "tests/common/wire/wire_values.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/values.h"
#include "tests/fuzz/wire_checks.h"

namespace sounder::fuzz {
namespace {

constexpr uint64_t kMaxTensorBytes = 64 * 1024;

// Elements for all tensors of a message: they begin at the front of one buffer of values.
class Elements {
 public:
  explicit Elements(Values& values) : memory_(memory::AlignedBuffer::Zeroed(kMaxTensorBytes)) {
    const std::span<uint64_t> words = memory_.As<uint64_t>();
    for (size_t i = 0; i < 4; ++i) words[i] = values.Raw<uint64_t>();
  }
  // Points `tensor` to `count` elements; false if that is more than these tests take.
  template <typename T>
  bool Fill(std::span<const T>* tensor, unsigned __int128 count) const {
    if (count > kMaxTensorBytes / sizeof(T)) return false;
    *tensor = {reinterpret_cast<const T*>(memory_.data()), static_cast<size_t>(count)};
    return true;
  }

 private:
  memory::AlignedBuffer memory_;
};

wire::SessionRef TakeSession(Values& values) {
  return {{values.Raw<uint64_t>(), values.Raw<uint64_t>()}, values.Raw<uint64_t>()};
}

base::PositionRange TakeRange(Values& values) {
  const auto begin = static_cast<int64_t>(values.Number(0, 100));
  return {begin, static_cast<int64_t>(values.Number(static_cast<uint64_t>(begin), 100))};
}

absl::Status TakeStatus(Values& values) {
  const auto code = values.Number(0, 17) % 17;
  return absl::Status(static_cast<absl::StatusCode>(code), "text");
}

bool TakeItem(Values& values, const Elements& elements, wire::AttendItem* item) {
  item->session = TakeSession(values);
  item->sequence = values.Raw<uint64_t>();
  item->layer = values.Number32(0, 4);
  item->kv_head_begin = values.Number32(0, 4);
  item->kv_head_count = values.Number32(1, 3);
  item->group = values.Number32(1, 3);
  item->query_count = values.Number32(1, 3);
  item->head_dim = 8 * values.Number32(1, 2) + values.Raw<uint8_t>() / 200;
  item->query_dtype = static_cast<base::DType>(values.Number(0, 3));
  item->range = TakeRange(values);
  item->layout_position = static_cast<int64_t>(values.Number(0, 100));
  item->causal_from = static_cast<int64_t>(values.Number(0, 100) - 1);
  item->scale = values.Bool() ? values.Raw<float>() : 0.125f;
  item->attention = static_cast<wire::AttentionKind>(values.Number(0, 3));
  item->rows_budget = values.Bool() ? values.Raw<float>() : 0.5f;
  item->rows_cap = values.Raw<uint64_t>();
  item->signature_words = values.Number32(0, 3);
  item->want_error_terms = values.Bool();
  item->row_format = static_cast<wire::RowFormat>(values.Number(0, 2));
  using Wide = unsigned __int128;
  const Wide rows = uint64_t{item->query_count} * item->query_heads();
  return elements.Fill(&item->queries, rows * item->head_dim * base::SizeOf(item->query_dtype)) &&
         elements.Fill(&item->signatures, rows * item->signature_words) &&
         elements.Fill(&item->lse_hints, values.Bool() ? rows : 0) &&
         elements.Fill(&item->head_hints, values.Bool() ? item->kv_head_count : 0);
}

bool TakeItem(Values& values, const Elements& elements, wire::AttendReplyItem* item) {
  item->status = TakeStatus(values);
  if (!item->status.ok()) return true;
  item->query_count = values.Number32(0, 4);
  item->query_heads = values.Number32(0, 8);
  item->head_dim = values.Number32(0, 20);
  item->covered = TakeRange(values);
  item->rows_visible = values.Raw<uint64_t>();
  item->rows_read = values.Raw<uint64_t>();
  item->rows_loaded = values.Raw<uint64_t>();
  item->rows_exact = values.Raw<uint64_t>();
  const unsigned __int128 rows = uint64_t{item->query_count} * item->query_heads;
  return elements.Fill(&item->outputs, rows * item->head_dim) && elements.Fill(&item->lse, rows) &&
         elements.Fill(&item->error_terms, values.Bool() ? rows : 0) &&
         elements.Fill(&item->head_mass, values.Number(0, 4));
}

bool TakeItem(Values& values, const Elements& elements, wire::AppendItem* item) {
  item->session = TakeSession(values);
  item->sequence = values.Raw<uint64_t>();
  item->layer = values.Number32(0, 4);
  item->kv_head_begin = values.Number32(0, 4);
  item->kv_head_count = values.Number32(1, 3);
  item->first_position = static_cast<int64_t>(values.Number(0, 100));
  item->row_count = values.Number32(0, 5);
  item->head_dim = 8 * values.Number32(1, 2) + values.Raw<uint8_t>() / 200;
  item->dtype = static_cast<base::DType>(values.Number(0, 3));
  item->seal_after = values.Bool();
  const unsigned __int128 bytes =
      static_cast<unsigned __int128>(item->head_bytes()) * item->kv_head_count;
  return elements.Fill(&item->keys, bytes) && elements.Fill(&item->values, bytes) &&
         elements.Fill(&item->tokens, values.Bool() ? item->row_count : 0);
}

bool TakeItem(Values& values, const Elements&, wire::AppendReplyItem* item) {
  item->status = TakeStatus(values);
  item->applied_sequence = values.Raw<uint64_t>();
  item->credit_bytes = values.Raw<uint32_t>();
  return true;
}

bool TakeItem(Values& values, const Elements&, wire::FetchItem* item) {
  item->session = TakeSession(values);
  item->sequence = values.Raw<uint64_t>();
  item->layer = values.Number32(0, 4);
  item->kv_head_begin = values.Number32(0, 4);
  item->kv_head_count = values.Number32(1, 3);
  item->range = TakeRange(values);
  item->head_dim = 8 * values.Number32(1, 2) + values.Raw<uint8_t>() / 200;
  item->dtype = static_cast<base::DType>(values.Number(0, 3));
  item->want_tokens = values.Bool();
  if (values.Below(4) == 3) item->kv_head_count = 0;
  return true;
}

bool TakeItem(Values& values, const Elements& elements, wire::FetchReplyItem* item) {
  item->status = TakeStatus(values);
  if (!item->status.ok()) return true;
  item->kv_head_count = values.Number32(0, 3);
  item->row_count = values.Number32(0, 5);
  item->head_dim = values.Number32(0, 20);
  item->dtype = static_cast<base::DType>(values.Number(0, 3));
  const unsigned __int128 bytes = static_cast<unsigned __int128>(item->kv_head_count) *
                                  item->row_count * item->head_dim * base::SizeOf(item->dtype);
  return elements.Fill(&item->keys, bytes) && elements.Fill(&item->values, bytes) &&
         elements.Fill(&item->tokens, values.Bool() ? item->row_count : 0);
}

bool AllAllowed(const wire::AppendReply&) { return true; }
bool AllAllowed(const auto& message) {
  return std::all_of(message.items.begin(), message.items.end(),
                     [](const auto& item) { return IsAllowed(item); });
}

// What a message takes beside its tensors is the node's to say: up to a page for every item.
bool MayBeRefused(const wire::FetchRequest& request) {
  return AnswerBytes(request) + 4096 * (request.items.size() + 1) > base::kMaxPayloadBytes;
}
bool MayBeRefused(const auto&) { return false; }

template <typename Message>
bool Run(wire::MessageKind kind, Values& values,
         absl::StatusOr<Message> (*decode)(transport::Message)) {
  Message message;
  message.envelope.kind = kind;
  message.envelope.ticket = values.Raw<uint64_t>();
  const Elements elements(values);
  while (!values.empty() && message.items.size() < 8) {
    if (!TakeItem(values, elements, &message.items.emplace_back())) return false;
  }
  const transport::Message written = wire::Encode(message);
  RunMessage(written);
  const absl::StatusOr<Message> read = decode(wire::CopyOf(written));
  CHECK(read.ok() ? AllAllowed(message) : !AllAllowed(message) || MayBeRefused(message))
      << read.status().ToString() << wire::Describe(message);
  if (read.ok()) CHECK(wire::Describe(*read) == wire::Describe(message));
  return read.ok();
}

}  // namespace

bool RunTarget(std::span<const std::byte> input) {
  Values values(input);
  switch (values.Raw<uint8_t>() % 6) {
    case 0:
      return Run(wire::MessageKind::kAttend, values, wire::DecodeAttend);
    case 1:
      return Run(wire::MessageKind::kAttendReply, values, wire::DecodeAttendReply);
    case 2:
      return Run(wire::MessageKind::kAppend, values, wire::DecodeAppend);
    case 3:
      return Run(wire::MessageKind::kAppendReply, values, wire::DecodeAppendReply);
    case 4:
      return Run(wire::MessageKind::kFetch, values, wire::DecodeFetch);
    default:
      return Run(wire::MessageKind::kFetchReply, values, wire::DecodeFetchReply);
  }
}

}  // namespace sounder::fuzz
