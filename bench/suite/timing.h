// How the suite times: thread CPU time on one core, caches emptied before every step.
#ifndef SOUNDER_BENCH_SUITE_TIMING_H_
#define SOUNDER_BENCH_SUITE_TIMING_H_

#include <cstddef>
#include <functional>
#include <vector>

#include "common/memory/aligned_buffer.h"

namespace sounder::suite {

// Binds the calling thread to the core it runs on and returns that core; -1 if the system refuses.
int PinToCurrentCore();

// The value at `fraction` of the sorted values, interpolated linearly; values not empty.
double Quantile(std::vector<double> values, double fraction);

// Reads a buffer twice the size of the last-level cache (at least 64 MiB).
class CacheFlusher {
 public:
  CacheFlusher();
  void Flush();
  size_t bytes() const { return buffer_.size(); }

 private:
  memory::AlignedBuffer buffer_;
};

// Microseconds of one call of `step` with cold caches.
double TimeCold(CacheFlusher& flusher, const std::function<void()>& step);

// Makes `value` a result the compiler must produce. CHECKs that it is finite.
void Use(double value);

}  // namespace sounder::suite

#endif  // SOUNDER_BENCH_SUITE_TIMING_H_
