// Intervals for shares of right answers. Pure functions.
#ifndef SOUNDER_BENCH_QUALITY_STATISTICS_H_
#define SOUNDER_BENCH_QUALITY_STATISTICS_H_

#include <cstdint>
#include <vector>

namespace sounder::quality {

// An estimate with its two-sided 95 % interval: each end alone is a bound at 97.5 %.
struct Estimate {
  double mean = 0;
  double low = 0;
  double high = 0;
};

// A share of independent answers; Wilson's interval. total >= 1.
Estimate Share(int64_t right, int64_t total);

// Accuracy of `a` minus that of `b` on the same prompts, at least one; the mean is the plain one,
// the interval Agresti and Min's (2005): half a prompt more in each cell of the 2 x 2 table, so it
// has a width even where no two answers differ.
Estimate PairedDifference(const std::vector<bool>& a, const std::vector<bool>& b);

}  // namespace sounder::quality

#endif  // SOUNDER_BENCH_QUALITY_STATISTICS_H_
