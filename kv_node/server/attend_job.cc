#include "kv_node/server/attend_job.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/kernels/exact_attention.h"
#include "kv_node/server/request_deadline.h"
#include "kv_node/server/work_split.h"

namespace sounder::kv_node {

AttendJob::AttendJob(wire::AttendRequest request, base::Time arrival, uint64_t number,
                     SessionMap* sessions, RowSource* rows, base::Executor* executor,
                     AttendQueue* queue, ScratchPool* scratches, Done done)
    : request_(std::move(request)),
      arrival_(arrival),
      deadline_(RequestDeadline(request_.envelope, arrival)),
      number_(number),
      sessions_(sessions),
      rows_(rows),
      executor_(executor),
      queue_(queue),
      scratches_(scratches),
      done_(std::move(done)),
      plans_(request_.items.size(), absl::StatusOr<AttendPlan>(absl::UnknownError("not planned"))),
      unplanned_(request_.items.size()),
      first_head_(request_.items.size()),
      steps_(&queue->reads()),
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
  unfinished_ = units_.size();
  if (units_.empty()) {
    Finish();
    queue_->RunnerEnded();
    return;
  }
  if (!TakeReads()) {
    Answer();
    queue_->RunnerEnded();
    return;
  }
  const auto granted = [self = shared_from_this()] {
    self->queue_->Resume(self->number_, [self] { self->StartRunners(); });
  };
  if (queue_->partials().Take(partial_bytes_, granted)) {
    StartRunners();
  } else {
    queue_->RunnerPauses(number_, {}, /*again=*/false);
  }
}

void AttendJob::StartRunners() {
  const size_t runners = std::min(units_.size(), static_cast<size_t>(queue_->threads()));
  StartSteps(runners);
  queue_->AddRunners(runners - 1);
  for (size_t i = 1; i < runners; ++i) {
    executor_->Run([self = shared_from_this()] { self->RunUnits(/*again=*/false); });
  }
  RunUnits(/*again=*/false);
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

void AttendJob::StartSteps(size_t runners) {
  std::vector<int64_t> costs;
  for (Unit& unit : units_) {
    const wire::AttendItem& item = request_.items[heads_[unit.head_work].item];
    costs.push_back(CostOf(unit.piece, size_t{item.query_count} * item.group,
                           /*sampled=*/unit.sampler != nullptr));
  }
  std::vector<UnitSteps::Stored> stored;
  std::vector<uint32_t> in_memory;
  for (const uint32_t unit : DearestFirst(costs)) {
    if (units_[unit].stored != nullptr) {
      stored.push_back({unit, units_[unit].room});
    } else {
      in_memory.push_back(unit);
    }
  }
  steps_.Start(std::move(stored), std::move(in_memory), runners);
}

// A block of a prompt's queries may be seconds of work: others get their turn in between.
void AttendJob::RunUnits(bool again) {
  base::Duration used{};
  UnitSteps::Left left{};
  {
    ScratchPool::Lease scratch = scratches_->Take();
    Reads reads;
    do {
      TakeSteps(*scratch, &used, &reads);
      Submit(&reads);
      left = steps_.Leave();
    } while (left == UnitSteps::Left::kWork && used < policy::kTurn);
  }
  switch (left) {
    case UnitSteps::Left::kWork:
      queue_->RunnerYields(number_, used, [self = shared_from_this()] { self->RunUnits(true); });
      break;
    case UnitSteps::Left::kWaits:
      queue_->RunnerPauses(number_, used, again);
      break;
    case UnitSteps::Left::kOver:
      queue_->RunnerEnded();
      break;
  }
}

// Until there are none or the turn is over. What is left in `reads` is to be submitted.
void AttendJob::TakeSteps(Scratch& scratch, base::Duration* used, Reads* reads) {
  const auto granted = [self = shared_from_this()] {
    if (!self->steps_.OnRoom()) return;
    self->queue_->Resume(self->number_, [self] { self->RunUnits(/*again=*/true); });
  };
  base::Time begin = executor_->clock().Now();
  while (*used < policy::kTurn) {
    const UnitSteps::Step step = steps_.Next(granted);
    const bool attends = step.kind == UnitSteps::Kind::kAttend;
    if (attends || IsBatch(*reads)) Submit(reads);
    if (step.kind == UnitSteps::Kind::kNone) return;
    Unit& unit = units_[step.unit];
    const bool done = attends || !Choose(unit, scratch);
    if (done) {
      RunUnit(unit, scratch);
    } else {
      reads->units.push_back(step.unit);
      reads->bytes += unit.room;
    }
    HeadWork& work = heads_[unit.head_work];
    if (done && work.unfinished.fetch_sub(1) == 1) MergeHead(work);
    const base::Time end = executor_->clock().Now();
    took_nanos_[static_cast<size_t>(request_.items[work.item].attention)] += (end - begin).count();
    *used += end - begin;
    begin = end;
    if (done && unfinished_.fetch_sub(1) == 1) Finish();
  }
}

bool AttendJob::SeesWholePiece(const wire::AttendItem& item, const Piece& piece) const {
  return item.causal_from < 0 || item.causal_from + 1 >= piece.first_position + piece.row_end;
}

GroupQuery AttendJob::QueryOf(const Unit& unit) {
  HeadWork& work = heads_[unit.head_work];
  GroupQuery query = GroupQueryOf(request_.items[work.item], work.head, work.packed, unit.piece);
  if (unit.piece.segment->index() != nullptr && query.uniform_fraction == 0) {
    std::call_once(work.prepare, [&] {
      work.prepared = unit.sampler->Prepare(query.queries, query.group, query.scale);
    });
    query.prepared = work.prepared.get();
  }
  return query;
}

// Its rows are in memory, or have been read, or could not be.
void AttendJob::RunUnit(Unit& unit, Scratch& scratch) {
  if (unit.status.ok()) AttendUnit(unit, scratch);
  if (unit.stored == nullptr) return;
  unit.stored->Release();
  if (unit.reads > 0) queue_->ReadsDone(unit.reads);
  queue_->reads().Give(unit.room);
}

void AttendJob::AttendUnit(Unit& unit, Scratch& scratch) {
  const HeadWork& work = heads_[unit.head_work];
  const wire::AttendItem& item = request_.items[work.item];
  const size_t queries = size_t{item.query_count} * item.group;
  unit.outputs.resize(queries * item.head_dim);
  unit.lse.resize(queries);
  if (unit.sampler == nullptr) {
    RunExact(item, work, unit);
    return;
  }
  const GroupQuery query = QueryOf(unit);
  if (item.want_error_terms) unit.errors.resize(queries);
  ErrorTerms* const errors = item.want_error_terms ? unit.errors.data() : nullptr;
  if (unit.stored != nullptr) {
    unit.stored->Attend(*unit.sampler, query, scratch, unit.outputs.data(), unit.lse.data(), errors,
                        &unit.stats);
  } else {
    unit.sampler->Attend(*unit.piece.segment, *unit.piece.segment_rows, query, scratch,
                         unit.outputs.data(), unit.lse.data(), errors, &unit.stats);
  }
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
  if (unit.stored != nullptr) {
    args.keys = unit.stored->keys();
    args.values = unit.stored->values();
  } else {
    args.keys = piece.keys.Slice(piece.row_begin, piece.row_end);
    args.values = piece.values.Slice(piece.row_begin, piece.row_end);
  }
  args.scale = item.scale;
  args.visible_rows = visible;
  args.schedule = scratches_->schedule();
  kernels::ExactAttention(args, unit.outputs.data(), unit.lse.data());
  unit.stats.rows_read = read;
  unit.stats.rows_loaded = loaded;
  unit.exact = true;
}

}  // namespace sounder::kv_node
