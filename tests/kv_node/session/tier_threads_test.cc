// Sessions larger than memory, used from many threads at once: appends, plans, forks and spills
// while segments are written, dropped, opened and recorded. For ThreadSanitizer as much as for its
// own checks.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "common/base/philox.h"
#include "common/base/thread_executor.h"
#include "tests/kv_node/session/tier_driver.h"

namespace sounder::kv_node {
namespace {

constexpr uint64_t kSessions = 2;
constexpr uint64_t kAppends = 40;
constexpr uint32_t kRows = 64;  // a segment of each head, 32 KiB
constexpr uint64_t kMemory = uint64_t{1} << 20;

#ifdef __SANITIZE_THREAD__
constexpr bool kDurable = false;  // it does not see RocksDB's order of commits
#else
constexpr bool kDurable = true;
#endif

// Waits for one answer.
template <typename T>
class Answer {
 public:
  void Set(T value) {
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(value_.has_value()) << "answered twice";
    value_ = std::move(value);
    changed_.notify_all();
  }
  T Get() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return value_.has_value(); });
    return *std::move(value_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<T> value_;
};

// A node's stores and sessions, on threads.
struct Node {
  Node() {
    linux_disk = *LinuxDisk::Start(folder.path() + "/segments", {.direct = false});
    log = *SegmentLog::Open(linux_disk.get(), {});
    io = std::make_unique<base::ThreadExecutor>(2, "io");
    store = std::make_unique<SegmentStore>(linux_disk.get(), log.get(), io.get());
    if (kDurable) records = *RecordStore::Open(folder.path() + "/records");
    budget = std::make_unique<MemoryBudget>(kMemory);
    executor = std::make_unique<base::ThreadExecutor>(2, "session");
    map = std::make_unique<SessionMap>(SessionMapOptions{}, executor.get(),
                                       SessionStores{store.get(), records.get(), budget.get()});
    map->tiers()->Start();
  }
  // As a node that ends: what is in flight goes with the executors.
  ~Node() {
    map->CloseAll(absl::UnavailableError("the end"));
    executor = nullptr;
    map = nullptr;
    io = nullptr;
  }

  ScratchFolder folder;
  std::unique_ptr<LinuxDisk> linux_disk;
  std::unique_ptr<SegmentLog> log;
  std::unique_ptr<base::ThreadExecutor> io;
  std::unique_ptr<SegmentStore> store;
  std::unique_ptr<RecordStore> records;
  std::unique_ptr<MemoryBudget> budget;
  std::unique_ptr<base::ThreadExecutor> executor;
  std::unique_ptr<SessionMap> map;
};

wire::SessionSpec Spec(uint64_t number) {
  wire::SessionSpec spec = TierDriver::Spec(number);
  spec.min_indexed_rows = 8;
  if (kDurable) spec.durability = wire::Durability::kDisk;
  return spec;
}

void AppendAll(Node& node, Session& session, std::atomic<uint64_t>* appended) {
  for (uint64_t sequence = 1; sequence <= kAppends; ++sequence) {
    wire::AppendItem item = SessionDriver::Item(
        session, sequence, 0, static_cast<base::Position>((sequence - 1) * kRows), kRows);
    std::vector<float> values;
    for (uint32_t head = 0; head < 2; ++head) {
      for (uint32_t row = 0; row < kRows; ++row) {
        values.insert(values.end(), 64, SessionDriver::Element(head, item.first_position + row));
      }
    }
    item.keys = item.values = std::as_bytes(std::span(values));
    for (;;) {
      Answer<AppendResult> answer;
      session.Append(item, node.executor->clock().Now() + std::chrono::seconds(20),
                     [&](const AppendResult& result) { answer.Set(result); });
      const AppendResult result = answer.Get();
      if (result.status.ok()) break;
      // Too much is in use at the moment.
      ASSERT_EQ(result.status.code(), absl::StatusCode::kResourceExhausted) << result.status;
      Answer<bool> room;
      session.WhenCaughtUp(node.executor->clock().Now() + std::chrono::milliseconds(100),
                           [&] { room.Set(true); });
      room.Get();
    }
    *appended = sequence;
  }
}

void CheckPiece(Node& node, const Piece& piece, uint32_t head) {
  memory::RowsView values = piece.values;
  memory::AlignedBuffer keys_read, values_read;
  if (!piece.in_memory()) {
    std::vector<uint16_t> rows(static_cast<size_t>(piece.segment->num_rows()));
    std::iota(rows.begin(), rows.end(), uint16_t{0});
    keys_read = memory::AlignedBuffer(rows.size() * 256);
    values_read = memory::AlignedBuffer(rows.size() * 256);
    Answer<absl::Status> read;
    ReadRows(*node.linux_disk, {{piece.store, rows, keys_read.bytes(), values_read.bytes()}},
             [&](std::span<const absl::Status> statuses, const auto&) { read.Set(statuses[0]); });
    const absl::Status status = read.Get();
    ASSERT_TRUE(status.ok()) << status;
    values = {values_read.data(), piece.segment->num_rows(), 256, 64, base::DType::kF32};
  }
  for (int64_t row = piece.row_begin; row < piece.row_end; ++row) {
    ASSERT_EQ(values.At(row, 0), SessionDriver::Element(head, piece.first_position + row));
  }
}

// What was appended before, at random, now and then of a fork.
void ReadSome(Node& node, uint64_t number, const std::atomic<uint64_t>& appended,
              std::atomic<uint64_t>* plans) {
  base::PhiloxStream random(number, 3);
  for (uint64_t round = 0; round < 60 || appended < kAppends; ++round) {
    const uint64_t sequence = appended;
    const auto end = static_cast<base::Position>(sequence * kRows);
    if (end == 0) {
      std::this_thread::yield();
      continue;
    }
    std::shared_ptr<Session> session = *node.map->Find(Spec(number).session.id);
    wire::AttendItem item = SessionDriver::Query(
        *session, sequence, 0, {random.NextBelow(static_cast<uint32_t>(end)), end}, true);
    const base::SessionId child{9, number * 1000 + round};
    const bool forks = random.NextBelow(8) == 0;
    if (forks) {
      Answer<absl::Status> forked;
      node.map->Fork({{session->spec().session, sequence, 0}, end, {child, 0}, 0},
                     node.executor->clock().Now() + std::chrono::seconds(20),
                     [&](absl::Status status) { forked.Set(std::move(status)); });
      const absl::Status status = forked.Get();
      if (absl::IsResourceExhausted(status)) continue;
      ASSERT_TRUE(status.ok()) << status;
      session = *node.map->Find(child);
      item.session = {child, 0};
      item.sequence = 0;
    }
    Answer<absl::StatusOr<AttendPlan>> answer;
    session->Plan(item, node.executor->clock().Now() + std::chrono::seconds(20),
                  [&](absl::StatusOr<AttendPlan> plan) { answer.Set(std::move(plan)); });
    const absl::StatusOr<AttendPlan> plan = answer.Get();
    // Readers and writers may hold more between them than there is.
    ASSERT_TRUE(plan.ok() || absl::IsResourceExhausted(plan.status())) << plan.status();
    for (uint32_t head = 0; plan.ok() && head < 2; ++head) {
      for (const Piece& piece : plan->pieces[head]) {
        ASSERT_NO_FATAL_FAILURE(CheckPiece(node, piece, head));
        if (piece.sealed) {
          ASSERT_NE(piece.segment->index(), nullptr);
        }
      }
    }
    *plans += plan.ok() ? 1 : 0;
    if (!forks) continue;
    Answer<absl::Status> closed;
    node.map->Close({{child, 0}, 0, 0}, node.executor->clock().Now(),
                    [&](absl::Status status) { closed.Set(std::move(status)); });
    ASSERT_TRUE(closed.Get().ok());
  }
}

TEST(TierThreadsTest, RowsAreThereWhereverTheyAre) {
  Node node;
  for (uint64_t number = 1; number <= kSessions; ++number) {
    const auto opened = node.map->Open(Spec(number));
    ASSERT_TRUE(opened.ok()) << opened.status();
  }
  std::atomic<uint64_t> appended[kSessions] = {};
  std::atomic<uint64_t> plans{0};
  std::vector<std::thread> threads;
  for (uint64_t number = 1; number <= kSessions; ++number) {
    std::atomic<uint64_t>& so_far = appended[number - 1];
    threads.emplace_back(
        [&, number] { AppendAll(node, **node.map->Find(Spec(number).session.id), &so_far); });
    threads.emplace_back([&, number] { ReadSome(node, number, so_far, &plans); });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint64_t number = 1; number <= kSessions; ++number) {
    const auto session = *node.map->Find(Spec(number).session.id);
    EXPECT_EQ(session->Counts().rows, 2 * kAppends * kRows);
    if (!kDurable) continue;
    // Rows behind a segment are durable when its index is built, which this waits for.
    Answer<absl::StatusOr<AttendPlan>> all;
    session->Plan(SessionDriver::Query(*session, kAppends, 0, {0, kAppends * kRows}, true),
                  node.executor->clock().Now() + std::chrono::seconds(20),
                  [&](absl::StatusOr<AttendPlan> plan) { all.Set(std::move(plan)); });
    ASSERT_TRUE(all.Get().ok());
    ASSERT_TRUE(session->MakeDurable().ok());
    EXPECT_EQ(session->Info().durable_position, kAppends * kRows);
  }
  const TierCounters counters = node.map->tiers()->counters();
  std::printf("plans %d, opened %d, spilled %d\n", static_cast<int>(plans),
              static_cast<int>(counters.opened_segments),
              static_cast<int>(counters.spilled_segments));
  EXPECT_GT(counters.spilled_segments, 0u);
}

}  // namespace
}  // namespace sounder::kv_node
