// The rows a worker keeps of one session, layer and kv head: the sink tokens and the window (while
// a prompt is prefilled, or where a layer stays local: everything).
#ifndef SOUNDER_GPU_WORKER_KV_LOCAL_ROWS_H_
#define SOUNDER_GPU_WORKER_KV_LOCAL_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/memory/aligned_buffer.h"
#include "common/memory/rows_view.h"

namespace sounder::gpu_worker {

// A run of rows at consecutive positions.
struct LocalPiece {
  base::Position first_position = 0;
  memory::RowsView keys;
  memory::RowsView values;
};

// Not thread safe. Views are valid until the next call that is not const.
class LocalRows {
 public:
  LocalRows(int dim, base::DType dtype, int64_t num_sinks)
      : dim_(dim), dtype_(dtype), num_sinks_(num_sinks), window_begin_(num_sinks) {}

  // Appends the next row, rounding f32[dim] to the dtype.
  void Append(const float* key, const float* value);
  // The same with packed rows of the dtype, at the positions of `range`. It begins at end(), or
  // behind it where only sinks are held: the rows in between are not.
  void Load(base::PositionRange range, const std::byte* keys, const std::byte* values);
  // Forgets rows before `position`, except sinks.
  void DropBefore(base::Position position);
  // Forgets rows at `position` and behind. Neither the end nor any row before it may lie in what
  // was dropped: it is a sink, or in the window.
  void Truncate(base::Position position);

  base::Position end() const { return end_; }
  base::Position window_begin() const { return window_begin_ < end_ ? window_begin_ : end_; }
  LocalPiece Sinks() const;
  // All rows held behind the sinks.
  LocalPiece Window() const;
  // Rows of any range that is held in one piece (CHECK).
  LocalPiece Range(base::PositionRange range) const;
  size_t bytes() const { return keys_.allocated() + values_.allocated(); }

 private:
  size_t RowBytes() const { return static_cast<size_t>(dim_) * SizeOf(dtype_); }
  int64_t RowOf(base::Position position) const;
  int64_t RowsHeld() const { return RowOf(end_); }
  LocalPiece Piece(base::Position first, base::Position end) const;
  void Reserve(int64_t rows);

  const int dim_;
  const base::DType dtype_;
  const int64_t num_sinks_;
  base::Position window_begin_;  // first position behind the sinks that is held
  base::Position end_ = 0;
  // Rows [0, sinks) and, behind them, `gap_` dropped rows, then the window.
  int64_t gap_ = 0;
  memory::AlignedBuffer keys_;
  memory::AlignedBuffer values_;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_KV_LOCAL_ROWS_H_
