#include "common/wire/attend_items.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace sounder::wire {
namespace {

absl::Status CheckHints(const AttendItem& item) {
  for (const float hint : item.lse_hints) {
    if (std::isfinite(hint)) continue;
    return absl::InvalidArgumentError(absl::StrCat("an lse hint is ", hint, ", expected finite"));
  }
  for (const HeadHint& hint : item.head_hints) {
    if (hint.mean_size >= 0 && hint.mean_size <= 1 && hint.uniform_fraction >= 0 &&
        hint.uniform_fraction <= 1) {
      continue;
    }
    return absl::InvalidArgumentError(absl::StrCat("a head hint is mean size ", hint.mean_size,
                                                   ", uniform fraction ", hint.uniform_fraction,
                                                   "; expected 0 to 1"));
  }
  return absl::OkStatus();
}

absl::Status CheckAttendItem(const AttendItem& item) {
  RETURN_IF_ERROR(CheckDims(item.layer, item.kv_head_begin, item.kv_head_count, item.head_dim));
  RETURN_IF_ERROR(CheckRange(item.range));
  if (item.group == 0 || item.group > base::kMaxGroup) {
    return absl::InvalidArgumentError(
        absl::StrCat("group of ", item.group, " query heads, expected 1 to ", base::kMaxGroup));
  }
  if (item.query_count == 0 || item.query_count > base::kMaxQueryBlock) {
    return absl::InvalidArgumentError(absl::StrCat(
        "block of ", item.query_count, " queries, expected 1 to ", base::kMaxQueryBlock));
  }
  if (item.layout_position < 0 || item.layout_position > base::kMaxPositions ||
      item.causal_from < -1 || item.causal_from > base::kMaxPositions) {
    return absl::InvalidArgumentError(
        absl::StrCat("layout position ", item.layout_position, " and causal bound ",
                     item.causal_from, ", expected 0 and -1 (none) to ", base::kMaxPositions));
  }
  if (!(item.scale > -1e6f && item.scale < 1e6f) || !(item.rows_budget >= 0) ||
      item.rows_budget > 1) {
    return absl::InvalidArgumentError(absl::StrCat("scale ", item.scale, " and rows budget ",
                                                   item.rows_budget,
                                                   ", expected within a million of 0, and 0 to 1"));
  }
  if (item.signature_words > base::kMaxTables * base::kMaxBitsPerTable / 64) {
    return absl::InvalidArgumentError(
        absl::StrCat("signatures of ", item.signature_words, " words, at most ",
                     base::kMaxTables * base::kMaxBitsPerTable / 64, " are allowed"));
  }
  return absl::OkStatus();
}

}  // namespace

void PutAttendItem(const AttendItem& item, proto::AttendItem::Builder out, TensorList* tensors) {
  const uint64_t rows = uint64_t{item.query_count} * item.query_heads();
  CHECK(item.queries.size() == rows * item.head_dim * base::SizeOf(item.query_dtype));
  CHECK(item.signatures.size() == rows * item.signature_words);
  CHECK(item.lse_hints.empty() || item.lse_hints.size() == rows);
  CHECK(item.head_hints.empty() || item.head_hints.size() == item.kv_head_count);
  Put(item.session, out.initSession());
  out.setSequence(item.sequence);
  out.setStep(item.step);
  out.setLayer(item.layer);
  out.setKvHeadBegin(item.kv_head_begin);
  out.setKvHeadCount(item.kv_head_count);
  out.setGroup(item.group);
  out.setQueryCount(item.query_count);
  out.setHeadDim(item.head_dim);
  out.setQueryDtype(static_cast<proto::DType>(item.query_dtype));
  out.setRangeBegin(item.range.begin);
  out.setRangeEnd(item.range.end);
  out.setLayoutPosition(item.layout_position);
  out.setCausalFrom(item.causal_from);
  out.setScale(item.scale);
  out.setAttention(static_cast<proto::Attention>(item.attention));
  out.setSampleKey(item.sample_key);
  out.setRowsBudget(item.rows_budget);
  out.setRowsCap(item.rows_cap);
  out.setSignatureWords(item.signature_words);
  out.setHasLseHints(!item.lse_hints.empty());
  out.setWantErrorTerms(item.want_error_terms);
  out.setRowFormat(static_cast<proto::RowFormat>(item.row_format));
  out.setHasHeadHints(!item.head_hints.empty());
  tensors->push_back(item.queries);
  if (!item.signatures.empty()) tensors->push_back(std::as_bytes(item.signatures));
  if (!item.lse_hints.empty()) tensors->push_back(std::as_bytes(item.lse_hints));
  if (!item.head_hints.empty()) tensors->push_back(std::as_bytes(item.head_hints));
}

absl::StatusOr<AttendItem> GetAttendItem(proto::AttendItem::Reader in, TensorCursor* tensors) {
  AttendItem item;
  item.session = Get(in.getSession());
  item.sequence = in.getSequence();
  item.step = in.getStep();
  item.layer = in.getLayer();
  item.kv_head_begin = in.getKvHeadBegin();
  item.kv_head_count = in.getKvHeadCount();
  item.group = in.getGroup();
  item.query_count = in.getQueryCount();
  item.head_dim = in.getHeadDim();
  ASSIGN_OR_RETURN(item.query_dtype, GetDType(in.getQueryDtype()));
  item.range = {in.getRangeBegin(), in.getRangeEnd()};
  item.layout_position = in.getLayoutPosition();
  item.causal_from = in.getCausalFrom();
  item.scale = in.getScale();
  if (static_cast<uint16_t>(in.getAttention()) > static_cast<uint16_t>(AttentionKind::kSketch)) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown attention kind ", static_cast<int>(in.getAttention()),
                     ", expected 0 to ", static_cast<int>(AttentionKind::kSketch)));
  }
  item.attention = static_cast<AttentionKind>(in.getAttention());
  item.sample_key = in.getSampleKey();
  item.rows_budget = in.getRowsBudget();
  item.rows_cap = in.getRowsCap();
  item.signature_words = in.getSignatureWords();
  item.want_error_terms = in.getWantErrorTerms();
  ASSIGN_OR_RETURN(item.row_format, GetRowFormat(in.getRowFormat()));
  RETURN_IF_ERROR(CheckAttendItem(item));
  const uint64_t rows = uint64_t{item.query_count} * item.query_heads();
  if (!tensors->Next(rows * item.head_dim * base::SizeOf(item.query_dtype), &item.queries) ||
      (item.signature_words > 0 && !tensors->Next(rows * item.signature_words, &item.signatures)) ||
      (in.getHasLseHints() && !tensors->Next(rows, &item.lse_hints)) ||
      (in.getHasHeadHints() && !tensors->Next(item.kv_head_count, &item.head_hints))) {
    return absl::InvalidArgumentError("the payload is too short for the item's tensors");
  }
  RETURN_IF_ERROR(CheckHints(item));
  return item;
}

uint64_t AttendItem::reply_bytes() const {
  const uint64_t rows = uint64_t{query_count} * query_heads();
  return kReplyRowBytes + Padded(rows * head_dim * sizeof(float)) + Padded(rows * sizeof(float)) +
         Padded(rows * sizeof(ErrorTerms)) + Padded(kv_head_count * sizeof(float));
}

absl::Status CheckReplyFits(const std::vector<AttendItem>& items) {
  uint64_t bytes = kReplyRowBytes;
  for (const AttendItem& item : items) bytes += item.reply_bytes();
  if (bytes > base::kMaxPayloadBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the answer would take ", bytes,
                                                   " bytes, at most ", base::kMaxPayloadBytes,
                                                   " are allowed: ask for fewer queries at once"));
  }
  return absl::OkStatus();
}

void PutAttendReplyItem(const AttendReplyItem& item, proto::AttendReplyItem::Builder out,
                        TensorList* tensors) {
  if (!item.status.ok()) {
    out.setStatusCode(ToWireCode(item.status));
    out.setStatusMessage(ToWireText(item.status).c_str());
    return;
  }
  const uint64_t rows = uint64_t{item.query_count} * item.query_heads;
  CHECK(item.outputs.size() == rows * item.head_dim && item.lse.size() == rows);
  CHECK(item.error_terms.empty() || item.error_terms.size() == rows);
  out.setQueryCount(item.query_count);
  out.setQueryHeads(item.query_heads);
  out.setHeadDim(item.head_dim);
  out.setCoveredBegin(item.covered.begin);
  out.setCoveredEnd(item.covered.end);
  out.setRowsVisible(item.rows_visible);
  out.setRowsRead(item.rows_read);
  out.setRowsLoaded(item.rows_loaded);
  out.setRowsExact(item.rows_exact);
  out.setHasErrorTerms(!item.error_terms.empty());
  out.setMassHeads(static_cast<uint32_t>(item.head_mass.size()));
  tensors->push_back(std::as_bytes(item.outputs));
  tensors->push_back(std::as_bytes(item.lse));
  if (!item.error_terms.empty()) tensors->push_back(std::as_bytes(item.error_terms));
  if (!item.head_mass.empty()) tensors->push_back(std::as_bytes(item.head_mass));
}

absl::StatusOr<AttendReplyItem> GetAttendReplyItem(proto::AttendReplyItem::Reader in,
                                                   TensorCursor* tensors) {
  AttendReplyItem item;
  item.status = FromWire(in.getStatusCode(), in.getStatusMessage().cStr());
  if (!item.status.ok()) return item;
  item.query_count = in.getQueryCount();
  item.query_heads = in.getQueryHeads();
  item.head_dim = in.getHeadDim();
  item.covered = {in.getCoveredBegin(), in.getCoveredEnd()};
  item.rows_visible = in.getRowsVisible();
  item.rows_read = in.getRowsRead();
  item.rows_loaded = in.getRowsLoaded();
  item.rows_exact = in.getRowsExact();
  if (item.query_count > base::kMaxQueryBlock ||
      item.query_heads > base::kMaxKvHeads * base::kMaxGroup || item.head_dim > base::kMaxHeadDim ||
      in.getMassHeads() > base::kMaxKvHeads) {
    return absl::InvalidArgumentError(absl::StrCat(
        "an answer for ", item.query_count, " queries of ", item.query_heads, " heads, dim ",
        item.head_dim, ", with ", in.getMassHeads(), " masses, which is out of bounds"));
  }
  RETURN_IF_ERROR(CheckRange(item.covered));
  const uint64_t rows = uint64_t{item.query_count} * item.query_heads;
  if (!tensors->Next(rows * item.head_dim, &item.outputs) || !tensors->Next(rows, &item.lse) ||
      (in.getHasErrorTerms() && !tensors->Next(rows, &item.error_terms)) ||
      !tensors->Next(in.getMassHeads(), &item.head_mass)) {
    return absl::InvalidArgumentError("the payload is too short for the item's tensors");
  }
  for (const float mass : item.head_mass) {
    if (std::isfinite(mass) && mass >= 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the mass of a head is ", mass, ", expected 0 or more"));
  }
  return item;
}

}  // namespace sounder::wire
