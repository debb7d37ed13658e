// What a stream looks like from outside, at this moment or as laid out at an earlier position.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kv_node/session/row_stream.h"

namespace sounder::kv_node {

void RowStream::Count(HeldBytes* bytes, SharedBlocks* once) const {
  const auto add = [bytes](uint64_t rows, uint64_t index, bool alone) {
    bytes->rows += rows;
    bytes->index += index;
    if (!alone) bytes->shared += rows + index;
  };
  const auto add_segment = [&](const Held<SealedSegment>& segment) {
    if (!HeldBytes::Counts(segment, once)) return;
    add(segment->row_bytes(), segment->index_bytes(), segment.Alone());
  };
  for (const Held<SealedSegment>& segment : segments_) add_segment(segment);
  if (cut_) add_segment(cut_);
  if (unmerged_.whole) add_segment(unmerged_.whole);
  for (const MergedBlock& merge : merges_) {
    for (const Held<SealedSegment>& part : merge.parts) add_segment(part);
  }
  if (tail_ && HeldBytes::Counts(tail_, once)) add(tail_->reservation.bytes(), 0, tail_.Alone());
  bytes->other += index_to_come_.bytes();
}

void RowStream::AddTo(size_t recorded, base::Position unchanged_before, base::Position whole_before,
                      StreamImage* image) {
  recorded_ = true;
  image->dim = options_.dim;
  image->dtype = options_.dtype;
  size_t first = std::min(recorded, segments_.size());
  while (first > 0 && segments_[first - 1]->range().end > unchanged_before) --first;
  while (first > 0 && segments_[first - 1]->range().begin >= changed_from_) --first;
  image->first_segment = first;
  if (unmerged_.whole && UnmergedBuilt()) unmerged_ = {};
  for (size_t i = first; i < segments_.size(); ++i) {
    const Held<SealedSegment>& segment = segments_[i];
    const base::Position begin = segment->range().begin;
    if (unmerged_.whole && begin >= unmerged_.whole->range().begin) break;
    SegmentView view = begin >= changed_from_ ? segment->View() : SegmentView();
    const MergedBlock* const merge = MergeOf(begin);
    const bool whole =
        view.segment == nullptr || (view.ready && segment->range().end <= whole_before);
    if (merge != nullptr && !merge->parts.empty() && !whole && view.rows != nullptr) {
      for (size_t k = 0; k + 1 < merge->parts.size(); ++k) {  // the last one completed it
        image->segments.push_back(merge->parts[k].block());
      }
      image->merging = segment.block();
      image->merging_rows = std::move(view.rows);
      changed_from_ = begin;
      return;
    }
    image->segments.push_back(segment.block());
  }
  if (unmerged_.whole) {
    changed_from_ = image->tail_first = unmerged_.whole->range().begin;
    image->cut = unmerged_.whole.block();
    image->tail_rows = unmerged_.end - image->tail_first;
    return;
  }
  changed_from_ = base::kMaxPositions;
  if (tail_rows_ == 0) return;
  image->tail_first = tail_first_;
  image->tail_rows = tail_rows_;
  if (cut_) {
    image->cut = cut_.block();
  } else {
    image->tail = ReadTail(tail_.block());
  }
}

memory::RowsView RowStream::TailView(const memory::AlignedBuffer& buffer) const {
  return {buffer.data(), tail_rows_, static_cast<int64_t>(RowBytes()), options_.dim,
          options_.dtype};
}

namespace {

void Fill(const Held<SealedSegment>& sealed, int64_t rows, Piece* piece) {
  SegmentView view = sealed->View();
  piece->holder = sealed.block();
  piece->segment = std::move(view.segment);
  piece->segment_rows = std::move(view.rows);
  piece->store = std::move(view.store);
  piece->ready = view.ready;
  if (piece->segment_rows == nullptr) return;
  piece->keys = piece->segment_rows->keys().Slice(0, rows);
  piece->values = piece->segment_rows->values().Slice(0, rows);
}

// Collects the pieces of a range, in order of position.
class PieceList {
 public:
  explicit PieceList(base::PositionRange range) : range_(range), next_(range.begin) {}

  // Rows `held` of what begins at `first`: the piece, or null if the next row is not among them.
  Piece* Add(base::Position first, base::PositionRange held) {
    const base::PositionRange part = Intersect(range_, held);
    if (part.empty() || part.begin != next_) return nullptr;
    Piece& piece = pieces_.emplace_back();
    piece.first_position = first;
    piece.row_begin = part.begin - first;
    piece.row_end = part.end - first;
    next_ = part.end;
    return &piece;
  }
  void AddSegment(const Held<SealedSegment>& sealed, base::PositionRange held, bool is_sealed) {
    Piece* const piece = Add(sealed->range().begin, held);
    if (piece == nullptr) return;
    piece->sealed = is_sealed;
    Fill(sealed, sealed->shape().num_rows, piece);
  }
  base::Position next() const { return next_; }
  std::vector<Piece> Take() { return std::move(pieces_); }

 private:
  const base::PositionRange range_;
  base::Position next_;
  std::vector<Piece> pieces_;
};

}  // namespace

absl::StatusOr<std::vector<Piece>> RowStream::Collect(base::PositionRange range,
                                                      base::Position layout_position,
                                                      bool sampled) const {
  PieceList pieces(range);
  for (const Held<SealedSegment>& sealed : segments_) {
    const base::PositionRange held = sealed->range();
    const std::vector<base::Position>& marks = sealed->marks();
    if (marks.empty() || held.end <= layout_position || Intersect(range, held).empty()) {
      pieces.AddSegment(sealed, held, held.end <= layout_position);
      continue;
    }
    // As it was before it was complete.
    const MergedBlock* const merge = MergeOf(held.begin);
    base::Position begin = held.begin;
    for (size_t i = 0; i < marks.size(); ++i) {
      const bool part = sampled && marks[i] <= layout_position;
      CHECK(!part || !merge->parts.empty()) << "WantsSplit comes before";
      pieces.AddSegment(part ? merge->parts[i] : sealed, {begin, marks[i]}, part);
      begin = marks[i];
    }
    pieces.AddSegment(sealed, {begin, held.end}, false);
  }
  if (tail_rows_ > 0) {
    Piece* const piece = pieces.Add(tail_first_, {tail_first_, tail_first_ + tail_rows_});
    if (piece != nullptr && cut_) {
      Fill(cut_, tail_rows_, piece);
    } else if (piece != nullptr) {
      piece->tail = ReadTail(tail_.block());
      piece->keys = TailView(tail_->keys);
      piece->values = TailView(tail_->values);
    }
  }
  if (pieces.next() < range.end) {
    return absl::FailedPreconditionError(
        absl::StrCat("positions [", range.begin, ", ", range.end, ") were asked for, but position ",
                     pieces.next(), " is not held; held are [",
                     std::max<int64_t>(first_position(), 0), ", ", end_position(), ")"));
  }
  return pieces.Take();
}

}  // namespace sounder::kv_node
