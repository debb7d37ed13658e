// Four times as many rows as memory, written and attended all the time beside a session that should
// not notice: memory stays within its bound, answers stay the same to the bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <functional>
#include <mutex>
#include <thread>

#include "common/base/philox.h"
#include "tests/e2e/synthetic_session.h"
#include "tests/e2e/worker.h"

namespace sounder::e2e {
namespace {

using Clock = std::chrono::steady_clock;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // slow, so fewer rows; takes memory of its own
#else
constexpr bool kSanitized = false;
#endif

struct SoakSpec {
  std::chrono::seconds duration;  // at most
  uint64_t memory;
  int64_t positions;  // of each of the sessions that are written
  bool until_seen;    // it ends when there was something to notice
};

// Notes when the node's store was written to.
class WriteWatch {
 public:
  explicit WriteWatch(std::string address)
      : address_(std::move(address)), thread_([this] { Run(); }) {}
  ~WriteWatch() { Stop(); }
  void Stop() {
    {
      std::lock_guard lock(mutex_);
      if (std::exchange(stopped_, true)) return;
    }
    changed_.notify_all();
    thread_.join();
  }
  double written_bytes() const { return written_bytes_; }  // as last seen
  // After Stop: whether anything was written between the two looks around that time.
  bool WroteDuring(Clock::time_point begin, Clock::time_point end) const {
    return std::any_of(writes_.begin(), writes_.end(), [&](const auto& write) {
      return write.first < end && begin < write.second;
    });
  }

 private:
  void Run() {
    double written = 0;
    Clock::time_point before = Clock::now();
    std::unique_lock lock(mutex_);
    do {
      const std::string metrics = HttpGet(address_, "/metrics").body;
      const double now = Metric(metrics, "sounder_store_written_bytes_total").value_or(written);
      const Clock::time_point asked = Clock::now();
      written_bytes_ = now;
      if (std::exchange(written, now) != now) writes_.emplace_back(before, asked);
      before = asked;
    } while (!changed_.wait_for(lock, milliseconds(20), [&] { return stopped_; }));
  }

  const std::string address_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  std::atomic<double> written_bytes_{0};
  std::vector<std::pair<Clock::time_point, Clock::time_point>> writes_;
  std::thread thread_;
};

double Share(int part, int all) { return all > 0 ? static_cast<double>(part) / all : 0; }

class Soak {
 public:
  explicit Soak(const SoakSpec& spec)
      : spec_(spec), hot_rows_(spec.positions / 8, 21), rows_(spec.positions, 22) {
    nodes_.push_back(std::make_unique<Node>(
        Arguments{"--threads", "2", "--store", folder_.Path("store"), "--memory",
                  std::to_string(spec.memory), "--log-level", "warning"}));
    begin_ = Clock::now();
  }

  void Run() {
    Client client(nodes_, "tcp", seconds(30));
    const pid_t pid = nodes_[0]->process().pid();
    const int64_t idle = PeakResidentKib(pid);
    const auto hot = Open(client, 1, hot_rows_);
    ASSERT_NE(hot, nullptr);
    WriteWatch watch(nodes_[0]->addresses().http);
    watch_ = &watch;
    std::thread writer([&] { Write(client); });
    std::thread reader([&] { AttendWritten(client); });
    const std::vector<Attended> attended = AttendHot(client, hot.get());
    writer.join();
    reader.join();
    watch.Stop();
    Report(attended, watch, 1024. * static_cast<double>(PeakResidentKib(pid) - idle));
    nodes_[0]->process().Signal(SIGTERM);
    EXPECT_EQ(nodes_[0]->process().Wait(seconds(30)), 0);
  }

 private:
  struct Attended {
    Clock::time_point begin, end;
    double ms() const { return std::chrono::duration<double, std::milli>(end - begin).count(); }
  };
  using Session = std::shared_ptr<gpu_worker::RemoteSession>;
  bool over() const {
    return Clock::now() >= begin_ + spec_.duration || (spec_.until_seen && seen());
  }
  // Whether rows went to the disk for want of memory while others were read from it.
  bool seen() const {
    return sessions_written_ > 1 && cold_attends_ > 0 && watch_->written_bytes() > least_spilled();
  }
  double least_spilled() const { return kSanitized ? 0 : static_cast<double>(spec_.memory); }
  // As many as rows_ of a quarter of the memory that make four times the memory.
  size_t most_sessions() const { return static_cast<size_t>(4 * spec_.memory / rows_.bytes()); }

  Session Open(Client& client, uint64_t number, const SyntheticRows& rows) {
    auto session = client->Open(SyntheticRows::Options({7, number}, 2048));
    EXPECT_TRUE(session.ok()) << session.status();
    if (!session.ok()) return nullptr;
    const absl::Status appended = rows.AppendTo(client.kv(), session->get());
    EXPECT_TRUE(appended.ok()) << appended;
    return appended.ok() ? *session : nullptr;
  }

  // Session after session; the oldest goes when there are enough.
  void Write(Client& client) {
    for (uint64_t number = 2; !over(); ++number) {
      const Session session = Open(client, number, rows_);
      if (session == nullptr) return;
      Session oldest;
      {
        std::lock_guard lock(mutex_);
        written_.push_back(session);
        ++sessions_written_;
        if (written_.size() > most_sessions()) {
          oldest = written_.front();
          written_.erase(written_.begin());
        }
      }
      if (oldest == nullptr) continue;
      std::lock_guard attending(attending_);
      EXPECT_TRUE(client->Close(oldest.get()).ok());
    }
  }

  // Whichever: all have the same rows, and were asked the same.
  void AttendWritten(Client& client) {
    base::PhiloxStream random(1, 1);
    std::vector<float> first;
    while (!over()) {
      std::lock_guard attending(attending_);
      Session session;
      {
        std::lock_guard lock(mutex_);
        if (!written_.empty()) {
          session = written_[random.NextBelow(static_cast<uint32_t>(written_.size()))];
        }
      }
      if (session == nullptr) {
        std::this_thread::yield();
        continue;
      }
      const std::vector<float> outputs = Attend(client, session.get(), rows_);
      if (first.empty()) first = outputs;
      EXPECT_EQ(outputs, first);
      ++cold_attends_;
      if (testing::Test::HasFailure()) return;
    }
  }

  std::vector<float> Attend(Client& client, gpu_worker::RemoteSession* session,
                            const SyntheticRows& rows) {
    CorrelatedQueries queries(&rows);
    gpu_worker::AttendQuery query = SampledQuery(session, &queries, .01f);
    client->StartAttend(0, std::span(&query, 1))->Wait();
    EXPECT_TRUE(query.status.ok()) << query.status;
    return query.outputs;
  }

  std::vector<Attended> AttendHot(Client& client, gpu_worker::RemoteSession* hot) {
    CorrelatedQueries queries(&hot_rows_);
    const gpu_worker::AttendQuery asked = SampledQuery(hot, &queries, .01f);
    std::vector<float> first;
    std::vector<Attended> attended;
    while (!over() && !testing::Test::HasFailure()) {
      gpu_worker::AttendQuery query = asked;
      const Clock::time_point begin = Clock::now();
      client->StartAttend(0, std::span(&query, 1))->Wait();
      attended.push_back({begin, Clock::now()});
      EXPECT_TRUE(query.status.ok()) << query.status;
      if (first.empty()) first = query.outputs;
      EXPECT_EQ(query.outputs, first);
    }
    return attended;
  }

  void Report(const std::vector<Attended>& attended, const WriteWatch& watch, double peak) {
    ASSERT_FALSE(attended.empty());
    std::vector<double> ms;
    for (const Attended& one : attended) ms.push_back(one.ms());
    std::sort(ms.begin(), ms.end());
    const double median = ms[ms.size() / 2];
    int slow = 0, while_writing = 0, during_writes = 0;
    for (const Attended& one : attended) {
      const bool writing = watch.WroteDuring(one.begin, one.end);
      while_writing += writing;
      if (one.ms() <= 10 * median) continue;
      ++slow;
      during_writes += writing;
    }
    const std::string metrics = HttpGet(nodes_[0]->addresses().http, "/metrics").body;
    const double spilled = Metric(metrics, "sounder_store_written_bytes_total").value_or(0);
    const auto print = [](const char* key, double value) { std::printf("%s %.6g\n", key, value); };
    print("soak_seconds", std::chrono::duration<double>(attended.back().end - begin_).count());
    print("sessions_written", sessions_written_);
    print("spilled_bytes", spilled);
    print("hot_attends", static_cast<double>(ms.size()));
    print("hot_median_ms", median);
    print("hot_p99_ms", ms[ms.size() * 99 / 100]);
    print("hot_most_ms", ms.back());
    print("hot_attends_during_writes", while_writing);
    print("slow_attends", slow);
    print("slow_attends_during_writes", during_writes);
    print("slow_share_during_writes", Share(during_writes, while_writing));
    print("slow_share_otherwise",
          Share(slow - during_writes, static_cast<int>(ms.size()) - while_writing));
    print("cold_attends", cold_attends_);
    print("peak_resident_of_memory", peak / static_cast<double>(spec_.memory));
    EXPECT_GT(sessions_written_, 1);
    EXPECT_GT(cold_attends_, 0);
    EXPECT_GT(spilled, least_spilled()) << "there was nothing to notice";
    EXPECT_LE(Metric(metrics, "sounder_node_memory_used_bytes").value_or(1e30),
              static_cast<double>(spec_.memory));
    peak_of_memory_ = peak / static_cast<double>(spec_.memory);
  }

 public:
  double peak_of_memory() const { return peak_of_memory_; }

 private:
  const SoakSpec spec_;
  const TemporaryFolder folder_;
  const SyntheticRows hot_rows_;
  const SyntheticRows rows_;
  std::vector<std::unique_ptr<Node>> nodes_;
  Clock::time_point begin_;
  const WriteWatch* watch_ = nullptr;  // while others run
  std::mutex attending_;               // held while a written session is attended or closed
  std::mutex mutex_;                   // guards the next one
  std::vector<Session> written_;
  std::atomic<int> sessions_written_{0};
  std::atomic<int> cold_attends_{0};
  double peak_of_memory_ = 0;
};

TEST(OvercommitTest, AFewSeconds) {
  Soak({.duration = seconds(60),
        .memory = uint64_t{kSanitized ? 16 : 32} << 20,
        .positions = kSanitized ? 4096 : 8192,
        .until_seen = true})
      .Run();
}

TEST(OvercommitTest, DISABLED_TenMinutes) {
  Soak soak({.duration = seconds(600),
             .memory = uint64_t{256} << 20,
             .positions = 65536,
             .until_seen = false});
  soak.Run();
  if (kSanitized) return;
  EXPECT_LE(soak.peak_of_memory(), 1.1);
}

}  // namespace
}  // namespace sounder::e2e
