// One kv head of a session of a million tokens: sixteen segments, sketched.
#ifndef SOUNDER_BENCH_SUITE_MILLION_H_
#define SOUNDER_BENCH_SUITE_MILLION_H_

#include "bench/suite/suite.h"
#include "cli/table.h"

namespace sounder::suite {

// sketch_128_int8_n1m_{us,error,rows_fraction,over_seq_read} and seq_read_n1m_us at
// spec.million_segments segments of spec.size.n rows; medians of interleaved pairs with cold
// caches. Errors are against exact attention in f32. Every segment reads the same share of its
// rows: no hints.
void MeasureMillion(const SuiteSpec& spec, cli::Record& record);

}  // namespace sounder::suite

#endif  // SOUNDER_BENCH_SUITE_MILLION_H_
