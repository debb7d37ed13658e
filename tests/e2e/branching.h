// The session that the program branching_writer writes and e2e_branching_test takes over.
#ifndef SOUNDER_TESTS_E2E_BRANCHING_H_
#define SOUNDER_TESTS_E2E_BRANCHING_H_

#include "tests/cluster/branch_model.h"

namespace sounder::e2e {

inline constexpr int64_t kBranchPositions = 3000;
inline constexpr int64_t kBranchStep = 5;  // positions the writer appends at once

inline tests::RowVersions BranchRows() {
  return {{2, 2, 2, 16, base::DType::kF32}, kBranchPositions, 3, 7};
}

// Cut over nodes by range and by head.
inline gpu_worker::RemoteSessionOptions BranchOptions() {
  gpu_worker::RemoteSessionOptions options =
      tests::SessionOptions({2, 2, 2, 16, base::DType::kF32}, 1, 16);
  options.shard_rows = 32;
  options.head_shards = 2;
  options.sketch = {64, 1};
  options.indexed_layers = {0, 1};
  options.ttl_seconds = 60;
  options.tenant = 3;
  return options;
}

}  // namespace sounder::e2e

#endif  // SOUNDER_TESTS_E2E_BRANCHING_H_
