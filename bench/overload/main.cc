// node_overload: a node process under one, two and three times the load it can carry, over UCX and
// TCP on this machine.
//
//   node_overload [ROUNDS [SECONDS [stored]]]       default: 3 rounds of 2 s for each load
//
// stored: of sessions that are four times larger than the node's memory, and lie on the disk of
// the folder for temporary files; each attend reads all rows of one.
// The node (one attend thread) has CPU 0 and the generator the last one, so neither takes the
// other's core; what others on the machine take is seen in the CPU seconds of both. Each round
// measures the capacity with a closed loop and then offers one, two and three times of it at random
// times, whatever comes back. Prints one "key value" a line: medians over rounds; goodput is
// requests answered within their deadline, by the second, and by the second of the node's CPU.
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "bench/overload/load.h"
#include "common/base/check.h"
#include "common/config/logging.h"
#include "tests/e2e/processes.h"

namespace sounder::bench {
namespace {

constexpr int64_t kMaxAttends = 256;
constexpr int64_t kMessageBytes = int64_t{64} << 20;
constexpr int64_t kMemoryBytes = int64_t{256} << 20;

void Pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  CHECK(sched_setaffinity(0, sizeof set, &set) == 0) << "cpu " << cpu;
}

double OwnCpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const size_t at =
      std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())));
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(at), values.end());
  return values[at];
}
double Median(const std::vector<double>& values) { return Percentile(values, 0.5); }

// Looks at a node's metrics again and again, and keeps the most it has seen.
class Watch {
 public:
  explicit Watch(std::string http) : http_(std::move(http)), thread_([this] { Run(); }) {}
  ~Watch() { Stop(); }
  void Stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  double most(const std::string& name) { return most_[name]; }

 private:
  void Run() {
    while (!stop_) {
      const std::string text = e2e::HttpGet(http_, "/metrics").body;
      for (const char* name :
           {"sounder_node_admitted_attend_requests", "sounder_node_message_bytes",
            "sounder_node_memory_used_bytes", "process_resident_memory_bytes"}) {
        most_[name] = std::max(most_[name], e2e::Metric(text, name).value_or(0));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  const std::string http_;
  std::atomic<bool> stop_{false};
  std::map<std::string, double> most_;
  std::thread thread_;
};

struct Phase {
  std::vector<double> goodput;      // a second
  std::vector<double> per_cpu;      // a second of the node's CPU
  std::vector<double> node_cpu;     // seconds of CPU a second
  std::vector<double> own_cpu;      // the same of the generator
  std::vector<double> refused_p99;  // us
  std::vector<double> good_p99;
  uint64_t asked = 0;
  uint64_t refused = 0;
  uint64_t late = 0;
  uint64_t failed = 0;
};

double NodeMetric(const std::string& http, const std::string& name) {
  return e2e::Metric(e2e::HttpGet(http, "/metrics").body, name).value_or(0);
}

template <typename Run>
void Measure(const std::string& http, Phase* phase, Run run) {
  const double node = NodeMetric(http, "process_cpu_seconds_total");
  const double own = OwnCpuSeconds();
  const LoadResult result = run();
  const double node_cpu = NodeMetric(http, "process_cpu_seconds_total") - node;
  phase->goodput.push_back(result.PerSecond());
  phase->per_cpu.push_back(static_cast<double>(result.good) / node_cpu);
  phase->node_cpu.push_back(node_cpu / result.seconds);
  phase->own_cpu.push_back((OwnCpuSeconds() - own) / result.seconds);
  phase->refused_p99.push_back(Percentile(result.refused_us, 0.99));
  phase->good_p99.push_back(Percentile(result.good_us, 0.99));
  phase->asked += result.asked;
  phase->refused += result.refused;
  phase->late += result.late;
  phase->failed += result.failed;
}

void Print(const std::string& name, const Phase& phase) {
  const auto line = [&](const char* what, double value, int digits) {
    std::printf("%s_%s %.*f\n", name.c_str(), what, digits, value);
  };
  line("goodput_per_second", Median(phase.goodput), 1);
  line("goodput_per_node_cpu_second", Median(phase.per_cpu), 1);
  line("node_cpus", Median(phase.node_cpu), 3);
  line("generator_cpus", Median(phase.own_cpu), 3);
  line("good_p99_us", Median(phase.good_p99), 0);
  line("refused_p99_us", Median(phase.refused_p99), 0);
  line("asked", static_cast<double>(phase.asked), 0);
  line("refused", static_cast<double>(phase.refused), 0);
  line("late", static_cast<double>(phase.late), 0);
  line("failed", static_cast<double>(phase.failed), 0);
}

int Main(int rounds, base::Duration duration, bool stored) {
  config::SetLogLevel(config::LogLevel::kError);
  const auto cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const e2e::TemporaryFolder folder;
  e2e::Arguments options = {"--threads=1", "--memory=" + std::to_string(kMemoryBytes) + "B",
                            "--message-memory=" + std::to_string(kMessageBytes) + "B",
                            "--max-attends=" + std::to_string(kMaxAttends), "--log-level=warning"};
  LoadSpec spec;
  if (stored) {
    options.insert(options.end(), {"--store", folder.Path("store")});
    spec.rows = 16384;  // 32 MiB a session
    spec.sessions = 32;
    spec.deadline = std::chrono::seconds(2);
  }
  Pin(0);
  e2e::Node node(options);
  Pin(cpus - 1);
  const std::string http = node.addresses().http;
  Load load(spec, node.control());
  load.Closed(16, std::chrono::milliseconds(500));  // warms up

  Phase capacity;
  std::map<int, Phase> loads;
  Watch watch(http);
  for (int round = 0; round < rounds; ++round) {
    Measure(http, &capacity, [&] { return load.Closed(16, duration / 2); });
    for (const int factor : {1, 2, 3}) {
      Measure(http, &loads[factor],
              [&] { return load.Open(factor * capacity.goodput.back(), duration); });
    }
  }
  watch.Stop();

  Print("capacity", capacity);
  std::vector<double> of_peak;
  std::vector<double> of_peak_by_cpu;
  const auto at = [](const std::vector<double>& values, int round) {
    return values[static_cast<size_t>(round)];
  };
  for (const auto& [factor, phase] : loads) Print("load" + std::to_string(factor), phase);
  for (int round = 0; round < rounds; ++round) {
    double peak = at(capacity.goodput, round);
    double peak_by_cpu = at(capacity.per_cpu, round);
    for (const auto& [factor, phase] : loads) {
      peak = std::max(peak, at(phase.goodput, round));
      peak_by_cpu = std::max(peak_by_cpu, at(phase.per_cpu, round));
    }
    of_peak.push_back(at(loads[3].goodput, round) / peak);
    of_peak_by_cpu.push_back(at(loads[3].per_cpu, round) / peak_by_cpu);
  }
  const std::string text = e2e::HttpGet(http, "/metrics").body;
  double counted = 0;
  for (const char* reason : {"deadline", "disk", "queue", "memory"}) {
    counted += e2e::Metric(text, std::string("sounder_node_refused_requests_total{reason=\"") +
                                     reason + "\"}")
                   .value_or(0);
  }
  std::printf("goodput_at_3x_of_peak %.3f\n", Median(of_peak));
  std::printf("goodput_at_3x_of_peak_by_cpu %.3f\n", Median(of_peak_by_cpu));
  std::printf("deadline_us %.0f\n", static_cast<double>(spec.deadline.count()) / 1000);
  std::printf("refusals_counted_by_node %.0f\n", counted);
  std::printf("most_admitted %.0f\n", watch.most("sounder_node_admitted_attend_requests"));
  std::printf("most_admitted_bound %lld\n", static_cast<long long>(kMaxAttends));
  std::printf("most_message_bytes %.0f\n", watch.most("sounder_node_message_bytes"));
  std::printf("message_bytes_bound %lld\n", static_cast<long long>(kMessageBytes));
  std::printf("most_memory_bytes %.0f\n", watch.most("sounder_node_memory_used_bytes"));
  std::printf("memory_bytes_bound %lld\n", static_cast<long long>(kMemoryBytes));
  std::printf("most_resident_bytes %.0f\n", watch.most("process_resident_memory_bytes"));
  return 0;
}

}  // namespace
}  // namespace sounder::bench

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 3;
  const double seconds = argc > 2 ? std::atof(argv[2]) : 2;
  return sounder::bench::Main(std::max(1, rounds),
                              sounder::base::Duration(static_cast<int64_t>(1e9 * seconds)),
                              argc > 3 && std::string_view(argv[3]) == "stored");
}
