#include "kv_node/server/attend_job.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/attention/partial_output.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/kernels/exact_attention.h"
#include "kv_node/server/request_deadline.h"
#include "kv_node/server/work_split.h"

namespace sounder::kv_node {
namespace {

uint32_t MicrosBetween(base::Time from, base::Time to) {
  const int64_t micros = std::chrono::duration_cast<std::chrono::microseconds>(to - from).count();
  return static_cast<uint32_t>(std::clamp<int64_t>(micros, 0, UINT32_MAX));
}

}  // namespace

AttendJob::AttendJob(wire::AttendRequest request, base::Time arrival, uint64_t number,
                     SessionMap* sessions, base::Executor* executor, AttendQueue* queue,
                     ScratchPool* scratches, Done done)
    : request_(std::move(request)),
      arrival_(arrival),
      deadline_(RequestDeadline(request_.envelope, arrival)),
      number_(number),
      sessions_(sessions),
      executor_(executor),
      queue_(queue),
      scratches_(scratches),
      done_(std::move(done)),
      plans_(request_.items.size(), absl::StatusOr<AttendPlan>(absl::UnknownError("not planned"))),
      unplanned_(request_.items.size()),
      first_head_(request_.items.size()),
      outputs_(request_.items.size()),
      lse_(request_.items.size()),
      error_terms_(request_.items.size()),
      head_mass_(request_.items.size()) {}

void AttendJob::Start() {
  asked_ = executor_->clock().Now();
  if (request_.items.empty()) {
    OnAllPlanned();
    return;
  }
  for (size_t i = 0; i < request_.items.size(); ++i) {
    absl::StatusOr<std::shared_ptr<Session>> session =
        sessions_->Find(request_.items[i].session.id, request_.envelope.tenant);
    if (!session.ok()) {
      OnPlan(i, session.status());
      continue;
    }
    (*session)->Plan(request_.items[i], deadline_,
                     [self = shared_from_this(), i](absl::StatusOr<AttendPlan> plan) {
                       self->OnPlan(i, std::move(plan));
                     });
  }
  if (unplanned_ > 0) queue_->Park(number_);
}

void AttendJob::OnPlan(size_t item, absl::StatusOr<AttendPlan> plan) {
  plans_[item] = std::move(plan);
  if (unplanned_.fetch_sub(1) == 1) OnAllPlanned();
}

void AttendJob::OnAllPlanned() {
  planned_ = attended_ = executor_->clock().Now();
  const auto planned = [](const absl::StatusOr<AttendPlan>& plan) { return plan.ok(); };
  if (std::none_of(plans_.begin(), plans_.end(), planned)) {
    Finish();
    return;
  }
  queue_->Ready(
      number_, [self = shared_from_this()] { self->Begin(); },
      [self = shared_from_this()] { self->Expire(); });
}

// The first of its runners.
void AttendJob::Begin() {
  attended_ = executor_->clock().Now();
  for (size_t i = 0; i < plans_.size(); ++i) {
    if (!plans_[i].ok()) continue;
    if (absl::Status status = AddItem(i, *plans_[i]); !status.ok()) plans_[i] = std::move(status);
  }
  OrderUnits();
  unfinished_ = units_.size();
  if (units_.empty()) {
    Finish();
    queue_->RunnerEnded();
    return;
  }
  const size_t runners = std::min(units_.size(), static_cast<size_t>(queue_->threads()));
  queue_->AddRunners(runners - 1);
  for (size_t i = 1; i < runners; ++i) {
    executor_->Run([self = shared_from_this()] { self->RunUnits(); });
  }
  RunUnits();
}

void AttendJob::Expire() {
  reply_.envelope.status = absl::DeadlineExceededError(
      absl::StrCat("the attend waited ", MicrosBetween(arrival_, executor_->clock().Now()),
                   " us for its turn on the node, too long for its deadline"));
  Answer();
}

// Sampling draws from whole pieces; a block whose causal bounds cut through one attends it exactly.
std::vector<AttendJob::Unit> AttendJob::UnitsOf(const wire::AttendItem& item,
                                                const AttendPlan& plan, uint32_t head) const {
  std::vector<Unit> units;
  for (const Piece& piece : plan.pieces[head]) {
    if (piece.sealed && plan.sampler != nullptr && SeesWholePiece(item, piece)) {
      Unit& unit = units.emplace_back();
      unit.piece = piece;
      unit.sampler = plan.sampler;
      continue;
    }
    for (Piece& part : CutExactPiece(piece, size_t{item.query_count} * item.group)) {
      units.emplace_back().piece = std::move(part);
    }
  }
  return units;
}

// Every unit's partial outputs are kept until the last is there; an item that would take them past
// kMaxPartialBytes is RESOURCE_EXHAUSTED. Decode steps need little; a block of thousands of queries
// over hundreds of segments would need gigabytes.
absl::Status AttendJob::TakePartialBytes(const wire::AttendItem& item, size_t num_units) {
  const size_t floats = item.head_dim + (item.want_error_terms ? 4 : 1);
  const size_t bytes = num_units * item.query_count * item.group * floats * sizeof(float);
  if (bytes > base::kMaxPartialBytes - partial_bytes_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("partial outputs of ", bytes, " bytes, with ", partial_bytes_, " of ",
                     base::kMaxPartialBytes,
                     " in use by the request; ask for fewer queries or positions at once"));
  }
  partial_bytes_ += bytes;
  return absl::OkStatus();
}

absl::Status AttendJob::AddItem(size_t item, const AttendPlan& plan) {
  std::vector<std::vector<Unit>> units;  // by head
  size_t num_units = 0;
  for (uint32_t head = 0; head < plan.pieces.size(); ++head) {
    units.push_back(UnitsOf(request_.items[item], plan, head));
    num_units += units.back().size();
  }
  RETURN_IF_ERROR(TakePartialBytes(request_.items[item], num_units));
  first_head_[item] = heads_.size();
  for (uint32_t head = 0; head < units.size(); ++head) {
    HeadWork& work = heads_.emplace_back();
    work.item = item;
    work.head = head;
    work.first_unit = units_.size();
    work.num_units = work.unfinished = units[head].size();
    work.packed = PackHead(request_.items[item], head);
    for (Unit& unit : units[head]) {
      unit.head_work = heads_.size() - 1;
      units_.push_back(std::move(unit));
    }
  }
  return absl::OkStatus();
}

void AttendJob::OrderUnits() {
  std::vector<int64_t> costs;
  for (const Unit& unit : units_) {
    const wire::AttendItem& item = request_.items[heads_[unit.head_work].item];
    costs.push_back(CostOf(unit.piece, size_t{item.query_count} * item.group,
                           /*sampled=*/unit.sampler != nullptr));
  }
  order_ = DearestFirst(costs);
}

// A block of a prompt's queries may be seconds of work: others get their turn in between.
void AttendJob::RunUnits() {
  base::Duration used{};
  {
    ScratchPool::Lease scratch = scratches_->Take();
    base::Time begin = executor_->clock().Now();
    while (used < policy::kTurn) {
      const size_t index = next_unit_.fetch_add(1);
      if (index >= units_.size()) break;
      Unit& unit = units_[order_[index]];
      RunUnit(unit, *scratch);
      HeadWork& work = heads_[unit.head_work];
      if (work.unfinished.fetch_sub(1) == 1) MergeHead(work);
      const base::Time end = executor_->clock().Now();
      took_nanos_[static_cast<size_t>(request_.items[work.item].attention)] +=
          (end - begin).count();
      used += end - begin;
      begin = end;
      if (unfinished_.fetch_sub(1) == 1) Finish();
    }
  }
  if (next_unit_ < units_.size()) {
    queue_->RunnerYields(number_, used, [self = shared_from_this()] { self->RunUnits(); });
  } else {
    queue_->RunnerEnded();
  }
}

bool AttendJob::SeesWholePiece(const wire::AttendItem& item, const Piece& piece) const {
  return item.causal_from < 0 || item.causal_from + 1 >= piece.first_position + piece.row_end;
}

void AttendJob::RunUnit(Unit& unit, Scratch& scratch) {
  HeadWork& work = heads_[unit.head_work];
  const wire::AttendItem& item = request_.items[work.item];
  const size_t queries = size_t{item.query_count} * item.group;
  unit.outputs.resize(queries * item.head_dim);
  unit.lse.resize(queries);
  if (unit.sampler == nullptr) {
    RunExact(item, work, unit);
    return;
  }
  GroupQuery query = GroupQueryOf(item, work.head, work.packed, unit.piece);
  if (unit.piece.segment->index() != nullptr && query.uniform_fraction == 0) {
    std::call_once(work.prepare, [&] {
      work.prepared = unit.sampler->Prepare(query.queries, query.group, query.scale);
    });
    query.prepared = work.prepared.get();
  }
  if (item.want_error_terms) unit.errors.resize(queries);
  unit.sampler->Attend(*unit.piece.segment, *unit.piece.segment_rows, query, scratch,
                       unit.outputs.data(), unit.lse.data(),
                       item.want_error_terms ? unit.errors.data() : nullptr, &unit.stats);
  unit.exact = unit.stats.exact;
}

void AttendJob::RunExact(const wire::AttendItem& item, const HeadWork& work, Unit& unit) const {
  const Piece& piece = unit.piece;
  const size_t queries = size_t{item.query_count} * item.group;
  std::vector<int64_t> visible;
  int64_t read = static_cast<int64_t>(queries) * piece.rows();
  int64_t loaded = piece.rows();
  if (!SeesWholePiece(item, piece)) {
    read = 0;
    const base::Position first = piece.first_position + piece.row_begin;
    for (size_t query = 0; query < queries; ++query) {
      const base::Position bound = item.causal_from + static_cast<int64_t>(query / item.group) + 1;
      visible.push_back(std::clamp<int64_t>(bound - first, 0, piece.rows()));
      read += visible.back();
    }
    loaded = visible.back();  // the last query sees most
  }
  kernels::ExactAttentionArgs args;
  args.queries = work.packed.queries.data();
  args.query_stride = item.head_dim;
  args.num_queries = static_cast<int>(queries);
  args.keys = piece.keys.Slice(piece.row_begin, piece.row_end);
  args.values = piece.values.Slice(piece.row_begin, piece.row_end);
  args.scale = item.scale;
  args.visible_rows = visible;
  args.schedule = scratches_->schedule();
  kernels::ExactAttention(args, unit.outputs.data(), unit.lse.data());
  unit.stats.rows_read = read;
  unit.stats.rows_loaded = loaded;
  unit.exact = true;
}

void AttendJob::MergeHead(HeadWork& work) const {
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

void AttendJob::Finish() {
  const base::Time computed = executor_->clock().Now();
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
  queue_->End(number_, worked, took);
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
