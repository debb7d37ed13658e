#include "gpu_worker/kv/local_rows.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/check.h"

namespace sounder::gpu_worker {

// Buffer row of a position: sinks first, then the gap, then the window.
int64_t LocalRows::RowOf(base::Position position) const {
  if (position < num_sinks_) return position;
  return num_sinks_ + gap_ + (position - window_begin_);
}

void LocalRows::Reserve(int64_t rows) {
  const size_t needed = static_cast<size_t>(rows) * RowBytes();
  if (needed <= keys_.size()) return;
  const size_t grown = std::max(needed, keys_.size() + keys_.size() / 2);
  const size_t used = static_cast<size_t>(RowsHeld()) * RowBytes();
  const auto grow = [&](memory::AlignedBuffer* buffer) {
    memory::AlignedBuffer larger(grown / RowBytes() * RowBytes());
    if (used > 0) std::memcpy(larger.data(), buffer->data(), used);
    *buffer = std::move(larger);
  };
  grow(&keys_);
  grow(&values_);
}

void LocalRows::Append(const float* key, const float* value) {
  Reserve(RowsHeld() + 1);
  const size_t offset = static_cast<size_t>(RowsHeld()) * RowBytes();
  const size_t element = SizeOf(dtype_);
  for (int i = 0; i < dim_; ++i) {
    base::StoreElement(key[i], keys_.data() + offset + i * element, dtype_);
    base::StoreElement(value[i], values_.data() + offset + i * element, dtype_);
  }
  ++end_;
}

void LocalRows::Load(base::PositionRange range, const std::byte* keys, const std::byte* values) {
  if (range.begin != end_) {
    CHECK(end_ == num_sinks_ && range.begin > end_) << "rows before " << range.begin;
    window_begin_ = end_ = range.begin;
    gap_ = 0;
  }
  Reserve(RowsHeld() + range.size());
  const size_t offset = static_cast<size_t>(RowsHeld()) * RowBytes();
  const size_t bytes = static_cast<size_t>(range.size()) * RowBytes();
  if (bytes == 0) return;
  std::memcpy(keys_.data() + offset, keys, bytes);
  std::memcpy(values_.data() + offset, values, bytes);
  end_ = range.end;
}

void LocalRows::Truncate(base::Position position) {
  CHECK(position >= 0 && position <= end_);
  if (position <= num_sinks_) {
    window_begin_ = num_sinks_;
    gap_ = 0;
  } else {
    CHECK(position >= window_begin_) << position << ", the window begins at " << window_begin_;
  }
  end_ = position;
}

// Dropped rows leave a gap that is closed when it is as large as what is kept.
void LocalRows::DropBefore(base::Position position) {
  const base::Position begin = std::min(std::max(position, num_sinks_), std::max(end_, num_sinks_));
  if (begin <= window_begin_) return;
  gap_ += begin - window_begin_;
  window_begin_ = begin;
  const int64_t kept = end_ - begin;
  if (gap_ <= kept + 64) return;
  const size_t from = static_cast<size_t>(num_sinks_ + gap_) * RowBytes();
  const size_t to = static_cast<size_t>(num_sinks_) * RowBytes();
  const size_t bytes = static_cast<size_t>(kept) * RowBytes();
  const size_t capacity = static_cast<size_t>(num_sinks_ + 2 * kept + 64) * RowBytes();
  const auto compact = [&](memory::AlignedBuffer* buffer) {
    if (buffer->size() <= 2 * capacity) {
      std::memmove(buffer->data() + to, buffer->data() + from, bytes);
      return;
    }
    memory::AlignedBuffer smaller(capacity);  // after a prompt: give its memory back
    std::memcpy(smaller.data(), buffer->data(), to);
    std::memcpy(smaller.data() + to, buffer->data() + from, bytes);
    *buffer = std::move(smaller);
  };
  compact(&keys_);
  compact(&values_);
  gap_ = 0;
}

LocalPiece LocalRows::Piece(base::Position first, base::Position end) const {
  LocalPiece piece;
  piece.first_position = first;
  const auto view = [&](const memory::AlignedBuffer& buffer) {
    return memory::RowsView{buffer.data() + static_cast<size_t>(RowOf(first)) * RowBytes(),
                            end - first, static_cast<int64_t>(RowBytes()), dim_, dtype_};
  };
  if (end > first) {
    piece.keys = view(keys_);
    piece.values = view(values_);
  } else {
    piece.keys = {nullptr, 0, static_cast<int64_t>(RowBytes()), dim_, dtype_};
    piece.values = piece.keys;
  }
  return piece;
}

LocalPiece LocalRows::Sinks() const { return Piece(0, std::min(num_sinks_, end_)); }

LocalPiece LocalRows::Window() const { return Piece(window_begin(), end_); }

LocalPiece LocalRows::Range(base::PositionRange range) const {
  CHECK(range.end <= end_) << range.end << " > " << end_;
  // Without a gap in positions, sinks and window are one run in the buffer too.
  const bool whole = window_begin_ == num_sinks_ && gap_ == 0;
  CHECK(range.empty() || whole || range.end <= num_sinks_ || range.begin >= window_begin_)
      << "[" << range.begin << ", " << range.end << ") is not held in one piece";
  return Piece(range.begin, std::max(range.begin, range.end));
}

}  // namespace sounder::gpu_worker
