// The figures of bench.json: exact and sampled attention of one kv head against the time to
// read its K and V once, on one core with cold caches, and what sampling costs in accuracy and
// ingest.
#ifndef SOUNDER_BENCH_SUITE_SUITE_H_
#define SOUNDER_BENCH_SUITE_SUITE_H_

#include "bench/suite/workload.h"
#include "cli/table.h"

namespace sounder::suite {

struct SuiteSpec {
  Size size;
  int pairs = 120;    // of a timed step and a sequential read, interleaved
  int workloads = 3;  // segments the steps go round
  int ingest_runs = 9;
  int data_seeds = 3;           // of the accuracy figures
  int hash_seeds = 16;          // and of draws
  int frontier_steps = 40;      // timed, of the figures at equal error; 0: without them
  int frontier_hash_seeds = 4;  // of their errors
  int million_segments = 16;    // of the long session
  int million_steps = 100;      // timed; 0: without it
  int steps = 24;               // queries of the accuracy figures, each of `group` heads
};
// A tenth of the work, for a look; its figures are not to be quoted.
SuiteSpec QuickSuite();

// Takes seconds to minutes; the caller has pinned the thread and chosen the SIMD level.
void RunSuite(const SuiteSpec& spec, cli::Record& record);

}  // namespace sounder::suite

#endif  // SOUNDER_BENCH_SUITE_SUITE_H_
