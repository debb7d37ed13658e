// Sessions that branch, used from four threads at once: each appends to a session of its own,
// truncates, forks and closes it, while all read one another's. For ThreadSanitizer as much as for
// its own checks.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <cstdio>
#include <mutex>
#include <thread>
#include <vector>

#include "common/base/philox.h"
#include "common/base/thread_executor.h"
#include "tests/kv_node/session/branch_driver.h"

namespace sounder::kv_node {
namespace {

constexpr int kThreads = 4;
constexpr int kActions = 600;
constexpr base::Position kMostRows = 200;

// The sessions that live, for those who only read.
class Board {
 public:
  void Put(size_t place, std::shared_ptr<Session> session) {
    std::lock_guard lock(mutex_);
    sessions_[place] = std::move(session);
  }
  std::shared_ptr<Session> Get(size_t place) {
    std::lock_guard lock(mutex_);
    return sessions_[place];
  }

 private:
  std::mutex mutex_;
  std::array<std::shared_ptr<Session>, kThreads> sessions_;  // guarded by mutex_
};

struct Totals {
  std::atomic<int> asked{0};
  std::atomic<int> answered{0};
  std::atomic<int> rows_read{0};
};

class Writer {
 public:
  Writer(int place, SessionMap* map, base::Executor* executor, Board* board, Totals* totals)
      : place_(place),
        map_(map),
        executor_(executor),
        board_(board),
        totals_(totals),
        random_(static_cast<uint64_t>(place), 5) {}

  void Run(std::shared_ptr<Session> session) {
    session_ = std::move(session);
    for (int action = 0; action < kActions; ++action) {
      switch (random_.NextBelow(6)) {
        case 0:
          Truncate(Place());
          break;
        case 1:
          ForkAndLeave();
          break;
        case 2:
          ForkOfAnother();
          break;
        case 3:
          Read();
          break;
        default:
          if (end_ > kMostRows) Truncate(Place() / 2);
          Append(5 + random_.NextBelow(30));
      }
    }
    map_->Close({session_->spec().session, sequence_}, Soon(),
                [](const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; });
  }

 private:
  // Among the last rows, mostly in the tail.
  base::Position Place() {
    return end_ - random_.NextBelow(static_cast<uint32_t>(std::min<base::Position>(end_, 25)) + 1);
  }
  base::Time Soon() const { return executor_->clock().Now() + std::chrono::seconds(20); }
  void Append(uint32_t rows) {
    for (uint32_t layer = 0; layer < 2; ++layer) {
      const wire::AppendItem shape = BranchDriver::Item(*session_, ++sequence_, layer, end_, rows);
      wire::AppendItem item = shape;
      memory::AlignedBuffer data =
          memory::AlignedBuffer::Zeroed(item.kv_head_count * item.head_bytes());
      for (size_t i = 0; i < data.As<float>().size(); i += item.head_dim) {
        data.As<float>()[i] =
            static_cast<float>(end_) + static_cast<float>(i / item.head_dim % item.row_count);
      }
      item.keys = item.values = std::as_const(data).bytes();
      session_->Append(item, Soon(), [](const AppendResult& result) {
        EXPECT_TRUE(result.status.ok()) << result.status;
      });
    }
    end_ += rows;
  }
  void Truncate(base::Position position) {
    session_->Truncate(
        session_->spec().session, ++sequence_, position, Soon(),
        [](const AppendResult& result) { EXPECT_TRUE(result.status.ok()) << result.status; });
    end_ = position;
  }
  // Goes on with a child, and closes what it was forked from.
  void ForkAndLeave() {
    const base::Position position = Place();
    const auto child = Fork(*session_, sequence_, position);
    if (child == nullptr) {
      ADD_FAILURE() << "its own session cannot be forked";
      return;
    }
    map_->Close({session_->spec().session, sequence_}, Soon(), [](const absl::Status&) {});
    session_ = child;
    sequence_ = 0;
    end_ = position;
    board_->Put(static_cast<size_t>(place_), child);
  }
  std::shared_ptr<Session> Fork(const Session& parent, uint64_t sequence, base::Position position) {
    wire::ForkCall call;
    call.op.session = parent.spec().session;
    call.op.sequence = sequence;
    call.position = position;
    call.child.id = {static_cast<uint64_t>(place_) + 2, ++children_};
    absl::Status forked;
    map_->Fork(call, executor_->clock().Now(), [&](absl::Status status) { forked = status; });
    if (!forked.ok()) return nullptr;
    return *map_->Find(call.child.id);
  }
  // Of whatever another thread has just now: the child must hold what it was made of.
  void ForkOfAnother() {
    const auto other = board_->Get(random_.NextBelow(kThreads));
    const wire::SessionInfo info = other->Info();
    const auto child = Fork(*other, info.applied_sequence, info.end_position / 2);
    if (child == nullptr) return;  // closed, or cut, in between
    ReadAll(*child);
    map_->Close({child->spec().session, 0}, Soon(), [](const absl::Status&) {});
  }
  void Read() { ReadAll(*board_->Get(random_.NextBelow(kThreads))); }
  void ReadAll(Session& session) {
    const wire::SessionInfo info = session.Info();
    wire::AttendItem item =
        BranchDriver::Query(session, info.applied_sequence, 1, {0, info.end_position});
    item.attention = wire::AttentionKind::kSketch;
    ++totals_->asked;
    session.Plan(item, Soon(), [totals = totals_](absl::StatusOr<AttendPlan> plan) {
      if (plan.ok()) {
        for (const std::vector<Piece>& pieces : plan->pieces) {
          for (const Piece& piece : pieces) {
            if (piece.sealed && piece.segment->num_rows() >= 8) {
              EXPECT_NE(piece.segment->index(), nullptr) << "planned before it was ready";
            }
            for (int64_t row = piece.row_begin; row < piece.row_end; ++row) {
              ASSERT_EQ(piece.keys.At(row, 0), static_cast<float>(piece.first_position + row));
              ++totals->rows_read;
            }
          }
        }
      }
      ++totals->answered;
    });
  }

  const int place_;
  SessionMap* const map_;
  base::Executor* const executor_;
  Board* const board_;
  Totals* const totals_;
  base::PhiloxStream random_;
  std::shared_ptr<Session> session_;
  uint64_t sequence_ = 0;
  base::Position end_ = 0;
  uint64_t children_ = 0;
};

TEST(BranchThreadsTest, ParentsAndChildrenAtOnce) {
  Totals totals;
  base::ThreadExecutor executor(2, "session");
  SessionMap map({.index = {.builds = 2}}, &executor);
  {
    Board board;
    for (int place = 0; place < kThreads; ++place) {
      const wire::SessionSpec spec = BranchDriver::Spec(static_cast<uint64_t>(place) + 1);
      ASSERT_TRUE(map.Open(spec).ok());
      board.Put(static_cast<size_t>(place), *map.Find(spec.session.id));
    }
    std::vector<std::thread> threads;
    std::barrier start(kThreads);
    for (int place = 0; place < kThreads; ++place) {
      threads.emplace_back([&, place, session = board.Get(static_cast<size_t>(place))] {
        start.arrive_and_wait();
        Writer(place, &map, &executor, &board, &totals).Run(session);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  while (totals.answered < totals.asked || map.size() > 0 || map.budget().used() > 0) {
    std::this_thread::yield();
  }
  std::printf("%d plans, %d rows read\n", totals.asked.load(), totals.rows_read.load());
  EXPECT_GT(totals.rows_read, 100);
}

}  // namespace
}  // namespace sounder::kv_node
