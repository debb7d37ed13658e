// The end of an Attend: units merged to heads, heads to the reply.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/attention/partial_output.h"
#include "kv_node/server/attend_job.h"
#include "kv_node/server/work_split.h"

namespace sounder::kv_node {
namespace {

uint32_t MicrosBetween(base::Time from, base::Time to) {
  const int64_t micros = std::chrono::duration_cast<std::chrono::microseconds>(to - from).count();
  return static_cast<uint32_t>(std::clamp<int64_t>(micros, 0, UINT32_MAX));
}

}  // namespace

// Of an item one of whose units failed nothing is merged.
void AttendJob::MergeHead(HeadWork& work) const {
  for (size_t u = work.first_unit; u < work.first_unit + work.num_units; ++u) {
    if (!units_[u].status.ok()) return;
  }
  const wire::AttendItem& item = request_.items[work.item];
  const int dim = static_cast<int>(item.head_dim);
  const size_t queries = size_t{item.query_count} * item.group;
  work.outputs.assign(queries * item.head_dim, 0);
  work.lse.assign(queries, attention::kEmptyLse);
  for (size_t u = work.first_unit; u < work.first_unit + work.num_units; ++u) {
    for (size_t query = 0; query < queries; ++query) {
      attention::MergePartial(work.outputs.data() + query * item.head_dim, &work.lse[query],
                              units_[u].outputs.data() + query * item.head_dim,
                              units_[u].lse[query], dim);
    }
  }
  if (!item.want_error_terms) return;
  // Variances add with the squares of the pieces' shares; B carries the shift of the mean.
  work.errors.assign(queries, ErrorTerms{});
  for (size_t u = work.first_unit; u < work.first_unit + work.num_units; ++u) {
    const Unit& unit = units_[u];
    if (unit.errors.empty()) continue;  // exact pieces have no variance
    for (size_t query = 0; query < queries; ++query) {
      if (unit.lse[query] == attention::kEmptyLse) continue;
      const float share = std::exp(unit.lse[query] - work.lse[query]);
      float shift = 0;
      for (int i = 0; i < dim; ++i) {
        const size_t at = query * item.head_dim + static_cast<size_t>(i);
        const float difference = unit.outputs[at] - work.outputs[at];
        shift += difference * difference;
      }
      work.errors[query].a += share * share * (unit.errors[query].a + unit.errors[query].b * shift);
      work.errors[query].b += share * share * unit.errors[query].b;
      work.errors[query].concentration += share * share * unit.errors[query].concentration;
    }
  }
}

void AttendJob::FillReplyItem(size_t item_index) {
  const wire::AttendItem& item = request_.items[item_index];
  wire::AttendReplyItem& reply = reply_.items[item_index];
  if (!plans_[item_index].ok()) {
    reply.status = plans_[item_index].status();
    return;
  }
  const size_t rows = size_t{item.query_count} * item.query_heads();
  outputs_[item_index].assign(rows * item.head_dim, 0);
  lse_[item_index].assign(rows, attention::kEmptyLse);
  if (item.want_error_terms) error_terms_[item_index].resize(rows);
  if (item.attention == wire::AttentionKind::kSketch) {
    head_mass_[item_index].assign(item.kv_head_count, 0);
  }
  reply.query_count = item.query_count;
  reply.query_heads = item.query_heads();
  reply.head_dim = item.head_dim;
  reply.covered = item.range;
  for (uint32_t t = 0; t < item.query_count; ++t) {
    base::PositionRange seen = item.range;
    if (item.causal_from >= 0) seen.end = std::min(seen.end, item.causal_from + t + 1);
    reply.rows_visible += uint64_t{item.query_heads()} * static_cast<uint64_t>(seen.size());
  }
  for (size_t head = 0; head < plans_[item_index]->pieces.size(); ++head) {
    const HeadWork& work = heads_[first_head_[item_index] + head];
    for (size_t query = 0; query < work.lse.size(); ++query) {
      const size_t at = query / item.group * item.query_heads() + size_t{work.head} * item.group +
                        query % item.group;
      std::copy_n(work.outputs.data() + query * item.head_dim, item.head_dim,
                  outputs_[item_index].data() + at * item.head_dim);
      lse_[item_index][at] = work.lse[query];
      if (!item.want_error_terms) continue;
      const ErrorTerms& errors = work.errors[query];
      error_terms_[item_index][at] = {errors.a, errors.b, errors.concentration};
    }
    double mass = 0;
    for (size_t u = work.first_unit; u < work.first_unit + work.num_units; ++u) {
      const AttendStats& stats = units_[u].stats;
      reply.rows_read += static_cast<uint64_t>(stats.rows_read);
      reply.rows_loaded += static_cast<uint64_t>(stats.rows_loaded);
      if (units_[u].exact) reply.rows_exact += static_cast<uint64_t>(stats.rows_read);
      mass += stats.mass;
    }
    if (!head_mass_[item_index].empty()) head_mass_[item_index][head] = static_cast<float>(mass);
  }
  reply.outputs = outputs_[item_index];
  reply.lse = lse_[item_index];
  reply.error_terms = error_terms_[item_index];
  reply.head_mass = head_mass_[item_index];
}

// An item is its first failed unit's status.
void AttendJob::FailItems() {
  for (size_t u = units_.size(); u-- > 0;) {
    if (!units_[u].status.ok()) plans_[heads_[units_[u].head_work].item] = units_[u].status;
  }
}

void AttendJob::Finish() {
  const base::Time computed = executor_->clock().Now();
  FailItems();
  for (HeadWork& work : heads_) {
    if (work.num_units == 0) MergeHead(work);  // nothing to attend: empty outputs
  }
  reply_.items.resize(request_.items.size());
  for (size_t i = 0; i < request_.items.size(); ++i) FillReplyItem(i);
  const base::Time merged = executor_->clock().Now();
  reply_.envelope.timings = {
      .queue_us = MicrosBetween(arrival_, attended_),
      .wait_us = MicrosBetween(asked_, planned_),
      .compute_us = MicrosBetween(attended_, computed),
      .merge_us = MicrosBetween(computed, merged),
  };
  policy::WorkTimes took{};
  for (size_t kind = 0; kind < took.size(); ++kind) took[kind] = base::Duration(took_nanos_[kind]);
  policy::WorkRows worked{};
  for (size_t i = 0; i < request_.items.size(); ++i) {
    if (plans_[i].ok()) AddWork(request_.items[i], &worked);
  }
  queue_->End(number_, reads_, worked, took);
  if (!units_.empty()) {
    units_.clear();
    queue_->partials().Give(partial_bytes_);
  }
  Answer();
}

void AttendJob::Expire() {
  reply_.envelope.status = absl::DeadlineExceededError(
      absl::StrCat("the attend waited ", MicrosBetween(arrival_, executor_->clock().Now()),
                   " us for its turn on the node, too long for its deadline"));
  Answer();
}

void AttendJob::Answer() {
  reply_.envelope.kind = wire::MessageKind::kAttendReply;
  reply_.envelope.ticket = request_.envelope.ticket;
  reply_.envelope.tenant = request_.envelope.tenant;
  reply_.envelope.trace_id = request_.envelope.trace_id;
  done_(reply_);
}

}  // namespace sounder::kv_node
