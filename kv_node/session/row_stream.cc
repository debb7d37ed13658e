#include "kv_node/session/row_stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {

RowStream::RowStream(const StreamOptions& options, MemoryBudget* budget)
    : options_(options),
      budget_(budget),
      index_to_come_(budget),
      merged_rows_(budget),
      merged_index_(budget) {}

base::Position RowStream::first_position() const {
  if (!segments_.empty()) return segments_.front()->range().begin;
  return tail_rows_ > 0 ? tail_first_ : -1;
}

base::Position RowStream::end_position() const {
  if (tail_rows_ > 0) return tail_first_ + tail_rows_;
  return segments_.empty() ? 0 : segments_.back()->range().end;
}

base::Position RowStream::EndWithin(base::Position position) const {
  if (position >= end_position()) return end_position();
  if (tail_rows_ > 0 && position > tail_first_) return position;
  for (auto segment = segments_.rbegin(); segment != segments_.rend(); ++segment) {
    if ((*segment)->range().begin < position) return std::min((*segment)->range().end, position);
  }
  return 0;
}

int64_t RowStream::rows() const {
  int64_t rows = tail_rows_;
  for (const auto& sealed : segments_) rows += sealed->shape().num_rows;
  return rows;
}

absl::Status RowStream::CheckNext(base::Position first) const {
  const base::Position end = end_position();
  if (first < end) {
    return absl::AlreadyExistsError(
        absl::StrCat("position ", first, " was appended before; the next one is ", end));
  }
  const bool holds_rows = tail_rows_ > 0 || !segments_.empty();
  if (holds_rows && first != end && (tail_rows_ > 0 || first % options_.seal_rows != 0)) {
    return absl::FailedPreconditionError(
        absl::StrCat("rows at position ", first, " would leave a gap: the next position is ", end));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> RowStream::Append(base::Position first, int64_t rows,
                                          std::span<const std::byte> keys,
                                          std::span<const std::byte> values) {
  CHECK(keys.size() == static_cast<size_t>(rows) * RowBytes() && keys.size() == values.size());
  RETURN_IF_ERROR(CheckNext(first));
  const base::Position start = tail_rows_ > 0 ? tail_first_ : first;
  const base::Position mark = (start / options_.seal_rows + 1) * options_.seal_rows;
  const int64_t taken = std::min(rows, mark - first);
  if (taken == 0) return 0;
  RETURN_IF_ERROR(GrowTail(tail_rows_ + taken));
  if (tail_rows_ == 0) tail_first_ = first;
  const size_t offset = static_cast<size_t>(tail_rows_) * RowBytes();
  const size_t bytes = static_cast<size_t>(taken) * RowBytes();
  std::memcpy(tail_->keys.data() + offset, keys.data(), bytes);
  std::memcpy(tail_->values.data() + offset, values.data(), bytes);
  tail_rows_ += taken;
  return taken;
}

// On failure nothing has changed.
absl::Status RowStream::GrowTail(int64_t rows) {
  const bool fits = tail_ && rows <= tail_->capacity;
  if (fits) {
    // A fork has no room for its index yet.
    const uint64_t index = IndexBytes(tail_->capacity);
    if (index > index_to_come_.bytes()) RETURN_IF_ERROR(index_to_come_.Resize(index));
    if (tail_->Claim(tail_rows_, rows, tail_.Alone())) return absl::OkStatus();
    RETURN_IF_ERROR(CopyTail(tail_->capacity, /*replaces=*/true));
  } else {
    const int64_t old = tail_ ? tail_->capacity : tail_rows_;
    const int64_t grown = std::max<int64_t>(64, old + old / 2);
    RETURN_IF_ERROR(CopyTail(std::clamp(grown, rows, std::max(rows, options_.seal_rows)),
                             /*replaces=*/static_cast<bool>(cut_)));
  }
  CHECK(tail_->Claim(tail_rows_, rows, /*alone=*/true));
  return absl::OkStatus();
}

// Readers may hold the old memory, so a larger tail is a new one, and both are accounted while both
// are there. Where the copy `replaces` rows that were cut off it takes the place in the budget of
// what nobody else holds: a session that gave up rows finds room to go on.
absl::Status RowStream::CopyTail(int64_t capacity, bool replaces) {
  const size_t bytes = static_cast<size_t>(capacity) * RowBytes();
  const uint64_t row_bytes = 2 * memory::AlignedBuffer::Allocated(bytes);
  const uint64_t index_bytes = IndexBytes(capacity);
  Reservation pool(budget_);
  const bool takes_tail = replaces && tail_ && tail_.Alone();
  const bool takes_cut = replaces && cut_ && cut_.Alone();
  if (takes_tail) tail_->reservation.Give(tail_->reservation.bytes(), &pool);
  const SealedSegment::Share cut_share =
      takes_cut ? cut_->GiveReservation(&pool) : SealedSegment::Share();
  const uint64_t kept = index_to_come_.bytes();
  index_to_come_.Give(kept, &pool);
  const uint64_t wanted = std::max(row_bytes + index_bytes, pool.bytes());
  if (const absl::Status status = pool.Resize(wanted); !status.ok()) {
    pool.Give(kept, &index_to_come_);
    if (takes_cut) cut_->TakeReservation(cut_share, &pool);
    if (takes_tail) pool.Give(pool.bytes(), &tail_->reservation);
    return status;
  }
  pool.Give(index_bytes, &index_to_come_);
  CHECK(pool.Resize(row_bytes).ok());  // no more than it is
  auto copy = std::make_shared<TailRows>(std::move(pool));
  copy->keys = memory::AlignedBuffer(bytes);
  copy->values = memory::AlignedBuffer(bytes);
  copy->capacity = capacity;
  copy->written = tail_rows_;
  if (tail_rows_ > 0) {
    const size_t used = static_cast<size_t>(tail_rows_) * RowBytes();
    CHECK(!cut_ || cut_rows_ != nullptr) << "HoldCopied comes before";
    std::memcpy(copy->keys.data(), cut_ ? cut_rows_->keys().data : tail_->keys.data(), used);
    std::memcpy(copy->values.data(), cut_ ? cut_rows_->values().data : tail_->values.data(), used);
  }
  tail_ = Held<TailRows>(std::move(copy));
  cut_ = {};
  cut_rows_ = nullptr;
  return absl::OkStatus();
}

bool RowStream::AtSealMark() const {
  return tail_rows_ > 0 && (tail_first_ + tail_rows_) % options_.seal_rows == 0;
}

// The segment takes the tail's place in the budget, so that a seal never fails for memory; but not
// of a tail that others hold too. What readers of the tail still hold of it is not accounted until
// they let go.
absl::StatusOr<std::shared_ptr<SealedSegment>> RowStream::Seal() {
  if (tail_rows_ == 0) return std::shared_ptr<SealedSegment>();
  if (cut_) RETURN_IF_ERROR(GrowTail(tail_rows_));
  const size_t bytes = static_cast<size_t>(tail_rows_) * RowBytes();
  const uint64_t row_bytes = 2 * memory::AlignedBuffer::Allocated(bytes);
  const uint64_t index_bytes = IndexBytes(tail_rows_);
  if (index_bytes > index_to_come_.bytes()) RETURN_IF_ERROR(index_to_come_.Resize(index_bytes));
  Reservation rows(budget_);
  if (tail_.Alone()) {
    tail_->reservation.Give(tail_->reservation.bytes(), &rows);
    CHECK(rows.bytes() >= row_bytes) << rows.bytes() << " < " << row_bytes;
  }
  RETURN_IF_ERROR(rows.Resize(row_bytes));
  const auto tight = [bytes](const memory::AlignedBuffer& buffer) {
    return memory::AlignedBuffer::CopyOf({buffer.data(), bytes});
  };
  ASSIGN_OR_RETURN(std::unique_ptr<Segment> segment,
                   Segment::Create(tail_first_, tail_rows_, options_.dim, options_.dtype,
                                   tight(tail_->keys), tight(tail_->values)));
  auto sealed = std::make_shared<SealedSegment>(std::move(segment), options_.sampler,
                                                std::move(rows), std::move(index_to_come_));
  segments_.emplace_back(sealed);
  // The last part of its block, to be merged.
  if (!part_rows_.empty() &&
      BlockOf(part_rows_[0]->shape().first_position) == BlockOf(tail_first_)) {
    part_rows_.push_back(sealed->View().rows);
  }
  index_to_come_ = Reservation(budget_);
  tail_ = {};
  tail_rows_ = 0;
  return sealed;
}

size_t RowStream::Truncate(base::Position position) {
  if (position >= end_position()) return 0;
  unmerged_.end = std::min(unmerged_.end, position);
  if (tail_rows_ > 0 && position > tail_first_) {
    tail_rows_ = position - tail_first_;
    return 0;
  }
  tail_ = {};
  cut_ = {};
  cut_rows_ = nullptr;
  tail_rows_ = 0;
  CHECK(index_to_come_.Resize(0).ok());
  part_rows_.clear();
  while (!segments_.empty() && segments_.back()->range().begin >= position) segments_.pop_back();
  const size_t back = Unmerge(position);
  if (segments_.empty() || segments_.back()->range().end <= position) return back;
  cut_ = std::move(segments_.back());
  segments_.pop_back();
  tail_first_ = cut_->range().begin;
  tail_rows_ = position - tail_first_;
  return back == 0 ? 0 : back - 1;
}

RowStream RowStream::Share() const {
  RowStream other(options_, budget_);
  other.segments_ = segments_;
  other.tail_first_ = tail_first_;
  other.tail_rows_ = tail_rows_;
  other.tail_ = tail_;
  other.cut_ = cut_;
  other.merges_ = merges_;
  other.first_kept_ = first_kept_;
  other.clock_ = clock_;
  return other;
}

void RowStream::StartFrom(std::vector<std::shared_ptr<SealedSegment>> segments, int64_t cut_rows) {
  CHECK(rows() == 0) << "a new stream";
  for (auto& segment : segments) {
    if (!segment->marks().empty()) merges_.emplace_back().whole = segment;
    segments_.emplace_back(std::move(segment));
  }
  first_kept_ = merges_.size();
  recorded_ = true;
  if (cut_rows > 0) Truncate(segments_.back()->range().begin + cut_rows);
}

}  // namespace sounder::kv_node
