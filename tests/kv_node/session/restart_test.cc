// What a restart finds of durable sessions: whatever was acknowledged as durable, and always a
// session as it once was.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "tests/kv_node/session/restart_driver.h"

namespace sounder::kv_node {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
constexpr uint32_t kDim = 64;

wire::SessionSpec Spec(uint64_t number) {
  wire::SessionSpec spec = TierDriver::Spec(number);
  spec.durability = wire::Durability::kDisk;
  return spec;
}

// Every row says where it is and when it was written.
float Value(uint32_t head, base::Position position, int generation) {
  return static_cast<float>(position) + 4096.0f * static_cast<float>(generation) +
         0.5f * static_cast<float>(head);
}

absl::Status Append(NodeRun& run, Session& session, uint64_t sequence, base::Position first,
                    uint32_t rows, int generation, bool seal = false) {
  wire::AppendItem item = NodeRun::Item(session, sequence, 0, first, rows);
  item.session.epoch = session.epoch();
  item.seal_after = seal;
  std::vector<float> values;
  std::vector<int32_t> tokens;
  for (uint32_t head = 0; head < 2; ++head) {
    for (uint32_t row = 0; row < rows; ++row) {
      values.insert(values.end(), kDim, Value(head, first + row, generation));
    }
  }
  for (uint32_t row = 0; row < rows; ++row) {
    tokens.push_back(static_cast<int32_t>(first) + static_cast<int32_t>(row) + 10000 * generation);
  }
  item.keys = item.values = std::as_bytes(std::span(values));
  item.tokens = tokens;
  std::optional<AppendResult> result;
  session.Append(item, run.executor.clock().Now() + std::chrono::seconds(5),
                 [&](const AppendResult& ended) { result = ended; });
  while (!result.has_value() && run.executor.Step()) {
  }
  return result.has_value() ? result->status : absl::UnknownError("no answer");
}

absl::Status Truncate(NodeRun& run, Session& session, uint64_t sequence, base::Position position) {
  std::optional<absl::Status> status;
  session.Truncate({session.spec().session.id, session.epoch()}, sequence, position,
                   run.executor.clock().Now() + std::chrono::seconds(5),
                   [&](const AppendResult& result) { status = result.status; });
  while (!status.has_value() && run.executor.Step()) {
  }
  return status.value_or(absl::UnknownError("no answer"));
}

// The generations of the rows of a session, read back with their token ids.
std::vector<int> Generations(RestartDriver& driver, const base::SessionId& id) {
  NodeRun& run = driver.run();
  const auto session = run.map.Find(id);
  EXPECT_TRUE(session.ok()) << session.status();
  if (!session.ok()) return {};
  wire::FetchItem item;
  item.session = {id, (*session)->epoch()};
  item.kv_head_count = 2;
  item.head_dim = kDim;
  item.dtype = base::DType::kF32;
  item.range = {0, (*session)->Info().end_position};
  item.want_tokens = true;
  std::optional<absl::StatusOr<FetchedRows>> rows;
  (*session)->Fetch(item, run.executor.clock().Now() + std::chrono::seconds(5),
                    [&](absl::StatusOr<FetchedRows> fetched) { rows = std::move(fetched); });
  while (!rows.has_value() && run.executor.Step()) {
  }
  EXPECT_TRUE(rows.has_value() && rows->ok())
      << (rows.has_value() ? rows->status().ToString() : "");
  if (!rows.has_value() || !rows->ok()) return {};
  std::vector<int> generations;
  for (uint32_t head = 0; head < 2; ++head) {
    base::Position position = 0;
    for (const Piece& piece : (**rows).pieces[head]) {
      absl::Status status;
      const std::vector<float> values = ReadColumn(run, piece, *driver.disks().disk, &status);
      EXPECT_TRUE(status.ok()) << status;
      if (!status.ok()) return {};
      for (int64_t row = piece.row_begin; row < piece.row_end; ++row, ++position) {
        const float value = values[static_cast<size_t>(row)];
        const auto generation = static_cast<int>(value / 4096);
        EXPECT_EQ(value, Value(head, position, generation)) << "torn";
        if (head == 0) {
          generations.push_back(generation);
          EXPECT_EQ((**rows).tokens[static_cast<size_t>(position)], position + 10000 * generation);
        } else {
          EXPECT_EQ(generations[static_cast<size_t>(position)], generation) << "heads differ";
        }
      }
    }
  }
  return generations;
}

void WaitUntilDurable(NodeRun& run, Session& session, base::Position position) {
  for (int i = 0; i < 1000 && session.Info().durable_position < position; ++i) {
    run.RunFor(milliseconds(10));
  }
  ASSERT_EQ(session.Info().durable_position, position);
}

TEST(RestartTest, WhatIsDurableIsThereAfterACrash) {
  RestartDriver driver(1);
  {
    const auto session = driver.run().Open(Spec(1));
    EXPECT_EQ(session->Info().durable_position, 0);
    ASSERT_TRUE(Append(driver.run(), *session, 1, 0, 150, 1).ok());
    WaitUntilDurable(driver.run(), *session, 150);
    const auto memory = driver.run().Open(TierDriver::Spec(2));
    EXPECT_EQ(memory->Info().durable_position, -1);
  }
  driver.Crash();
  EXPECT_EQ(driver.run().map.size(), 1u) << "the other one was in memory";
  EXPECT_EQ(Generations(driver, Spec(1).session.id), std::vector<int>(150, 1));
}

// A node that ends in order lets go of everything, and nothing that records name may go with it.
TEST(RestartTest, AnOrderlyEndKeepsWhatIsDurable) {
  RestartDriver driver(5);
  ASSERT_TRUE(Append(driver.run(), *driver.run().Open(Spec(1)), 1, 0, 150, 1).ok());
  bool indexed = false;
  driver.run().map.WhenIndexed(driver.run().executor.clock().Now() + std::chrono::seconds(1),
                               [&] { indexed = true; });
  while (!indexed && driver.run().executor.Step()) {
  }
  std::optional<absl::Status> written;
  driver.run().map.MakeDurable([&](absl::Status status) { written = status; });
  while (!written.has_value() && driver.run().executor.Step()) {
  }
  ASSERT_TRUE(written.has_value() && written->ok());
  driver.run().map.CloseAll(absl::UnavailableError("the node is shutting down"));
  driver.run().RunFor(milliseconds(100));
  EXPECT_GT(driver.disks().log->counts().live_bytes, 0u);
  driver.Restart();
  EXPECT_EQ(Generations(driver, Spec(1).session.id), std::vector<int>(150, 1));
}

TEST(RestartTest, ItsWriterHasToAdoptItAndGoesOn) {
  RestartDriver driver(2);
  {
    const auto session = driver.run().Open(Spec(1));
    ASSERT_TRUE(Append(driver.run(), *session, 1, 0, 100, 1).ok());
    WaitUntilDurable(driver.run(), *session, 100);
    ASSERT_TRUE(Append(driver.run(), *session, 2, 100, 20, 1).ok());
  }
  driver.Crash();
  auto session = *driver.run().map.Find(Spec(1).session.id);
  const absl::Status refused = Append(driver.run(), *session, 3, 120, 20, 1);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.ToString(), HasSubstr("was restored up to position 100"));
  const auto old = driver.run().Plan(*session, NodeRun::Query(*session, 2, 0, {0, 100}));
  ASSERT_TRUE(old->has_value());
  EXPECT_EQ((*old)->status().code(), absl::StatusCode::kFailedPrecondition)
      << "asked after an operation that is lost";
  const auto info = driver.run().map.Adopt({{session->spec().session.id, 7}, 0, 99});
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->applied_sequence, 1u);
  ASSERT_TRUE(Append(driver.run(), *session, 2, 100, 50, 2).ok());
  WaitUntilDurable(driver.run(), *session, 150);
  session = nullptr;
  driver.Crash();
  std::vector<int> expected(100, 1);
  expected.insert(expected.end(), 50, 2);
  EXPECT_EQ(Generations(driver, Spec(1).session.id), expected);
  EXPECT_EQ((*driver.run().map.Find(Spec(1).session.id))->epoch(), 7u);
}

TEST(RestartTest, ClosedSessionsAreGoneAndTheirSpaceToo) {
  RestartDriver driver(3);
  {
    const auto session = driver.run().Open(Spec(1));
    ASSERT_TRUE(Append(driver.run(), *session, 1, 0, 640, 1).ok());
    WaitUntilDurable(driver.run(), *session, 640);
    std::optional<absl::Status> closed;
    driver.run().map.Close({session->spec().session, 1, 0}, driver.run().executor.clock().Now(),
                           [&](absl::Status status) { closed = status; });
    EXPECT_FALSE(closed.has_value()) << "a restart would still find it";
    driver.run().RunFor(milliseconds(100));
    ASSERT_TRUE(closed.has_value() && closed->ok());
  }
  EXPECT_EQ(driver.disks().log->counts().live_bytes, 0u);
  driver.Crash();
  EXPECT_EQ(driver.run().map.size(), 0u);
  EXPECT_EQ(driver.disks().log->counts().live_bytes, 0u);
}

TEST(RestartTest, AnIdMayBeUsedAgainAtOnce) {
  RestartDriver driver(6);
  {
    ASSERT_TRUE(Append(driver.run(), *driver.run().Open(Spec(1)), 1, 0, 150, 1).ok());
    driver.run().RunFor(milliseconds(100));
    driver.run().map.Close({Spec(1).session, 1, 0}, driver.run().executor.clock().Now(),
                           [](absl::Status status) { EXPECT_TRUE(status.ok()) << status; });
    // The removal of the old one's records is under way.
    const auto session = driver.run().Open(Spec(1));
    ASSERT_TRUE(Append(driver.run(), *session, 1, 0, 30, 2).ok());
    ASSERT_TRUE(session->MakeDurable().ok());
    EXPECT_EQ(session->Info().durable_position, 30);
    driver.run().RunFor(milliseconds(100));
  }
  driver.Crash();
  EXPECT_EQ(Generations(driver, Spec(1).session.id), std::vector<int>(30, 2));
}

TEST(RestartTest, ForksShareTheirSegmentsAlsoAfterwards) {
  RestartDriver driver(4);
  const base::SessionId child{5, 5};
  {
    const auto session = driver.run().Open(Spec(1));
    ASSERT_TRUE(Append(driver.run(), *session, 1, 0, 256, 1).ok());
    WaitUntilDurable(driver.run(), *session, 256);
    const uint64_t before = driver.disks().log->counts().live_bytes;
    std::optional<absl::Status> forked;
    wire::ForkCall call{{session->spec().session, 1, 0}, 200, {child, 0}, 0};
    driver.run().map.Fork(call, driver.run().executor.clock().Now(),
                          [&](absl::Status status) { forked = status; });
    driver.run().RunFor(milliseconds(100));
    ASSERT_TRUE(forked.has_value() && forked->ok()) << *forked;
    EXPECT_EQ(driver.disks().log->counts().live_bytes, before) << "nothing was written twice";
  }
  driver.Crash();
  EXPECT_EQ(Generations(driver, child), std::vector<int>(200, 1));
  driver.run().map.Close({Spec(1).session, 1, 0}, driver.run().executor.clock().Now(),
                         [](absl::Status status) { EXPECT_TRUE(status.ok()) << status; });
  driver.run().RunFor(milliseconds(100));
  EXPECT_EQ(Generations(driver, child), std::vector<int>(200, 1)) << "the child's as well";
}

// What a disk refuses is written later, somewhere else if need be.
TEST(RestartTest, AFailedSyncDoesNotEndDurability) {
  for (const bool spilled : {false, true}) {
    RestartDriver driver(8);
    auto session = driver.run().Open(Spec(1));
    driver.disks().disk->Arm(DiskFault::kSyncError);
    ASSERT_TRUE(Append(driver.run(), *session, 1, 0, 150, 1).ok());
    if (spilled) {  // before it is recorded: that is in a second
      std::optional<absl::Status> done;
      driver.run().map.WhenIndexed(driver.run().executor.clock().Now() + milliseconds(4), [&] {
        driver.run().map.tiers()->Spill(session->Segments(),
                                        [&](absl::Status status) { done = status; });
      });
      while (!done.has_value() && driver.run().executor.Step()) {
      }
      ASSERT_TRUE(done.has_value() && done->ok());
    }
    WaitUntilDurable(driver.run(), *session, 150);
    const auto faults = driver.disks().disk->FaultCounts();
    EXPECT_EQ(faults[static_cast<size_t>(DiskFault::kSyncError)], 1u);
    EXPECT_GT(driver.run().map.failed_commits(), 0u);
    session = nullptr;
    driver.Crash();
    EXPECT_EQ(Generations(driver, Spec(1).session.id), std::vector<int>(150, 1));
  }
}

// A commit that failed is followed by one that says everything anew: also the rows of a tail that
// were durable, and that are a segment's by now whose index is being built.
TEST(RestartTest, ATailThatIsBeingIndexedStaysDurable) {
  RestartDriver driver(9);
  auto session = driver.run().Open(Spec(1));
  ASSERT_TRUE(Append(driver.run(), *session, 1, 0, 40, 1).ok());
  WaitUntilDurable(driver.run(), *session, 40);
  ASSERT_TRUE(Append(driver.run(), *session, 2, 40, 60, 1).ok());  // the index is built in a step
  driver.disks().files->Arm(DiskFault::kSyncError);
  EXPECT_FALSE(session->MakeDurable().ok());
  EXPECT_EQ(session->Info().durable_position, 40);
  ASSERT_TRUE(session->MakeDurable().ok());
  EXPECT_EQ(session->Info().durable_position, 40);
  session = nullptr;
  driver.Crash();
  EXPECT_EQ(Generations(driver, Spec(1).session.id), std::vector<int>(40, 1));
}

// A block that is complete, and whose segments are being merged, is recorded as it was before.
TEST(RestartTest, ABlockThatIsBeingMergedStaysAsItWas) {
  for (const bool built : {false, true}) {
    RestartDriver driver(14);
    auto session = driver.run().Open(Spec(1));
    ASSERT_TRUE(Append(driver.run(), *session, 1, 0, 20, 1, /*seal=*/true).ok());
    ASSERT_TRUE(Append(driver.run(), *session, 2, 20, 20, 1).ok());
    WaitUntilDurable(driver.run(), *session, 40);
    ASSERT_EQ(session->Counts().segments, 2u) << "and a tail";
    ASSERT_TRUE(Append(driver.run(), *session, 3, 40, 30, 1).ok());
    ASSERT_EQ(session->Counts().segments, 2u) << "merged, and a tail";
    ASSERT_TRUE(session->MakeDurable().ok());
    EXPECT_EQ(session->Info().durable_position, 40);
    uint64_t one_block = 0;
    if (built) {
      WaitUntilDurable(driver.run(), *session, 70);
      for (uint64_t i = 0; i < 5; ++i) {  // then the parts go
        ASSERT_TRUE(Append(driver.run(), *session, 4 + i, 70 + static_cast<int>(i), 1, 1).ok());
      }
      WaitUntilDurable(driver.run(), *session, 75);
      one_block = driver.disks().log->counts().live_bytes;
    }
    session = nullptr;
    driver.Crash();
    EXPECT_EQ(Generations(driver, Spec(1).session.id), std::vector<int>(built ? 75 : 40, 1));
    EXPECT_EQ((*driver.run().map.Find(Spec(1).session.id))->Counts().segments, 2u);
    if (built) {
      EXPECT_EQ(driver.disks().log->counts().live_bytes, one_block);
    }
  }
}

// However many of the indexes are built when it is recorded.
TEST(RestartTest, ABlockIsWholeOrAsItWas) {
  size_t whole = 0;
  for (int steps = 0; steps < 16; ++steps) {
    SCOPED_TRACE(steps);
    RestartDriver driver(15);
    auto session = driver.run().Open(Spec(1));
    ASSERT_TRUE(Append(driver.run(), *session, 1, 0, 20, 1, /*seal=*/true).ok());
    ASSERT_TRUE(Append(driver.run(), *session, 2, 20, 20, 1).ok());
    WaitUntilDurable(driver.run(), *session, 40);
    ASSERT_TRUE(Append(driver.run(), *session, 3, 40, 30, 1).ok());
    for (int i = 0; i < steps; ++i) driver.run().executor.Step();
    ASSERT_TRUE(session->MakeDurable().ok());
    const base::Position durable = session->Info().durable_position;
    session = nullptr;
    driver.Crash();
    const size_t rows = Generations(driver, Spec(1).session.id).size();
    EXPECT_EQ(rows, static_cast<size_t>(durable));
    EXPECT_TRUE(rows == 40 || rows == 70) << rows;
    whole += rows == 70;
    EXPECT_EQ((*driver.run().map.Find(Spec(1).session.id))->Counts().segments, 2u);
  }
  EXPECT_GT(whole, 1u);
  EXPECT_LT(whole, 15u);
}

// The same of a segment that was cut before its index was built, and of one that follows a cut.
TEST(RestartTest, ACutThatIsBeingIndexedStaysDurable) {
  for (const bool sealed_again : {false, true}) {
    RestartDriver driver(13);
    auto session = driver.run().Open(Spec(1));
    ASSERT_TRUE(Append(driver.run(), *session, 1, 0, 120, 1).ok());
    WaitUntilDurable(driver.run(), *session, 120);
    ASSERT_TRUE(Append(driver.run(), *session, 2, 120, 8, 1).ok());
    ASSERT_TRUE(Truncate(driver.run(), *session, 3, 100).ok());
    ASSERT_TRUE(session->MakeDurable().ok());
    EXPECT_EQ(session->Info().durable_position, 100);
    if (sealed_again) {
      WaitUntilDurable(driver.run(), *session, 100);
      ASSERT_TRUE(Append(driver.run(), *session, 4, 100, 40, 2).ok());
      ASSERT_TRUE(session->MakeDurable().ok());
      EXPECT_EQ(session->Info().durable_position, 100);
    }
    session = nullptr;
    driver.Crash();
    EXPECT_EQ(Generations(driver, Spec(1).session.id), std::vector<int>(100, 1));
  }
}

TEST(RestartTest, WhatIsWrittenAnewIsNotDurableYet) {
  RestartDriver driver(10);
  const auto session = driver.run().Open(Spec(1));
  ASSERT_TRUE(Append(driver.run(), *session, 1, 0, 40, 1).ok());
  WaitUntilDurable(driver.run(), *session, 40);
  ASSERT_TRUE(Truncate(driver.run(), *session, 2, 10).ok());
  ASSERT_TRUE(Append(driver.run(), *session, 3, 10, 30, 2).ok());
  EXPECT_EQ(session->Info().durable_position, 10);
  driver.disks().files->Arm(DiskFault::kSyncError);
  EXPECT_FALSE(session->MakeDurable().ok());
  EXPECT_EQ(session->Info().durable_position, 10);
  WaitUntilDurable(driver.run(), *session, 40);
}

TEST(RestartTest, NothingIsWrittenThatHasNotChanged) {
  RestartDriver driver(11);
  const auto session = driver.run().Open(Spec(1));
  ASSERT_TRUE(Append(driver.run(), *session, 1, 0, 150, 1).ok());
  WaitUntilDurable(driver.run(), *session, 150);
  driver.run().RunFor(std::chrono::seconds(2));
  driver.disks().files->Arm(DiskFault::kWriteError);  // whatever is written next fails
  EXPECT_TRUE(session->MakeDurable().ok());
  EXPECT_TRUE(driver.run().map.Open(Spec(1)).ok()) << "the same again";
}

// Its segments' indexes are built for the parent.
TEST(RestartTest, AForkBecomesDurableOfItself) {
  RestartDriver driver(12);
  const base::SessionId child{5, 5};
  const auto session = driver.run().Open(Spec(1));
  ASSERT_TRUE(Append(driver.run(), *session, 1, 0, 640, 1).ok());
  driver.run().map.Fork({{session->spec().session, 1, 0}, 640, child, 0},
                        driver.run().executor.clock().Now(),
                        [](absl::Status status) { EXPECT_TRUE(status.ok()) << status; });
  driver.run().RunFor(milliseconds(1));
  WaitUntilDurable(driver.run(), **driver.run().map.Find(child), 640);
}

// Random operations, faults of the disk and losses of power. After each the session is one it once
// was, and has whatever it said was durable and nobody cut off.
class Chaos {
 public:
  static constexpr int kRounds = 4;

  // `faults`: the disk fails now and then.
  Chaos(uint64_t seed, bool faults) : faults_(faults), random_(seed, 5), driver_(seed) {}

  uint64_t failures() const { return failures_; }

  void Run() {
    session_ = driver_.run().Open(Spec(1));
    for (int round = 0; round < kRounds; ++round) {
      for (uint32_t i = 0; i < 4 + random_.NextBelow(16); ++i) ASSERT_NO_FATAL_FAILURE(Operate());
      ASSERT_NO_FATAL_FAILURE(CrashAndCheck());
    }
  }

 private:
  void Operate() {
    if (faults_ && random_.NextBelow(3) == 0) ArmAFault();
    const auto end = static_cast<base::Position>(now_.size());
    const uint32_t kind = random_.NextBelow(10);
    if (kind < 6) {
      const uint32_t rows = 1 + random_.NextBelow(100);
      ++generation_;
      const absl::Status status = Append(driver_.run(), *session_, ++sequence_, end, rows,
                                         generation_, random_.NextBelow(3) == 0);
      ASSERT_TRUE(status.ok()) << status;
      now_.insert(now_.end(), rows, generation_);
    } else if (kind < 8) {
      const base::Position position = random_.NextBelow(static_cast<uint32_t>(end) + 1);
      const absl::Status status = Truncate(driver_.run(), *session_, ++sequence_, position);
      ASSERT_TRUE(status.ok()) << status;
      now_.resize(static_cast<size_t>(position));
      floor_ = std::min(floor_, position);
    } else {
      bool done = false;
      driver_.run().map.tiers()->Spill(session_->Segments(),
                                       [&](const absl::Status&) { done = true; });
      while (!done && driver_.run().executor.Step()) {
      }
    }
    history_.push_back(now_);
    driver_.run().RunFor(milliseconds(random_.NextBelow(300)));
    const base::Position durable = session_->Info().durable_position;
    ASSERT_GE(durable, floor_) << "it was durable, and is not any more";
    floor_ = durable;
    if (durable == static_cast<base::Position>(now_.size()) && random_.NextBelow(3) == 0) {
      // Nothing has happened since (it was the last operation's), so no older state is allowed.
      driver_.run().RunFor(std::chrono::seconds(2));
      ASSERT_EQ(session_->Info().durable_position, durable);
      if (!faults_) history_ = {now_};
    }
  }

  void ArmAFault() {
    constexpr DiskFault kFaults[] = {DiskFault::kWriteError, DiskFault::kNoSpace,
                                     DiskFault::kShortWrite, DiskFault::kSyncError,
                                     DiskFault::kDirectorySyncError};
    const DiskFault fault = kFaults[random_.NextBelow(5)];
    const uint64_t nth = 1 + random_.NextBelow(3);
    if (random_.NextBelow(2) == 0) {
      driver_.disks().disk->Arm(fault, nth);
    } else {
      driver_.disks().files->Arm(fault, nth);
    }
  }

  void CrashAndCheck() {
    session_.reset();
    failures_ += driver_.run().map.failed_commits();
    driver_.Crash();
    const base::SessionId id = Spec(1).session.id;
    const std::vector<int> found = Generations(driver_, id);
    const auto once = [&](const std::vector<int>& state) {
      return found.size() <= state.size() && std::equal(found.begin(), found.end(), state.begin());
    };
    ASSERT_TRUE(std::any_of(history_.begin(), history_.end(), once))
        << found.size() << " rows, and the session was never so";
    ASSERT_GE(static_cast<base::Position>(found.size()), floor_) << "durable rows are missing";
    // The first state is the one that was durable: all of it, or what came after.
    if (once(history_[0]) && !std::any_of(history_.begin() + 1, history_.end(), once)) {
      ASSERT_EQ(found, history_[0]) << "durable rows are missing";
    }
    session_ = *driver_.run().map.Find(id);
    ASSERT_TRUE(driver_.run().map.Adopt({{id, ++epoch_}, 0, epoch_}).ok());
    sequence_ = session_->Info().applied_sequence;
    now_ = found;
    history_ = {now_};
    floor_ = session_->Info().durable_position;
    ASSERT_EQ(floor_, static_cast<base::Position>(found.size())) << "it was found";
  }

  const bool faults_;
  base::PhiloxStream random_;
  RestartDriver driver_;
  std::shared_ptr<Session> session_;
  uint64_t sequence_ = 0;
  uint64_t epoch_ = 0;
  int generation_ = 0;
  uint64_t failures_ = 0;
  std::vector<int> now_;
  base::Position floor_ = 0;                      // rows before it were said to be durable
  std::vector<std::vector<int>> history_ = {{}};  // what a restart may find, the oldest first
};

TEST(RestartTest, WhateverHappensTheSessionIsOneItOnceWas) {
  int losses = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    ASSERT_NO_FATAL_FAILURE(Chaos(seed, /*faults=*/false).Run());
    losses += Chaos::kRounds;
  }
  std::printf("losses_of_power %d\n", losses);
}

TEST(RestartTest, AlsoWhenTheDiskFailsNowAndThen) {
  uint64_t failures = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Chaos chaos(seed, /*faults=*/true);
    ASSERT_NO_FATAL_FAILURE(chaos.Run());
    failures += chaos.failures();
  }
  std::printf("failed_commits %d\n", static_cast<int>(failures));
  EXPECT_GT(failures, 40u);
}

}  // namespace
}  // namespace sounder::kv_node
