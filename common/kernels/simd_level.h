// The SIMD levels this process may run at, and forcing one (the option --simd; tests that run every
// level). Levels are Highway targets, e.g. "AVX3", "AVX2", "SSE4", "SSSE3", "EMU128" (plain C++).
#ifndef SOUNDER_COMMON_KERNELS_SIMD_LEVEL_H_
#define SOUNDER_COMMON_KERNELS_SIMD_LEVEL_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace sounder::kernels {

// Built for and supported by this CPU, best first.
std::vector<std::string> SimdLevels();

// Kernels called from now on run at `level`, "best" for the best. InvalidArgument with the list of
// levels for any other name. Set it before kernels run on other threads: a running kernel keeps its
// level, and a process should not mix them.
absl::Status ForceSimdLevel(std::string_view level);

// The level kernels run at now.
std::string CurrentSimdLevel();

}  // namespace sounder::kernels

#endif  // SOUNDER_COMMON_KERNELS_SIMD_LEVEL_H_
