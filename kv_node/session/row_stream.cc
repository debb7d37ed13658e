#include "kv_node/session/row_stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {

RowStream::RowStream(const StreamOptions& options, MemoryBudget* budget)
    : options_(options), budget_(budget), index_to_come_(budget) {}

base::Position RowStream::first_position() const {
  if (!segments_.empty()) return segments_.front()->segment->first_position();
  return tail_rows_ > 0 ? tail_first_ : -1;
}

base::Position RowStream::end_position() const {
  if (tail_rows_ > 0) return tail_first_ + tail_rows_;
  return segments_.empty() ? 0 : segments_.back()->range().end;
}

int64_t RowStream::rows() const {
  int64_t rows = tail_rows_;
  for (const auto& sealed : segments_) rows += sealed->segment->num_rows();
  return rows;
}

uint64_t RowStream::row_bytes() const {
  uint64_t bytes = tail_ == nullptr ? 0 : tail_->reservation.bytes();
  for (const auto& sealed : segments_) bytes += sealed->rows.bytes();
  return bytes;
}

uint64_t RowStream::index_bytes() const {
  uint64_t bytes = 0;
  for (const auto& sealed : segments_) bytes += sealed->index.bytes();
  return bytes;
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

// Readers may hold the old memory, so a larger tail is a new one. Both are accounted while both are
// there. On failure nothing has changed.
absl::Status RowStream::GrowTail(int64_t rows) {
  if (tail_ != nullptr && rows <= tail_->capacity) return absl::OkStatus();
  const int64_t grown = tail_ == nullptr ? 64 : tail_->capacity + tail_->capacity / 2;
  const int64_t capacity = std::clamp(grown, rows, std::max(rows, options_.seal_rows));
  const size_t bytes = static_cast<size_t>(capacity) * RowBytes();
  Reservation reservation(budget_);
  RETURN_IF_ERROR(reservation.Resize(2 * memory::AlignedBuffer::Allocated(bytes)));
  if (options_.index_bytes_bound != nullptr) {
    RETURN_IF_ERROR(index_to_come_.Resize(options_.index_bytes_bound(capacity)));
  }
  auto larger = std::make_shared<TailRows>(std::move(reservation));
  larger->keys = memory::AlignedBuffer(bytes);
  larger->values = memory::AlignedBuffer(bytes);
  larger->capacity = capacity;
  if (tail_rows_ > 0) {
    const size_t used = static_cast<size_t>(tail_rows_) * RowBytes();
    std::memcpy(larger->keys.data(), tail_->keys.data(), used);
    std::memcpy(larger->values.data(), tail_->values.data(), used);
  }
  tail_ = std::move(larger);
  return absl::OkStatus();
}

bool RowStream::AtSealMark() const {
  return tail_rows_ > 0 && (tail_first_ + tail_rows_) % options_.seal_rows == 0;
}

// The segment takes the tail's place in the budget, so that a seal never fails for memory. What
// readers of the tail still hold of it is not accounted until they let go.
absl::StatusOr<std::shared_ptr<Segment>> RowStream::Seal() {
  if (tail_rows_ == 0) return std::shared_ptr<Segment>();
  const size_t bytes = static_cast<size_t>(tail_rows_) * RowBytes();
  const auto tight = [bytes](const memory::AlignedBuffer& rows) {
    return memory::AlignedBuffer::CopyOf({rows.data(), bytes});
  };
  ASSIGN_OR_RETURN(std::unique_ptr<Segment> segment,
                   Segment::Create(tail_first_, tail_rows_, options_.dim, options_.dtype,
                                   tight(tail_->keys), tight(tail_->values)));
  auto sealed = std::make_shared<Sealed>(Sealed{std::move(segment), std::move(tail_->reservation),
                                                std::move(index_to_come_), /*ready=*/false});
  CHECK(sealed->rows.Resize(sealed->segment->row_bytes()).ok());  // never more than the tail's
  segments_.push_back(sealed);
  index_to_come_ = Reservation(budget_);
  tail_ = nullptr;
  tail_rows_ = 0;
  return std::shared_ptr<Segment>(sealed, sealed->segment.get());
}

void RowStream::SetReady(const Segment* segment) {
  const SegmentIndex* index = segment->index();
  const uint64_t copies = index == nullptr ? 0 : index->row_bytes();
  const uint64_t bytes = segment->index_bytes() + copies;
  for (const auto& sealed : segments_) {
    if (sealed->segment.get() != segment) continue;
    CHECK(bytes <= sealed->index.bytes()) << bytes << " > " << sealed->index.bytes();
    CHECK(sealed->index.Resize(bytes).ok());
    sealed->index.Give(copies, &sealed->rows);
    sealed->ready = true;
  }
}

memory::RowsView RowStream::TailView(const memory::AlignedBuffer& buffer) const {
  return {buffer.data(), tail_rows_, static_cast<int64_t>(RowBytes()), options_.dim,
          options_.dtype};
}

absl::StatusOr<std::vector<Piece>> RowStream::Collect(base::PositionRange range,
                                                      base::Position layout_position) const {
  std::vector<Piece> pieces;
  base::Position next = range.begin;
  const auto add = [&](base::PositionRange held) {
    const base::PositionRange part = Intersect(range, held);
    if (part.empty() || part.begin != next) return false;
    Piece& piece = pieces.emplace_back();
    piece.first_position = held.begin;
    piece.row_begin = part.begin - held.begin;
    piece.row_end = part.end - held.begin;
    next = part.end;
    return true;
  };
  for (const auto& sealed : segments_) {
    if (!add(sealed->range())) continue;
    Piece& piece = pieces.back();
    piece.sealed = sealed->range().end <= layout_position;
    piece.segment = std::shared_ptr<const Segment>(sealed, sealed->segment.get());
    piece.keys = piece.segment->keys();
    piece.values = piece.segment->values();
  }
  if (tail_rows_ > 0 && add({tail_first_, tail_first_ + tail_rows_})) {
    pieces.back().tail = tail_;
    pieces.back().keys = TailView(tail_->keys);
    pieces.back().values = TailView(tail_->values);
  }
  if (next < range.end) {
    return absl::FailedPreconditionError(
        absl::StrCat("positions [", range.begin, ", ", range.end, ") were asked for, but position ",
                     next, " is not held; held are [", std::max<int64_t>(first_position(), 0), ", ",
                     end_position(), ")"));
  }
  return pieces;
}

bool RowStream::AllReady(base::PositionRange range, base::Position layout_position) const {
  for (const auto& sealed : segments_) {
    const bool wanted = sealed->range().end <= layout_position;
    if (wanted && !sealed->ready && !Intersect(range, sealed->range()).empty()) return false;
  }
  return true;
}

}  // namespace sounder::kv_node
