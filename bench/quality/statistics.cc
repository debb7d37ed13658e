#include "bench/quality/statistics.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"

namespace sounder::quality {
namespace {

constexpr double kNormal975 = 1.959963984540054;  // quantile of the normal law

}  // namespace

Estimate Share(int64_t right, int64_t total) {
  CHECK(total >= 1 && right >= 0 && right <= total) << right << " of " << total;
  const double n = static_cast<double>(total);
  const double share = static_cast<double>(right) / n;
  const double z2 = kNormal975 * kNormal975;
  const double centre = (share + z2 / (2 * n)) / (1 + z2 / n);
  const double half =
      kNormal975 * std::sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n);
  return {share, std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

Estimate PairedDifference(const std::vector<bool>& a, const std::vector<bool>& b) {
  CHECK(a.size() == b.size() && !a.empty()) << a.size() << " against " << b.size();
  double only_a = 0, only_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    only_a += a[i] && !b[i] ? 1 : 0;
    only_b += b[i] && !a[i] ? 1 : 0;
  }
  const double mean = (only_a - only_b) / static_cast<double>(a.size());
  const double n = static_cast<double>(a.size()) + 2;
  const double centre = (only_a - only_b) / n;
  const double variance = ((only_a + only_b + 1) / n - centre * centre) / n;
  const double half = kNormal975 * std::sqrt(variance);
  return {mean, std::max(-1.0, centre - half), std::min(1.0, centre + half)};
}

}  // namespace sounder::quality
