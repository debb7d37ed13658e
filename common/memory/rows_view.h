// A strided view of K or V rows. A layout ([head, row, dim] or [row, head, dim]) is a choice of
// strides, not a type.
#ifndef SOUNDER_COMMON_MEMORY_ROWS_VIEW_H_
#define SOUNDER_COMMON_MEMORY_ROWS_VIEW_H_

#include <cstddef>
#include <cstdint>

#include "common/base/dtype.h"

namespace sounder::memory {

// Non-owning; valid while the memory behind it is. Elements of one row are contiguous.
struct RowsView {
  const std::byte* data = nullptr;  // first element of row 0
  int64_t rows = 0;
  int64_t row_stride = 0;  // bytes from one row to the next
  int dim = 0;             // elements per row
  base::DType dtype = base::DType::kF32;

  const std::byte* Row(int64_t row) const { return data + row * row_stride; }
  float At(int64_t row, int column) const {
    return base::LoadElement(Row(row) + column * base::SizeOf(dtype), dtype);
  }
  RowsView Slice(int64_t begin, int64_t end) const {
    RowsView slice = *this;
    slice.data = Row(begin);
    slice.rows = end - begin;
    return slice;
  }
};

}  // namespace sounder::memory

#endif  // SOUNDER_COMMON_MEMORY_ROWS_VIEW_H_
