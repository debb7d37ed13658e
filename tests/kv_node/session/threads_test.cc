// One session used from many threads at once: appends out of order with copies, sampled plans while
// indexes are built, and a close in the middle. For ThreadSanitizer as much as for its own checks.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "common/base/philox.h"
#include "common/base/thread_executor.h"
#include "kv_node/session/session_map.h"
#include "tests/kv_node/session/session_driver.h"

namespace sounder::kv_node {
namespace {

constexpr uint64_t kOperations = 120;
constexpr uint32_t kRows = 5;

struct Totals {
  std::atomic<int> asked{0};
  std::atomic<int> answered{0};
  std::atomic<int> refused{0};
};

void AppendFrom(Session& session, base::Executor& executor, uint64_t seed, Totals* totals) {
  base::PhiloxStream random(seed, 0);
  std::vector<uint64_t> order;
  for (uint64_t sequence = 1; sequence <= kOperations; ++sequence) {
    order.insert(order.end() - random.NextBelow(
                                   std::min<uint32_t>(8, static_cast<uint32_t>(order.size() + 1))),
                 sequence);
  }
  for (const uint64_t sequence : order) {
    wire::AppendItem item = SessionDriver::Item(
        session, sequence, 1, static_cast<base::Position>((sequence - 1) * kRows), kRows);
    const memory::AlignedBuffer rows =
        memory::AlignedBuffer::Zeroed(item.kv_head_count * item.head_bytes());
    item.keys = item.values = rows.bytes();
    ++totals->asked;
    session.Append(item, executor.clock().Now() + std::chrono::seconds(20),
                   [totals](const AppendResult& result) {
                     ++totals->answered;
                     if (!result.status.ok()) ++totals->refused;
                   });
  }
}

void PlanFrom(Session& session, base::Executor& executor, uint64_t seed, Totals* totals) {
  base::PhiloxStream random(seed, 0);
  for (int i = 0; i < 60; ++i) {
    const uint64_t sequence = random.NextBelow(kOperations + 1);
    const auto end = static_cast<base::Position>(sequence * kRows);
    wire::AttendItem item = SessionDriver::Query(session, sequence, 1, {end / 2, end}, true);
    // Beyond what is there, so that seals in flight belong to the layout too.
    item.layout_position = end + random.NextBelow(64);
    ++totals->asked;
    session.Plan(item, executor.clock().Now() + std::chrono::seconds(20),
                 [totals](absl::StatusOr<AttendPlan> plan) {
                   ++totals->answered;
                   if (!plan.ok()) {
                     ++totals->refused;
                     return;
                   }
                   for (const std::vector<Piece>& pieces : plan->pieces) {
                     for (const Piece& piece : pieces) {
                       if (!piece.sealed || piece.segment->num_rows() < 8) continue;
                       EXPECT_NE(piece.segment->index(), nullptr) << "planned before it was ready";
                     }
                   }
                 });
  }
}

TEST(ThreadsTest, EverythingIsAnsweredOnce) {
  for (uint64_t round = 0; round < 4; ++round) {
    const bool close_early = round % 2 == 1;
    Totals totals;
    base::ThreadExecutor executor(2, "session");
    SessionMap map({}, &executor);
    ASSERT_TRUE(map.Open(SessionDriver::Spec(round + 1)).ok());
    const wire::SessionRef ref = SessionDriver::Spec(round + 1).session;
    {
      const std::shared_ptr<Session> session = *map.Find(ref.id);
      std::vector<std::thread> threads;
      for (uint64_t thread = 0; thread < 2; ++thread) {
        threads.emplace_back([&, thread] { AppendFrom(*session, executor, 10 + thread, &totals); });
        threads.emplace_back([&, thread] { PlanFrom(*session, executor, 20 + thread, &totals); });
      }
      if (close_early)
        threads.emplace_back([&] { map.CloseAll(absl::UnavailableError("closed")); });
      for (std::thread& thread : threads) thread.join();
      if (!close_early) {
        EXPECT_EQ(session->Counts().rows, kOperations * kRows * 2);
        // Plans may still wait for an index; closing would refuse them.
        while (totals.answered < totals.asked) std::this_thread::yield();
      }
    }
    std::atomic<bool> closed{false};
    const auto all_answered = [&] { return totals.answered == totals.asked; };
    // A close would end plans that wait for an index.
    while (!close_early && !all_answered()) std::this_thread::yield();
    map.Close({ref, 0}, executor.clock().Now(), [&](const absl::Status&) { closed = true; });
    while (!closed || !all_answered() || map.budget().used() > 0) std::this_thread::yield();
    EXPECT_EQ(totals.answered, totals.asked);
    if (!close_early) {
      EXPECT_EQ(totals.refused, 0);
    }
  }
}

}  // namespace
}  // namespace sounder::kv_node
