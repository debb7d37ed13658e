// Mean and spread of stored rows. Pure, thread safe.
#ifndef SOUNDER_COMMON_KERNELS_ROW_STATISTICS_H_
#define SOUNDER_COMMON_KERNELS_ROW_STATISTICS_H_

#include "common/memory/rows_view.h"

namespace sounder::kernels {

// mean f32[dim] over all rows; 0 for no rows. Summed per dimension in row order, in f32 over runs
// of 256 rows and in f64 over the runs: the same bits at every SIMD level.
void MeanOfRows(const memory::RowsView& rows, float* mean);

// norms[r] = |row r - mean|, f32[rows]. Equal over SIMD levels up to rounding only.
void CentredNorms(const memory::RowsView& rows, const float* mean, float* norms);

}  // namespace sounder::kernels

#endif  // SOUNDER_COMMON_KERNELS_ROW_STATISTICS_H_
