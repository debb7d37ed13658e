// Rows in eight bits: K centred by the segment's mean, K and V each with a scale of their own per
// row. A record per row holds both, so that one sampled row is one run of memory:
//   f32 scale of K, f32 scale of V, i8[dim] K, i8[dim] V
// An element is scale * i8; of K, plus the mean. The error of an element is at most scale / 2,
// which is |largest element| / 254.
#ifndef SOUNDER_KV_NODE_KERNELS_INT8_ROWS_H_
#define SOUNDER_KV_NODE_KERNELS_INT8_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "common/memory/rows_view.h"

namespace sounder::kv_node {

// Non-owning.
struct Int8Rows {
  const std::byte* data = nullptr;
  int64_t rows = 0;
  int dim = 0;

  static constexpr size_t kScaleBytes = 2 * sizeof(float);
  static size_t RecordBytes(int dim) { return kScaleBytes + 2 * static_cast<size_t>(dim); }
  size_t record_bytes() const { return RecordBytes(dim); }
  const std::byte* Record(int64_t row) const {
    return data + static_cast<size_t>(row) * record_bytes();
  }
};

// records: RecordBytes(dim) * keys.rows bytes. mean f32[dim]. Elements that are not finite count as
// 0. The same bits at every SIMD level. Pure, thread safe.
void QuantizeRows(const memory::RowsView& keys, const memory::RowsView& values, const float* mean,
                  std::byte* records);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_KERNELS_INT8_ROWS_H_
