#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

#include "common/metrics/registry.h"

namespace sounder::metrics {
namespace {

// Fields of /proc/self/stat after the command's name, which may hold blanks: index 0 is the state
// (field 3 of proc(5)). Zeros where it cannot be read.
std::array<uint64_t, 22> ReadStat() {
  std::array<uint64_t, 22> fields = {};
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return fields;
  std::istringstream rest(line.substr(name_end + 1));
  std::string state;
  rest >> state;
  for (size_t i = 1; i < fields.size(); ++i) {
    int64_t value = 0;
    rest >> value;
    fields[i] = static_cast<uint64_t>(value);
  }
  return fields;
}

constexpr size_t kUserTicks = 11;
constexpr size_t kSystemTicks = 12;
constexpr size_t kThreads = 17;
constexpr size_t kStartTicks = 19;
constexpr size_t kVirtualBytes = 20;
constexpr size_t kResidentPages = 21;

double TicksPerSecond() { return static_cast<double>(sysconf(_SC_CLK_TCK)); }

double OpenFiles() {
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  double count = 0;
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count - 3;  // ".", ".." and the directory itself
}

// Seconds since 1970 at which the machine booted.
double BootTime() {
  std::ifstream file("/proc/stat");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("btime ", 0) == 0) return std::stod(line.substr(6));
  }
  return 0;
}

}  // namespace

void AddProcessMetrics(Registry& registry) {
  const auto add = [&](const char* name, const char* help, double (*read)()) {
    const bool is_counter = std::string(name).ends_with("_total");
    registry.AddStandardCallback(name, help, is_counter, read);
  };
  add("process_cpu_seconds_total", "User and system CPU time spent.", [] {
    const auto stat = ReadStat();
    return static_cast<double>(stat[kUserTicks] + stat[kSystemTicks]) / TicksPerSecond();
  });
  add("process_resident_memory_bytes", "Memory resident in RAM.", [] {
    return static_cast<double>(ReadStat()[kResidentPages]) *
           static_cast<double>(sysconf(_SC_PAGESIZE));
  });
  add("process_virtual_memory_bytes", "Address space in use.",
      [] { return static_cast<double>(ReadStat()[kVirtualBytes]); });
  add("process_threads", "Threads of the process.",
      [] { return static_cast<double>(ReadStat()[kThreads]); });
  add("process_open_fds", "File descriptors open.", OpenFiles);
  add("process_max_fds", "File descriptors allowed.", [] {
    rlimit limit = {};
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? static_cast<double>(limit.rlim_cur) : 0.0;
  });
  add("process_start_time_seconds", "When the process started, in seconds since 1970.",
      [] { return BootTime() + static_cast<double>(ReadStat()[kStartTicks]) / TicksPerSecond(); });
}

}  // namespace sounder::metrics
