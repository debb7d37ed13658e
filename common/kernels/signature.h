// Signatures of many vectors at once, bit for bit those of lsh::SignatureRef at every SIMD level.
// Pure, thread safe.
#ifndef SOUNDER_COMMON_KERNELS_SIGNATURE_H_
#define SOUNDER_COMMON_KERNELS_SIGNATURE_H_

#include <cstdint>

#include "common/lsh/projection.h"
#include "common/memory/rows_view.h"

namespace sounder::kernels {

// Queries (not centred): vectors f32[count, dim] at `stride` elements; signatures u64[count,
// words].
void SignVectors(const lsh::Projection& projection, const float* vectors, int64_t stride,
                 int64_t count, uint64_t* signatures);

// Table codes of stored rows minus `mean` (f32[dim], or null): the code of row r in table t goes to
// codes[t * code_stride + r]. rows.dim is the projection's; code_stride >= rows.rows. For speed
// keep code_stride * 2 away from multiples of 4096.
void SignRows(const lsh::Projection& projection, const memory::RowsView& rows, const float* mean,
              uint16_t* codes, int64_t code_stride);

}  // namespace sounder::kernels

#endif  // SOUNDER_COMMON_KERNELS_SIGNATURE_H_
