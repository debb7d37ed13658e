// Blocks that explicit seal marks divide, from when they are complete.
#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kv_node/session/row_stream.h"

namespace sounder::kv_node {
namespace {

// Parts are kept for so many appends and splits after they were last wanted.
constexpr uint64_t kKeptAppends = 4;

}  // namespace

std::pair<size_t, size_t> RowStream::SegmentsOfBlock(base::Position block) const {
  size_t end = segments_.size();
  while (end > 0 && segments_[end - 1]->range().begin >= block + options_.seal_rows) --end;
  size_t begin = end;
  while (begin > 0 && segments_[begin - 1]->range().begin >= block) --begin;
  return {begin, end};
}

std::shared_ptr<SealedSegment> RowStream::HoldCopied(base::PositionRange coming) {
  if (cut_) {
    if (cut_rows_ == nullptr) cut_rows_ = cut_->View().rows;
    if (cut_rows_ == nullptr) return cut_.block();
  }
  const base::Position block = BlockBefore(coming.begin);
  const base::Position block_end = block + options_.seal_rows;
  if (std::max(coming.end, end_position()) < block_end) return nullptr;
  const auto [begin, end] = SegmentsOfBlock(block);
  const bool complete = end > begin && segments_[end - 1]->range().end == block_end;
  if (end == begin || (complete && end - begin == 1)) return nullptr;
  part_rows_.resize(end - begin);
  for (size_t i = begin; i < end; ++i) {
    std::shared_ptr<const SegmentRows>& rows = part_rows_[i - begin];
    if (rows == nullptr) rows = segments_[i]->View().rows;
    if (rows == nullptr) return segments_[i].block();
  }
  return nullptr;
}

void RowStream::ReleaseCopied() {
  cut_rows_ = nullptr;
  part_rows_.clear();
  CHECK(merged_rows_.Resize(0).ok() && merged_index_.Resize(0).ok());
}

absl::Status RowStream::ReserveMerge(base::Position first) {
  const base::Position block = BlockBefore(first);
  const base::Position block_end = block + options_.seal_rows;
  if (end_position() < block_end) return absl::OkStatus();
  const auto [begin, end] = SegmentsOfBlock(block);
  if (end - begin < 2 || segments_[end - 1]->range().end != block_end) return absl::OkStatus();
  const int64_t num_rows = block_end - segments_[begin]->range().begin;
  const size_t bytes = static_cast<size_t>(num_rows) * RowBytes();
  RETURN_IF_ERROR(merged_rows_.Resize(2 * memory::AlignedBuffer::Allocated(bytes)));
  return merged_index_.Resize(IndexBytes(num_rows));
}

std::shared_ptr<SealedSegment> RowStream::FinishAppend() {
  ++clock_;
  DropParts();
  return merged_rows_.bytes() > 0 ? Merge() : nullptr;
}

std::shared_ptr<SealedSegment> RowStream::Merge() {
  const auto [begin, end] = SegmentsOfBlock(BlockOf(part_rows_[0]->shape().first_position));
  CHECK(end - begin == part_rows_.size()) << "HoldCopied comes before";
  MergedBlock merge;
  std::vector<base::Position> marks;
  for (size_t i = begin; i < end; ++i) {
    if (i + 1 < end) marks.push_back(segments_[i]->range().end);
    merge.parts.push_back(std::move(segments_[i]));
  }
  merge.whole = std::make_shared<SealedSegment>(
      CopyParts(), options_.sampler, std::exchange(merged_rows_, Reservation(budget_)),
      std::exchange(merged_index_, Reservation(budget_)), std::move(marks));
  merge.kept_until = clock_ + kKeptAppends;
  segments_[begin] = Held<SealedSegment>(merge.whole);
  const auto at = segments_.begin() + static_cast<std::ptrdiff_t>(begin);
  segments_.erase(at + 1, at + static_cast<std::ptrdiff_t>(end - begin));
  changed_from_ = std::min(changed_from_, merge.whole->range().begin);
  const auto behind = std::find_if(merges_.begin(), merges_.end(), [&](const MergedBlock& other) {
    return other.whole->range().begin > merge.whole->range().begin;
  });
  first_kept_ = std::min(first_kept_, static_cast<size_t>(behind - merges_.begin()));
  return merges_.insert(behind, std::move(merge))->whole;
}

std::unique_ptr<Segment> RowStream::CopyParts() const {
  const SegmentShape& first = part_rows_.front()->shape();
  const SegmentShape& last = part_rows_.back()->shape();
  const int64_t num_rows = last.first_position + last.num_rows - first.first_position;
  const size_t bytes = static_cast<size_t>(num_rows) * RowBytes();
  memory::AlignedBuffer keys(bytes);
  memory::AlignedBuffer values(bytes);
  size_t offset = 0;
  for (const auto& part : part_rows_) {
    const size_t size = static_cast<size_t>(part->shape().num_rows) * RowBytes();
    CHECK(offset + size <= bytes) << "parts lie behind each other";
    std::memcpy(keys.data() + offset, part->keys().data, size);
    std::memcpy(values.data() + offset, part->values().data, size);
    offset += size;
  }
  auto segment = Segment::Create(first.first_position, num_rows, options_.dim, options_.dtype,
                                 std::move(keys), std::move(values));
  CHECK(segment.ok()) << segment.status().ToString();
  return *std::move(segment);
}

void RowStream::DropParts() {
  for (size_t i = first_kept_; i < merges_.size(); ++i) {
    MergedBlock& merge = merges_[i];
    const auto built = [](const Held<SealedSegment>& part) { return part->built(); };
    if (clock_ > merge.kept_until && merge.whole->built() &&
        std::all_of(merge.parts.begin(), merge.parts.end(), built)) {
      merge.parts.clear();
    }
    if (i == first_kept_ && merge.parts.empty()) ++first_kept_;
  }
}

bool RowStream::WantsSplit(base::PositionRange range, base::Position layout_position) {
  for (auto merge = merges_.rbegin(); merge != merges_.rend(); ++merge) {
    const base::PositionRange block = merge->whole->range();
    if (block.end <= layout_position) return false;
    if (merge->whole->marks().front() > layout_position) continue;
    if (Intersect(block, range).empty()) return false;
    merge->kept_until = clock_ + kKeptAppends;
    return merge->parts.empty();
  }
  return false;
}

RowStream::MergedBlock* RowStream::ToSplit(base::Position position) {
  for (auto merge = merges_.rbegin(); merge != merges_.rend(); ++merge) {
    const base::PositionRange range = merge->whole->range();
    if (range.end <= position) return nullptr;
    if (range.begin < position) return merge->parts.empty() ? &*merge : nullptr;
  }
  return nullptr;
}

absl::StatusOr<std::vector<std::shared_ptr<SealedSegment>>> RowStream::Split(
    base::Position position, std::shared_ptr<SealedSegment>* away) {
  std::vector<std::shared_ptr<SealedSegment>> made;
  MergedBlock* const merge = ToSplit(position);
  if (merge == nullptr) return made;
  const std::shared_ptr<const SegmentRows> rows = merge->whole->View().rows;
  if (rows == nullptr) {
    *away = merge->whole;
    return made;
  }
  std::vector<base::Position> ends = merge->whole->marks();
  ends.push_back(merge->whole->range().end);
  base::Position begin = merge->whole->range().begin;
  std::vector<Held<SealedSegment>> parts;
  for (const base::Position end : ends) {
    ASSIGN_OR_RETURN(Held<SealedSegment> part, CopyPart(*rows, {begin, end}));
    made.push_back(part.block());
    parts.push_back(std::move(part));
    begin = end;
  }
  merge->parts = std::move(parts);
  merge->kept_until = ++clock_ + kKeptAppends;
  first_kept_ = std::min(first_kept_, static_cast<size_t>(merge - merges_.data()));
  DropParts();
  return made;
}

absl::StatusOr<Held<SealedSegment>> RowStream::CopyPart(const SegmentRows& rows,
                                                        base::PositionRange part) {
  const size_t bytes = static_cast<size_t>(part.size()) * RowBytes();
  Reservation row_room(budget_);
  Reservation index_room(budget_);
  RETURN_IF_ERROR(row_room.Resize(2 * memory::AlignedBuffer::Allocated(bytes)));
  RETURN_IF_ERROR(index_room.Resize(IndexBytes(part.size())));
  const int64_t skip = part.begin - rows.shape().first_position;
  const auto copy = [&](const memory::RowsView& of) {
    return memory::AlignedBuffer::CopyOf({of.Row(skip), bytes});
  };
  ASSIGN_OR_RETURN(std::unique_ptr<Segment> segment,
                   Segment::Create(part.begin, part.size(), options_.dim, options_.dtype,
                                   copy(rows.keys()), copy(rows.values())));
  return Held<SealedSegment>(std::make_shared<SealedSegment>(
      std::move(segment), options_.sampler, std::move(row_room), std::move(index_room)));
}

// Of segments that begin before `position`: the last one, where it is cut and was merged.
size_t RowStream::Unmerge(base::Position position) {
  while (!merges_.empty() && merges_.back().whole->range().begin >= position) merges_.pop_back();
  if (unmerged_.whole && position <= unmerged_.whole->range().begin) unmerged_ = {};
  size_t back = 0;
  if (!merges_.empty() && merges_.back().whole->range().end > position) {
    MergedBlock merge = std::move(merges_.back());
    merges_.pop_back();
    if (!merge.parts.empty()) segments_.pop_back();
    for (Held<SealedSegment>& part : merge.parts) {
      if (part->range().begin >= position) break;
      segments_.push_back(std::move(part));
      ++back;
    }
    changed_from_ = std::min(changed_from_, merge.whole->range().begin);
    if (back > 0 && recorded_ && merge.whole->built()) {
      unmerged_ = {Held<SealedSegment>(std::move(merge.whole)), position};
    }
  }
  first_kept_ = std::min(first_kept_, merges_.size());
  return back;
}

bool RowStream::UnmergedBuilt() const {
  const base::PositionRange block = unmerged_.whole->range();
  const auto built = [&](const Held<SealedSegment>& segment) {
    return Intersect(block, segment->range()).empty() || segment->built();
  };
  return std::all_of(segments_.begin(), segments_.end(), built) && (!cut_ || built(cut_));
}

const RowStream::MergedBlock* RowStream::MergeOf(base::Position first) const {
  const auto found = std::lower_bound(merges_.begin(), merges_.end(), first,
                                      [](const MergedBlock& merge, base::Position position) {
                                        return merge.whole->range().begin < position;
                                      });
  return found != merges_.end() && found->whole->range().begin == first ? &*found : nullptr;
}

}  // namespace sounder::kv_node
