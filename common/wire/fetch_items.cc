#include "common/wire/fetch_items.h"

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace sounder::wire {
namespace {

// kv_head_count may be 0: token ids alone.
absl::Status CheckFetchDims(uint32_t layer, uint32_t head_begin, uint32_t heads, uint32_t dim,
                            bool tokens) {
  if (heads > 0) return CheckDims(layer, head_begin, heads, dim);
  if (!tokens) return absl::InvalidArgumentError("the fetch asks for neither rows nor token ids");
  return CheckDims(layer, head_begin, 1, dim);
}

}  // namespace

void PutFetchItem(const FetchItem& item, proto::FetchItem::Builder out) {
  Put(item.session, out.initSession());
  out.setSequence(item.sequence);
  out.setLayer(item.layer);
  out.setKvHeadBegin(item.kv_head_begin);
  out.setKvHeadCount(item.kv_head_count);
  out.setRangeBegin(item.range.begin);
  out.setRangeEnd(item.range.end);
  out.setHeadDim(item.head_dim);
  out.setDtype(static_cast<proto::DType>(item.dtype));
  out.setWantTokens(item.want_tokens);
}

absl::StatusOr<FetchItem> GetFetchItem(proto::FetchItem::Reader in) {
  FetchItem item;
  item.session = Get(in.getSession());
  item.sequence = in.getSequence();
  item.layer = in.getLayer();
  item.kv_head_begin = in.getKvHeadBegin();
  item.kv_head_count = in.getKvHeadCount();
  item.range = {in.getRangeBegin(), in.getRangeEnd()};
  item.head_dim = in.getHeadDim();
  ASSIGN_OR_RETURN(item.dtype, GetDType(in.getDtype()));
  item.want_tokens = in.getWantTokens();
  RETURN_IF_ERROR(CheckFetchDims(item.layer, item.kv_head_begin, item.kv_head_count, item.head_dim,
                                 item.want_tokens));
  RETURN_IF_ERROR(CheckRange(item.range));
  return item;
}

uint64_t FetchItem::reply_bytes() const {
  const auto rows = static_cast<uint64_t>(range.size());
  const uint64_t row_bytes = uint64_t{head_dim} * base::SizeOf(dtype);
  return kReplyRowBytes + 2 * (rows * kv_head_count * row_bytes + kTensorAlignment) +
         rows * sizeof(int32_t) + kTensorAlignment;
}

// Sums cannot overflow: every item is below 2^64 and refused alone if it is above the limit.
absl::Status CheckReplyFits(const std::vector<FetchItem>& items) {
  uint64_t bytes = kReplyRowBytes;
  for (const FetchItem& item : items) {
    bytes += item.reply_bytes();
    if (bytes > base::kMaxPayloadBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("the answer would take ", bytes, " bytes or more, at most ",
                       base::kMaxPayloadBytes, " are allowed: ask for fewer rows at once"));
    }
  }
  return absl::OkStatus();
}

void PutFetchReplyItem(const FetchReplyItem& item, proto::FetchReplyItem::Builder out,
                       TensorList* tensors) {
  if (!item.status.ok()) {
    out.setStatusCode(ToWireCode(item.status));
    out.setStatusMessage(ToWireText(item.status).c_str());
    return;
  }
  CHECK(item.keys.size() == item.row_bytes() && item.values.size() == item.row_bytes());
  CHECK(item.tokens.empty() || item.tokens.size() == item.row_count);
  out.setKvHeadCount(item.kv_head_count);
  out.setRowCount(item.row_count);
  out.setHeadDim(item.head_dim);
  out.setDtype(static_cast<proto::DType>(item.dtype));
  out.setHasTokens(!item.tokens.empty());
  tensors->push_back(item.keys);
  tensors->push_back(item.values);
  if (!item.tokens.empty()) tensors->push_back(std::as_bytes(item.tokens));
}

absl::StatusOr<FetchReplyItem> GetFetchReplyItem(proto::FetchReplyItem::Reader in,
                                                 TensorCursor* tensors) {
  FetchReplyItem item;
  item.status = FromWire(in.getStatusCode(), in.getStatusMessage().cStr());
  if (!item.status.ok()) return item;
  item.kv_head_count = in.getKvHeadCount();
  item.row_count = in.getRowCount();
  item.head_dim = in.getHeadDim();
  ASSIGN_OR_RETURN(item.dtype, GetDType(in.getDtype()));
  if (item.kv_head_count > base::kMaxKvHeads || item.head_dim > base::kMaxHeadDim) {
    return absl::InvalidArgumentError(
        absl::StrCat("an answer with ", item.row_count, " rows of dim ", item.head_dim, " and ",
                     item.kv_head_count, " kv heads, which is out of bounds"));
  }
  if (!tensors->Next(item.row_bytes(), &item.keys) ||
      !tensors->Next(item.row_bytes(), &item.values) ||
      (in.getHasTokens() && !tensors->Next(item.row_count, &item.tokens))) {
    return absl::InvalidArgumentError("the payload is too short for the item's tensors");
  }
  return item;
}

}  // namespace sounder::wire
