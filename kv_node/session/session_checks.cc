// What a session refuses at once: requests that do not fit it.
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kv_node/session/session.h"

namespace sounder::kv_node {

// With the lock held: the session is open, and at the epoch of who asks.
absl::Status Session::CheckOpen(const wire::SessionRef& ref) const {
  if (!closed_.ok() || ref.epoch == epoch_) return closed_;
  return absl::FailedPreconditionError(absl::StrCat(
      "session ", ref.id.ToString(), " is at epoch ", epoch_, ", the request at epoch ", ref.epoch,
      ref.epoch < epoch_ ? ": another worker has adopted it" : ""));
}

absl::Status Session::CheckHeads(const char* what, uint32_t begin, uint32_t count) const {
  const uint32_t held_end = spec_.kv_head_begin + spec_.kv_head_count;
  if (begin >= spec_.kv_head_begin && begin + count <= held_end) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " of kv heads [", begin, ", ", begin + count,
                                                 "); this node holds [", spec_.kv_head_begin, ", ",
                                                 held_end, ")"));
}

absl::Status Session::CheckAppend(const wire::AppendItem& item) const {
  if (item.layer >= spec_.model.layers || item.head_dim != spec_.model.head_dim ||
      item.dtype != spec_.dtype) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rows of layer ", item.layer, ", head dim ", item.head_dim, ", ",
        std::string(NameOf(item.dtype)), "; the session has ", spec_.model.layers,
        " layers, head dim ", spec_.model.head_dim, ", ", std::string(NameOf(spec_.dtype))));
  }
  RETURN_IF_ERROR(CheckHeads("rows", item.kv_head_begin, item.kv_head_count));
  if (item.sequence == 0) return absl::InvalidArgumentError("sequence numbers start at 1");
  return absl::OkStatus();
}

namespace {

std::string Describe(const wire::SessionSpec& spec) {
  switch (spec.index()) {
    case wire::AttentionKind::kSketch:
      return absl::StrCat("sketches of ", spec.sketch.bits, " bits");
    case wire::AttentionKind::kLshTables:
      return absl::StrCat(spec.lsh.num_tables, " LSH tables of ", spec.lsh.bits_per_table, " bits");
    case wire::AttentionKind::kExact:
      break;
  }
  return "no index";
}

std::string NameOf(wire::AttentionKind kind) {
  return kind == wire::AttentionKind::kSketch ? "sketch" : "lsh_tables";
}

}  // namespace

// Of an item that asks for a sample.
absl::Status Session::CheckSampled(const wire::AttendItem& item) const {
  if (item.attention != spec_.index()) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", item.session.id.ToString(), " has ", Describe(spec_),
                     ", the request wants '", NameOf(item.attention), "'"));
  }
  if (!IndexedLayer(item.layer)) {
    return absl::FailedPreconditionError(absl::StrCat("layer ", item.layer, " of session ",
                                                      item.session.id.ToString(),
                                                      " has no index; ask for exact"));
  }
  if (item.row_format != spec_.row_format) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", item.session.id.ToString(),
                     " keeps a copy of its rows in 'int8' for sampling, the request wants rows as ",
                     "appended"));
  }
  const uint32_t words = (spec_.lsh.bits_per_table * spec_.lsh.num_tables + 63) / 64;
  if (item.signature_words == words) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("signatures of ", item.signature_words,
                                                 " words; the session has ", Describe(spec_)));
}

absl::Status Session::CheckFetch(const wire::FetchItem& item) const {
  if (item.layer >= spec_.model.layers || item.head_dim != spec_.model.head_dim ||
      item.dtype != spec_.dtype) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rows of layer ", item.layer, ", head dim ", item.head_dim, ", ",
        std::string(NameOf(item.dtype)), " were asked for; the session has ", spec_.model.layers,
        " layers, head dim ", spec_.model.head_dim, ", ", std::string(NameOf(spec_.dtype))));
  }
  if (item.kv_head_count == 0) return absl::OkStatus();
  return CheckHeads("rows", item.kv_head_begin, item.kv_head_count);
}

absl::Status Session::CheckAttend(const wire::AttendItem& item) const {
  const uint32_t group = spec_.model.query_heads / spec_.model.kv_heads;
  if (item.layer >= spec_.model.layers || item.head_dim != spec_.model.head_dim ||
      item.group != group) {
    return absl::InvalidArgumentError(
        absl::StrCat("queries of layer ", item.layer, ", head dim ", item.head_dim, ", groups of ",
                     item.group, "; the session has ", spec_.model.layers, " layers, head dim ",
                     spec_.model.head_dim, ", groups of ", group));
  }
  RETURN_IF_ERROR(CheckHeads("queries", item.kv_head_begin, item.kv_head_count));
  if (item.row_format == wire::RowFormat::kInt8 && spec_.row_format != wire::RowFormat::kInt8) {
    return absl::FailedPreconditionError(
        absl::StrCat("row format 'int8': session ", item.session.id.ToString(),
                     " was not opened with it and keeps rows as appended only"));
  }
  return Sampled(item) ? CheckSampled(item) : absl::OkStatus();
}

}  // namespace sounder::kv_node
