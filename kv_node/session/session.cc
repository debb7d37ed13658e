#include "kv_node/session/session.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {
namespace {

constexpr size_t kMaxQueuedOperations = 4096;
constexpr size_t kMaxCopies = 16;  // of one queued operation

}  // namespace

Session::Session(wire::SessionSpec spec, std::shared_ptr<const Sampler> sampler,
                 MemoryBudget* budget, Reservation fixed, base::Executor* executor, IndexLane* lane,
                 Tiers* tiers)
    : spec_(std::move(spec)),
      sampler_(std::move(sampler)),
      budget_(budget),
      executor_(executor),
      lane_(lane),
      tiers_(tiers),
      indexed_(spec_.model.layers, false),
      life_(std::make_shared<SessionLife>(std::chrono::seconds(spec_.ttl_seconds),
                                          executor->clock().Now())),
      fixed_(std::move(fixed)),
      tokens_(budget),
      epoch_(spec_.session.epoch) {
  if (sampler_ != nullptr) {
    for (const uint32_t layer : spec_.indexed_layers) indexed_[layer] = true;
  }
  streams_ = MakeStreams(spec_, sampler_, budget_);
}

std::vector<RowStream> Session::MakeStreams(const wire::SessionSpec& spec,
                                            const std::shared_ptr<const Sampler>& sampler,
                                            MemoryBudget* budget) {
  const StreamOptions plain{static_cast<int>(spec.model.head_dim), spec.dtype, spec.seal_rows};
  std::vector<StreamOptions> options(spec.model.layers, plain);
  if (sampler != nullptr) {
    for (const uint32_t layer : spec.indexed_layers) options[layer].sampler = sampler;
  }
  std::vector<RowStream> streams;
  streams.reserve(size_t{spec.model.layers} * spec.kv_head_count);
  for (uint32_t layer = 0; layer < spec.model.layers; ++layer) {
    for (uint32_t head = 0; head < spec.kv_head_count; ++head) {
      streams.emplace_back(options[layer], budget);
    }
  }
  return streams;
}

uint64_t Session::FixedBytes(const wire::SessionSpec& spec) {
  return sizeof(Session) + uint64_t{spec.model.layers} * spec.kv_head_count * sizeof(RowStream);
}

void Session::Append(const wire::AppendItem& item, base::Time deadline, AppendDone done) {
  Submit(item, std::nullopt, CheckAppend(item), deadline, std::move(done));
}

// `status`: of what can be said without the lock.
void Session::Submit(const wire::AppendItem& item, std::optional<base::Position> truncate_to,
                     absl::Status status, base::Time deadline, AppendDone done) {
  Calls calls;
  {
    std::lock_guard lock(mutex_);
    if (const absl::Status open = CheckOpen(item.session); !open.ok()) {
      status = open;
    } else if (!restored_.ok()) {
      status = restored_;
    } else {
      life_->Touch(executor_->clock().Now());
    }
    if (status.ok() && item.sequence > applied_ + 1) status = CheckQueue(item.sequence);
    if (status.ok() && item.sequence > applied_) {
      status = Enqueue(item, truncate_to, deadline, &done);
    }
    if (!status.ok() || item.sequence <= applied_) {
      calls.push_back(
          [done = std::move(done), result = AppendResult{status, applied_, 0}] { done(result); });
    } else if (item.sequence == applied_ + 1) {
      failed_ = absl::OkStatus();
      ApplyQueued(&calls);
    }
  }
  for (const auto& call : calls) call();
}

// Takes `done` unless it fails. An operation whose turn it is will be applied in this hold of the
// lock; another one waits with rows of its own, for the message it came in may hold much more.
absl::Status Session::Enqueue(const wire::AppendItem& item,
                              std::optional<base::Position> truncate_to, base::Time deadline,
                              AppendDone* done) {
  if (const auto first = queued_.find(item.sequence); first != queued_.end()) {
    if (first->second.truncate_to != truncate_to) {
      return absl::InvalidArgumentError(absl::StrCat("operation ", item.sequence, " of session ",
                                                     spec_.session.id.ToString(),
                                                     " waits already, and is another one"));
    }
    first->second.done.push_back(std::move(*done));  // answered with the one that waits
    return absl::OkStatus();
  }
  Operation operation(budget_);
  operation.item = item;
  operation.truncate_to = truncate_to;
  const absl::StatusOr<bool> held =
      item.sequence == applied_ + 1 ? HoldCopied(operation) : absl::StatusOr<bool>(false);
  if (held.ok() && !*held) {
    const std::span<const std::byte> parts[] = {item.keys, item.values, std::as_bytes(item.tokens)};
    const size_t bytes = parts[0].size() + parts[1].size() + parts[2].size();
    RETURN_IF_ERROR(operation.reservation.Resize(memory::AlignedBuffer::Allocated(bytes)));
    operation.copy = memory::AlignedBuffer(bytes);
    std::byte* out = operation.copy.data();
    for (const std::span<const std::byte> part : parts) {
      if (!part.empty()) std::memcpy(out, part.data(), part.size());
      out += part.size();
    }
    const std::span<const std::byte> all = operation.copy.bytes();
    operation.item.keys = all.first(item.keys.size());
    operation.item.values = all.subspan(item.keys.size(), item.values.size());
    operation.item.tokens = {
        reinterpret_cast<const int32_t*>(all.data() + item.keys.size() + item.values.size()),
        item.tokens.size()};
    operation.serial = ++last_operation_;
    operation.timer =
        executor_->RunAt(deadline, [self = shared_from_this(), sequence = item.sequence,
                                    serial = operation.serial] { self->GiveUp(sequence, serial); });
  }
  operation.done.push_back(std::move(*done));
  queued_.emplace(item.sequence, std::move(operation));
  return absl::OkStatus();
}

// Whether an operation whose turn has not come may wait for it.
absl::Status Session::CheckQueue(uint64_t sequence) const {
  if (!failed_.ok()) return failed_;
  const auto first = queued_.find(sequence);
  const size_t waiting = first == queued_.end() ? queued_.size() : first->second.done.size();
  const size_t most = first == queued_.end() ? kMaxQueuedOperations : kMaxCopies;
  if (waiting < most) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("operation ", sequence, " of session ", spec_.session.id.ToString(), ": ",
                   waiting, first == queued_.end() ? " operations" : " copies of it",
                   " wait for operation ", applied_ + 1, " already, the most"));
}

absl::Status Session::LateError(uint64_t sequence) const {
  const std::string id = spec_.session.id.ToString();
  if (sequence != applied_ + 1) {
    return absl::DeadlineExceededError(
        absl::StrCat("operation ", applied_ + 1, " of session ", id, " did not arrive"));
  }
  return absl::DeadlineExceededError(absl::StrCat("operation ", sequence, " of session ", id,
                                                  " waited too long for rows being read"));
}

// The deadline of an operation that waits for an earlier one, or for rows on the disk.
void Session::GiveUp(uint64_t sequence, uint64_t serial) {
  Calls calls;
  {
    std::lock_guard lock(mutex_);
    const auto found = queued_.find(sequence);
    if (found == queued_.end() || found->second.serial != serial) return;
    Operation operation = std::move(found->second);
    queued_.erase(found);
    ReleaseCopied(operation);
    Answer(&operation, LateError(sequence), 0, &calls);
  }
  for (const auto& call : calls) call();
}

// The first to ask is told of the rows.
void Session::Answer(Operation* operation, const absl::Status& status, uint64_t rows,
                     Calls* calls) {
  for (AppendDone& done : operation->done) {
    calls->push_back(
        [done = std::move(done), result = AppendResult{status, applied_, rows}] { done(result); });
    rows = 0;
  }
}

// Applies every queued operation whose turn it is. A refused one refuses those behind it.
void Session::ApplyQueued(Calls* calls) {
  while (!queued_.empty()) {
    const auto first = queued_.begin();
    if (failed_.ok() && first->first != applied_ + 1) break;
    if (failed_.ok()) {
      const absl::StatusOr<bool> held = HoldCopied(first->second);
      if (held.ok() && !*held) break;
      failed_ = held.status();
    }
    Operation operation = std::move(first->second);
    queued_.erase(first);
    if (operation.timer != 0) executor_->Cancel(operation.timer);
    uint64_t rows = 0;
    if (failed_.ok()) {
      // Whether there is room for the rows must not depend on whether they waited.
      CHECK(operation.reservation.Resize(0).ok());
      failed_ = operation.truncate_to.has_value()
                    ? ApplyTruncate(operation.item.sequence, *operation.truncate_to)
                    : Apply(operation.item, &rows);
      if (failed_.ok()) {
        ++applied_;
        NoteAppended(operation.item);
      }
    }
    ReleaseCopied(operation);
    Answer(&operation, failed_, rows, calls);
  }
  WakeWaiters(calls);
}

// A retry of an operation that failed half way, for memory, continues where it stopped.
absl::Status Session::Apply(const wire::AppendItem& item, uint64_t* rows) {
  const Attempt attempt{item.sequence,      item.layer,          item.kv_head_begin,
                        item.kv_head_count, item.first_position, item.row_count};
  const bool resuming = attempt == half_done_;
  half_done_ = Attempt{};
  RETURN_IF_ERROR(tokens_.Check(item.first_position, item.tokens));
  for (uint32_t head = 0; head < item.kv_head_count && !resuming && item.row_count > 0; ++head) {
    RETURN_IF_ERROR(Stream(item.layer, item.kv_head_begin + head).CheckNext(item.first_position));
  }
  for (uint32_t head = 0; head < item.kv_head_count; ++head) {
    const absl::Status status = ApplyHead(item, head, resuming, rows);
    if (!status.ok()) {
      half_done_ = attempt;
      return status;
    }
  }
  absl::Status status;
  for (uint32_t head = 0; head < item.kv_head_count && status.ok(); ++head) {
    status = Stream(item.layer, item.kv_head_begin + head).ReserveMerge(item.first_position);
  }
  if (status.ok()) status = tokens_.Put(item.first_position, item.tokens);
  if (!status.ok()) {
    half_done_ = attempt;
    return status;
  }
  // From here on nothing fails: what is merged depends on what was applied alone.
  for (uint32_t head = 0; head < item.kv_head_count; ++head) {
    FinishHead(item.layer, item.kv_head_begin + head);
  }
  return absl::OkStatus();
}

void Session::FinishHead(uint32_t layer, uint32_t head) {
  RowStream& stream = Stream(layer, head);
  const std::shared_ptr<SealedSegment> merged = stream.FinishAppend();
  if (merged == nullptr) return;
  const std::vector<Held<SealedSegment>>& parts = stream.PartsOf(*merged);
  for (const Held<SealedSegment>& part : parts) unbuilt_.erase(part.block().get());
  lane_->NoteMerged(parts.size());
  StartSegment(layer, merged);
}

absl::Status Session::ApplyHead(const wire::AppendItem& item, uint32_t head, bool resuming,
                                uint64_t* rows) {
  const uint32_t kv_head = item.kv_head_begin + head;
  RowStream& stream = Stream(item.layer, kv_head);
  const size_t row_bytes = size_t{item.head_dim} * SizeOf(item.dtype);
  int64_t done = 0;
  if (resuming) {
    done = std::clamp<int64_t>(stream.end_position() - item.first_position, 0, item.row_count);
  }
  // A retry may find rows that were to be sealed.
  if (stream.AtSealMark()) RETURN_IF_ERROR(SealStream(item.layer, kv_head));
  while (done < item.row_count) {
    const size_t offset = head * item.head_bytes() + static_cast<size_t>(done) * row_bytes;
    const size_t bytes = static_cast<size_t>(item.row_count - done) * row_bytes;
    ASSIGN_OR_RETURN(
        const int64_t taken,
        stream.Append(item.first_position + done, item.row_count - done,
                      item.keys.subspan(offset, bytes), item.values.subspan(offset, bytes)));
    done += taken;
    *rows += static_cast<uint64_t>(taken);
    if (stream.AtSealMark()) RETURN_IF_ERROR(SealStream(item.layer, kv_head));
  }
  if (item.seal_after && stream.end_position() == item.range().end) {
    RETURN_IF_ERROR(SealStream(item.layer, kv_head));
  }
  return absl::OkStatus();
}

absl::Status Session::SealStream(uint32_t layer, uint32_t head) {
  RowStream& stream = Stream(layer, head);
  ASSIGN_OR_RETURN(const std::shared_ptr<SealedSegment> segment, stream.Seal());
  if (segment != nullptr) StartSegment(layer, segment);
  return absl::OkStatus();
}

// A new segment becomes ready, some time, and whatever else its session wants of it.
void Session::StartSegment(uint32_t layer, const std::shared_ptr<SealedSegment>& segment) {
  segment->PinUntil(pinned_until_, soft_pin_);
  segment->AddLife(life_);
  // Whoever may take it from memory, or writes it.
  const auto done = [tiers = tiers_,
                     journal = journal_](const std::shared_ptr<SealedSegment>& sealed) {
    constexpr base::Duration kSoon = std::chrono::milliseconds(5);  // with others
    if (tiers != nullptr) tiers->Add(sealed);
    if (journal != nullptr) journal->Request(kSoon);
  };
  if (!IndexedLayer(layer)) {
    segment->SetReady({});
    return done(segment);
  }
  Await(*segment);
  // For whoever holds the segment by then; nobody may.
  lane_->Run(
      this, segment->shape().num_rows,
      [weak = std::weak_ptr<SealedSegment>(segment), sampler = sampler_, done](Scratch& scratch) {
        const std::shared_ptr<SealedSegment> held = weak.lock();
        if (held == nullptr) return;
        const std::shared_ptr<const SegmentRows> rows = held->View().rows;
        absl::StatusOr<BuiltIndex> index = sampler->BuildIndex(*rows, scratch);
        CHECK(index.ok()) << index.status().ToString();  // the spec was validated at open
        held->SetReady(*std::move(index));
        done(held);
      });
}

bool Session::Await(SealedSegment& segment) {
  if (unbuilt_.contains(&segment)) return true;
  if (!segment.Watch(SegmentPhase::kBuilding, [weak = weak_from_this(), watched = &segment] {
        if (const auto self = weak.lock()) self->OnIndexed(watched);
      })) {
    return false;
  }
  unbuilt_.emplace(&segment, segment.range().begin);
  return true;
}

void Session::OnIndexed(const SealedSegment* segment) {
  Calls calls;
  {
    std::lock_guard lock(mutex_);
    if (!closed_.ok()) return;
    unbuilt_.erase(segment);
    opening_.erase(segment);
    WakeWaiters(&calls);
  }
  for (const auto& call : calls) call();
}

void Session::Close(absl::Status reason) {
  CHECK(!reason.ok());
  Calls calls;
  {
    std::lock_guard lock(mutex_);
    if (!closed_.ok()) return;
    closed_ = reason;
    for (auto& [sequence, operation] : queued_) {
      if (operation.timer != 0) executor_->Cancel(operation.timer);
      Answer(&operation, reason, 0, &calls);
    }
    queued_.clear();
    WakeWaiters(&calls);
    // What other sessions, plans in flight and index builds hold goes when they end.
    std::vector<RowStream>().swap(streams_);
    tokens_.Clear();
    unbuilt_.clear();
    opening_.clear();
    CHECK(fixed_.Resize(0).ok());
  }
  for (const auto& call : calls) call();
}

void Session::Touch() { life_->Touch(executor_->clock().Now()); }

}  // namespace sounder::kv_node
