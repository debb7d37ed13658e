// The recipe of projection.h, one vector at a time, written to be obviously right: the reference
// for every vectorised or device implementation, which must produce the same bits.
#ifndef SOUNDER_COMMON_LSH_SIGNATURE_REF_H_
#define SOUNDER_COMMON_LSH_SIGNATURE_REF_H_

#include <cstdint>

#include "common/lsh/projection.h"

namespace sounder::lsh {

// vector f32[dim]; mean f32[dim] is subtracted first (f32), or null; signature u64[words].
void SignatureRef(const Projection& projection, const float* vector, const float* mean,
                  uint64_t* signature);

}  // namespace sounder::lsh

#endif  // SOUNDER_COMMON_LSH_SIGNATURE_REF_H_
