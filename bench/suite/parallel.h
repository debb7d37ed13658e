// What a second thread on one session gains, against what a second process on a session of its own
// gains: the machine's limit for threads that share nothing but memory and caches.
#ifndef SOUNDER_BENCH_SUITE_PARALLEL_H_
#define SOUNDER_BENCH_SUITE_PARALLEL_H_

#include "cli/table.h"

namespace sounder::suite {

// Adds PREFIXtwo_thread_gain, PREFIXtwo_process_gain (medians over rounds of throughput over one
// thread's in the same round), PREFIXtwo_thread_over_two_process (median of their ratios) and
// PREFIXthread_balance (work of the busier thread over the mean, per request), for sessions of
// 65,536 rows: exact attention with 4 kv heads and 16 segments each (no prefix), with one kv head
// and one segment ("one_head_"), and LSH tables with 4 kv heads ("lsh_10_150_"). Takes about a
// minute, `quick` a fifth. Forks: the process must have one thread, and be allowed at least two
// CPUs; with fewer it adds nothing.
void MeasureParallelism(bool quick, cli::Record& record);

}  // namespace sounder::suite

#endif  // SOUNDER_BENCH_SUITE_PARALLEL_H_
