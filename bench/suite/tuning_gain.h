// What start-up tuning gains: steps with the default schedule of the kernels beside steps with the
// schedule that was found.
#ifndef SOUNDER_BENCH_SUITE_TUNING_GAIN_H_
#define SOUNDER_BENCH_SUITE_TUNING_GAIN_H_

#include "bench/suite/suite.h"

namespace sounder::suite {

void MeasureTuning(const SuiteSpec& spec, cli::Record& record);

}  // namespace sounder::suite

#endif  // SOUNDER_BENCH_SUITE_TUNING_GAIN_H_
