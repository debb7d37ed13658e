// The rows of one (session, layer, kv head) on this node: sealed segments in order of position, and
// behind them the tail, the rows since the last seal mark.
//
//   [ segment )[ segment )   gap   [ segment )[ tail ...
//
// Gaps lie between shards that are elsewhere; they start and end at seal marks, so the tail is
// always one run. Seal marks lie at multiples of seal_rows, which divide positions into blocks, and
// wherever the writer wants them; but those within a block divide it only until it is complete:
// the append that completes it merges its segments into one. At layout positions before its end it
// is laid out as it was then, so the layout is a function of the rows, the marks and the layout
// position; parts that are gone by then are made anew. Rows may be shared with the streams of other
// sessions (shared_rows.h); what one of them appends or cuts off changes nothing for the others.
// Not thread safe: the session's lock guards it. What Collect returns stays valid and unchanged
// after the lock is released, also while rows are appended.
#ifndef SOUNDER_KV_NODE_SESSION_ROW_STREAM_H_
#define SOUNDER_KV_NODE_SESSION_ROW_STREAM_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/memory/aligned_buffer.h"
#include "common/memory/rows_view.h"
#include "kv_node/sampler/sampler.h"
#include "kv_node/session/memory_budget.h"
#include "kv_node/session/sealed_segment.h"
#include "kv_node/session/session_image.h"
#include "kv_node/session/shared_rows.h"

namespace sounder::kv_node {

struct StreamOptions {
  int dim = 0;
  base::DType dtype = base::DType::kBF16;
  int64_t seal_rows = 4096;
  // Indexes the segments; null: no index. What an index may take is reserved with the rows, so that
  // a seal never fails for memory.
  std::shared_ptr<const Sampler> sampler = nullptr;
};

// A run of rows to attend: rows [row_begin, row_end) of `segment`, or of the tail. After a cut the
// tail lies in a segment, until rows are appended to it.
struct Piece {
  base::Position first_position = 0;  // of row 0 of the segment or tail
  int64_t row_begin = 0;
  int64_t row_end = 0;
  bool sealed = false;  // at the wanted layout position; otherwise its rows are attended exactly
  bool ready = false;   // the segment's index may be asked for
  std::shared_ptr<SealedSegment> holder;            // of the segment, for its share of the budget
  std::shared_ptr<const Segment> segment;           // null: it is cold
  std::shared_ptr<const SegmentRows> segment_rows;  // null for a tail, and where only the store has
  std::shared_ptr<const SegmentReader> store;       // them; null: the segment is not stored
  std::shared_ptr<const TailRows> tail;
  memory::RowsView keys;  // of row 0 on; empty where the rows are to be read from the store
  memory::RowsView values;

  bool in_memory() const { return tail != nullptr || segment_rows != nullptr; }

  int64_t rows() const { return row_end - row_begin; }
};

class RowStream {
 public:
  RowStream(const StreamOptions& options, MemoryBudget* budget);

  // Whether rows may be appended at `first`: ALREADY_EXISTS when it is before the end of what is
  // held, FAILED_PRECONDITION for a gap that does not go from a seal mark to a multiple of
  // seal_rows.
  absl::Status CheckNext(base::Position first) const;
  // Appends rows at `first` ([rows, dim] packed) up to the next seal mark at most; returns how many
  // were taken (> 0 for rows > 0). As CheckNext, and RESOURCE_EXHAUSTED at the memory cap.
  absl::StatusOr<int64_t> Append(base::Position first, int64_t rows,
                                 std::span<const std::byte> keys,
                                 std::span<const std::byte> values);
  // Rows of the tail end at a multiple of seal_rows.
  bool AtSealMark() const;
  // Turns the tail into a segment; null if it is empty. It is not ready yet: that is the caller's
  // to see to. RESOURCE_EXHAUSTED at the memory cap, for a tail that other sessions hold too; else
  // there is room.
  absl::StatusOr<std::shared_ptr<SealedSegment>> Seal();
  // Once rows from `first` on have been appended: room to merge the segments of the block before it
  // or around it, if that is complete and they are several. RESOURCE_EXHAUSTED at the memory cap.
  absl::Status ReserveMerge(base::Position first);
  // Merges what there is room for: the segment, which is not ready yet either, or null. Ends the
  // append: parts are kept for a few of them after they were last wanted, and until all indexes are
  // built.
  std::shared_ptr<SealedSegment> FinishAppend();
  // What FinishAppend merged.
  const std::vector<Held<SealedSegment>>& PartsOf(const SealedSegment& merged) const {
    return MergeOf(merged.range().begin)->parts;
  }

  // Before a Truncate to `position` within a merged segment whose parts are gone, or a Collect as
  // laid out there: makes the parts anew. They are not ready yet. Nothing, and `away` is the
  // segment, if its rows are not in memory. RESOURCE_EXHAUSTED at the memory cap.
  absl::StatusOr<std::vector<std::shared_ptr<SealedSegment>>> Split(
      base::Position position, std::shared_ptr<SealedSegment>* away);
  // Forgets rows and seal marks from `position` on. A mark at `position` stays: it is the end of
  // the rows before it. A segment that is cut becomes the tail; one that was merged is its parts
  // again, unless they are gone (then its marks are forgotten). Copies nothing. How many of the
  // last segments came back so.
  size_t Truncate(base::Position position);
  // Another stream of the same rows.
  RowStream Share() const;

  // Fills in what lies behind the first `recorded` segments, or behind fewer where
  // `unchanged_before` says so (SessionImage), or segments have been merged: those only before
  // `whole_before`, up to where the whole session can be recorded.
  void AddTo(size_t recorded, base::Position unchanged_before, base::Position whole_before,
             StreamImage* image);
  // A new stream of these segments, in order of position. `cut_rows` > 0: only the first
  // so many rows of the last one are the stream's.
  void StartFrom(std::vector<std::shared_ptr<SealedSegment>> segments, int64_t cut_rows);

  // Whether Collect for a sample wants parts of a merged segment that are gone: what Split makes of
  // `layout_position`. Those that it wants and that are there are kept on.
  bool WantsSplit(base::PositionRange range, base::Position layout_position);
  // The pieces that hold `range` in order of position, as laid out at `layout_position`, each as
  // its segment was at some moment of the call. `sampled`: pieces that are sealed will be.
  // FAILED_PRECONDITION naming the first missing position unless they hold all of it.
  absl::StatusOr<std::vector<Piece>> Collect(base::PositionRange range,
                                             base::Position layout_position, bool sampled) const;
  // Before rows `coming` are appended: segments that are to be copied, because they were cut or
  // will be merged, keep their rows in memory from now on. One whose rows are not there and must be
  // loaded first, or null.
  std::shared_ptr<SealedSegment> HoldCopied(base::PositionRange coming);
  // Afterwards: those that are still there may leave memory.
  void ReleaseCopied();

  base::Position first_position() const;  // -1: no rows
  base::Position end_position() const;    // one past the youngest row; 0: no rows
  base::Position EndWithin(
      base::Position position) const;  // the same, of the rows before `position`
  int64_t rows() const;
  size_t num_segments() const { return segments_.size(); }
  const std::vector<Held<SealedSegment>>& segments() const { return segments_; }
  // Adds what it holds; of blocks in `once` nothing, see HeldBytes.
  void Count(HeldBytes* bytes, SharedBlocks* once) const;

 private:
  // A block that explicit marks divided, and its one segment since it is complete.
  struct MergedBlock {
    std::shared_ptr<SealedSegment> whole;
    std::vector<Held<SealedSegment>> parts;  // as its marks divide it; empty: they are gone
    uint64_t kept_until = 0;                 // parts, by clock_
  };
  // Rows that were split from a merged segment, which is recorded until their indexes are built.
  struct Unmerged {
    Held<SealedSegment> whole;  // or none
    base::Position end = 0;     // of the rows
  };
  base::Position BlockOf(base::Position position) const {
    return position / options_.seal_rows * options_.seal_rows;
  }
  // Where the last row before `first` lies, or would.
  base::Position BlockBefore(base::Position first) const {
    return BlockOf(std::max(first, base::Position{1}) - 1);
  }
  // Segments [first, second) of the block.
  std::pair<size_t, size_t> SegmentsOfBlock(base::Position block) const;
  std::shared_ptr<SealedSegment> Merge();
  std::unique_ptr<Segment> CopyParts() const;
  void DropParts();
  MergedBlock* ToSplit(base::Position position);
  absl::StatusOr<Held<SealedSegment>> CopyPart(const SegmentRows& rows, base::PositionRange part);
  size_t Unmerge(base::Position position);
  bool UnmergedBuilt() const;
  const MergedBlock* MergeOf(base::Position first) const;
  absl::Status GrowTail(int64_t rows);
  absl::Status CopyTail(int64_t capacity, bool replaces);
  uint64_t IndexBytes(int64_t rows) const {
    return options_.sampler == nullptr ? 0 : options_.sampler->IndexBytesBound(rows);
  }
  size_t RowBytes() const { return static_cast<size_t>(options_.dim) * SizeOf(options_.dtype); }
  memory::RowsView TailView(const memory::AlignedBuffer& buffer) const;

  const StreamOptions options_;
  MemoryBudget* const budget_;
  std::vector<Held<SealedSegment>> segments_;
  base::Position tail_first_ = 0;
  int64_t tail_rows_ = 0;
  Held<TailRows> tail_;                          // where they lie, or
  Held<SealedSegment> cut_;                      // they are the first rows of this segment
  std::shared_ptr<const SegmentRows> cut_rows_;  // of cut_, from HoldCopied to the append
  std::vector<std::shared_ptr<const SegmentRows>> part_rows_;  // likewise, of what is to be merged
  std::vector<MergedBlock> merges_;                            // in order of position
  Unmerged unmerged_;
  bool recorded_ = false;  // there are images, or was a record
  // Segments from there on are not as the last image had them.
  base::Position changed_from_ = base::kMaxPositions;
  size_t first_kept_ = 0;      // of merges_, whose parts are kept
  uint64_t clock_ = 0;         // of appends and splits
  Reservation index_to_come_;  // of the tail
  // Of a merge, from ReserveMerge on.
  Reservation merged_rows_;
  Reservation merged_index_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_ROW_STREAM_H_
