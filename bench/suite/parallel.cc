#include "bench/suite/parallel.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "bench/suite/attend_node.h"
#include "bench/suite/timing.h"
#include "common/base/check.h"

namespace sounder::suite {
namespace {

struct ParallelSpec {
  AttendNodeSpec node;
  int rounds = 31;
  double window_ms = 60;  // of requests, one after the other
};

int64_t NowNs() {
  timespec now;
  CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void SleepUntil(int64_t ns) {
  const timespec at = {static_cast<time_t>(ns / 1'000'000'000),
                       static_cast<long>(ns % 1'000'000'000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr) != 0) {
  }
}

// Work of the threads during requests: sums over requests of the busiest thread's and of the mean.
struct Balance {
  double busiest = 0;
  double mean = 0;
};

// Requests per second from `start_ns` on for `window_ms`, one after the other.
double Throughput(AttendNode& node, int64_t start_ns, double window_ms, Balance* balance) {
  SleepUntil(start_ns);
  const int64_t begin = NowNs();
  const int64_t end = start_ns + static_cast<int64_t>(window_ms * 1e6);
  int64_t now = begin;
  int requests = 0;
  while (now < end) {
    const std::vector<uint64_t> before = node.Work();
    node.Attend();
    if (balance != nullptr) {
      std::vector<uint64_t> work = node.Work();
      for (size_t i = 0; i < work.size(); ++i) work[i] -= before[i];
      balance->busiest += static_cast<double>(*std::max_element(work.begin(), work.end()));
      balance->mean += static_cast<double>(std::accumulate(work.begin(), work.end(), uint64_t{0})) /
                       static_cast<double>(work.size());
    }
    ++requests;
    now = NowNs();
  }
  return requests / (static_cast<double>(now - begin) * 1e-9);
}

// Another process with a node of one thread on `cpu`, that measures when told.
class OtherProcess {
 public:
  OtherProcess(const ParallelSpec& spec, int cpu) {
    int to_child[2];
    int to_parent[2];
    CHECK(pipe(to_child) == 0 && pipe(to_parent) == 0);
    child_ = fork();
    CHECK(child_ >= 0);
    if (child_ == 0) {
      close(to_child[1]);
      close(to_parent[0]);
      Serve(spec, cpu, to_child[0], to_parent[1]);
      _exit(0);
    }
    close(to_child[0]);
    close(to_parent[1]);
    write_ = to_child[1];
    read_ = to_parent[0];
    (void)Answer();  // its session is there
  }
  ~OtherProcess() {
    close(write_);
    close(read_);
    int status = 0;
    CHECK(waitpid(child_, &status, 0) == child_);
    CHECK(status == 0) << status;
  }
  OtherProcess(const OtherProcess&) = delete;
  OtherProcess& operator=(const OtherProcess&) = delete;

  void Start(int64_t start_ns) {
    CHECK(write(write_, &start_ns, sizeof start_ns) == sizeof start_ns);
  }
  double Answer() {
    double answer = 0;
    CHECK(read(read_, &answer, sizeof answer) == sizeof answer) << "the other process ended";
    return answer;
  }

 private:
  static void Serve(const ParallelSpec& spec, int cpu, int in, int out) {
    AttendNode node(spec.node, std::span(&cpu, 1));
    node.Attend();
    double throughput = 0;
    int64_t start_ns = 0;
    do {
      CHECK(write(out, &throughput, sizeof throughput) == sizeof throughput);
      if (read(in, &start_ns, sizeof start_ns) != sizeof start_ns) return;
      throughput = Throughput(node, start_ns, spec.window_ms, nullptr);
    } while (true);
  }

  pid_t child_ = -1;
  int write_ = -1;
  int read_ = -1;
};

std::vector<int> AllowedCpus() {
  cpu_set_t set;
  CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

void Measure(const std::string& prefix, const ParallelSpec& spec, std::span<const int> two_cpus,
             cli::Record& record) {
  OtherProcess other(spec, two_cpus[1]);  // before this process has threads
  AttendNode single(spec.node, two_cpus.first(1));
  AttendNode shared(spec.node, two_cpus);
  single.Attend();
  shared.Attend();
  const auto soon = [] { return NowNs() + 2'000'000; };
  Balance balance;
  std::vector<double> thread_gain;
  std::vector<double> process_gain;
  std::vector<double> ratio;
  for (int round = 0; round < spec.rounds; ++round) {
    const double one = Throughput(single, soon(), spec.window_ms, nullptr);
    const double threads = Throughput(shared, soon(), spec.window_ms, &balance);
    const int64_t start_ns = soon();
    other.Start(start_ns);
    double processes = Throughput(single, start_ns, spec.window_ms, nullptr);
    processes += other.Answer();
    thread_gain.push_back(threads / one);
    process_gain.push_back(processes / one);
    ratio.push_back(threads / processes);
  }
  record.Add(prefix + "two_thread_gain", Quantile(thread_gain, 0.5));
  record.Add(prefix + "two_process_gain", Quantile(process_gain, 0.5));
  record.Add(prefix + "two_thread_over_two_process", Quantile(ratio, 0.5));
  record.Add(prefix + "thread_balance", balance.busiest / balance.mean);
  record.Add(prefix + "thread_balance_of",
             std::string(shared.counts_instructions() ? "instructions" : "thread_cpu_time"));
}

}  // namespace

void MeasureParallelism(bool quick, cli::Record& record) {
  const std::vector<int> cpus = AllowedCpus();
  if (cpus.size() < 2) {
    std::fprintf(stderr, "bench: fewer than two CPUs, so nothing about threads\n");
    return;
  }
  ParallelSpec spec;
  if (quick) spec.rounds = 5;
  std::fprintf(stderr, "bench: two threads against two processes\n");
  const std::span<const int> two_cpus(cpus.data(), 2);
  Measure("", spec, two_cpus, record);
  ParallelSpec one_head = spec;
  one_head.node.kv_heads = 1;
  one_head.node.seal_rows = static_cast<uint32_t>(one_head.node.n);
  Measure("one_head_", one_head, two_cpus, record);
  spec.node.attention = wire::AttentionKind::kLshTables;
  Measure("lsh_10_150_", spec, two_cpus, record);
}

}  // namespace sounder::suite
