// What a durable commit of records costs.
#ifndef SOUNDER_BENCH_STORE_RECORD_COMMITS_H_
#define SOUNDER_BENCH_STORE_RECORD_COMMITS_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "cli/table.h"

namespace sounder::store_bench {

// Commits of a session's record with, in turns, one segment's record, and a tail of 2 layers x 8 kv
// heads x 16 rows of dim 128 in bf16: ms of each (p50, p99), and of opening the store after them.
// In a folder of its own below `folder`, which is removed.
absl::Status MeasureRecordCommits(const std::string& folder, size_t commits, cli::Record& record);

}  // namespace sounder::store_bench

#endif  // SOUNDER_BENCH_STORE_RECORD_COMMITS_H_
