#include "bench/suite/timing.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>

#include "bench/kernels/sequential_read.h"
#include "common/base/check.h"
#include "common/base/cpu.h"

namespace sounder::suite {
namespace {

volatile double used;

// Of the cache this core uses. (sysconf, the fallback, counts all caches of the package on AMD.)
size_t L3Bytes() {
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");
  size_t kib = 0;
  if (file >> kib) return kib << 10;
  return static_cast<size_t>(std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE)));
}

size_t FlushBytes() { return std::max(size_t{64} << 20, 2 * L3Bytes()); }

}  // namespace

int PinToCurrentCore() {
  const int core = sched_getcpu();
  if (core < 0) return -1;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  return sched_setaffinity(0, sizeof set, &set) == 0 ? core : -1;
}

double Quantile(std::vector<double> values, double fraction) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const double at = fraction * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

CacheFlusher::CacheFlusher() : buffer_(FlushBytes()) {
  std::memset(buffer_.data(), 1, buffer_.size());  // real pages, not the shared zero page
}

void CacheFlusher::Flush() {
  Use(static_cast<double>(bench_kernels::SequentialRead(buffer_.bytes())));
}

double TimeCold(CacheFlusher& flusher, const std::function<void()>& step) {
  flusher.Flush();
  const double begin = base::ThreadCpuUs();
  step();
  return base::ThreadCpuUs() - begin;
}

void Use(double value) {
  CHECK(std::isfinite(value)) << "a timed step gave " << value;
  used = value;
}

}  // namespace sounder::suite
