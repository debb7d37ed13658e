// Time at equal error: LSH tables against sketches.
#ifndef SOUNDER_BENCH_SUITE_FRONTIER_H_
#define SOUNDER_BENCH_SUITE_FRONTIER_H_

#include <span>

#include "bench/suite/suite.h"
#include "cli/table.h"

namespace sounder::suite {

struct FrontierPoint {
  double error = 0;
  double us = 0;
};

// The least time that reaches an error of at most `error`: of a point, or of a line between two
// neighbours in the logarithms of both. Infinite where no point is that good.
double TimeAtError(std::span<const FrontierPoint> points, double error);

// Per family: time and error of LSH of 10 bits (50 to 200 tables; per head and split over
// the heads of a group; with and without V-roulette) and of sketches (64 and 128 bits, several
// budgets), and the best time of either kind at one error: frontier_<family>_{lsh,sketch}_us. For
// lsh that is with up to 150 tables, unless only more of them get that good.
void MeasureFrontier(const SuiteSpec& spec, cli::Record& record);

}  // namespace sounder::suite

#endif  // SOUNDER_BENCH_SUITE_FRONTIER_H_
