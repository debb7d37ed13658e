// What branching takes of the memory cap: nothing for rows that are shared, all of it given back,
// and nothing lost where there is no room.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/philox.h"
#include "tests/kv_node/session/branch_driver.h"

namespace sounder::kv_node {
namespace {

using std::chrono::milliseconds;

void Close(BranchDriver& driver, const Session& session) {
  driver.map.Close({session.spec().session, 0}, driver.executor.clock().Now(),
                   [](const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; });
}

// 65,536 tokens in 2 layers of 2 heads, sketches on one of the layers. The larger rows are beside
// what a session takes without any, the smaller the share: these are the smallest there are.
TEST(BranchMemoryTest, SixteenForksOfALongSession) {
  for (const base::Position position : {65536, 65521, 40000, 1}) {
    BranchDriver driver(uint64_t{1} << 32);
    wire::SessionSpec spec = BranchDriver::Spec(1);
    spec.seal_rows = 4096;
    spec.min_indexed_rows = 1024;
    const auto parent = driver.Open(spec);
    uint64_t sequence = 0;
    for (base::Position first = 0; first < 65536; first += 8192) {
      for (uint32_t layer = 0; layer < 2; ++layer) {
        const auto item = driver.Item(*parent, ++sequence, layer, first, 8192);
        ASSERT_TRUE(driver.Append(*parent, item).status.ok());
      }
    }
    driver.RunFor(milliseconds(1));
    const uint64_t before = driver.map.budget().used();
    std::vector<std::shared_ptr<Session>> children;
    for (uint64_t child = 0; child < 16; ++child) {
      children.push_back(*driver.Fork(*parent, sequence, position, 2 + child));
      EXPECT_EQ(children.back()->Info().tokens, static_cast<uint64_t>(position));
    }
    const uint64_t added = driver.map.budget().used() - before;
    const double percent = 100.0 * static_cast<double>(added) / static_cast<double>(before);
    std::printf(
        "16 forks of one 65,536-token session at position %ld: %.3f %% accounted bytes "
        "added (%lu to %lu)\n",
        static_cast<long>(position), percent, static_cast<unsigned long>(added),
        static_cast<unsigned long>(before));
    EXPECT_LT(percent, 1.0);
    EXPECT_EQ(driver.map.Totals().reserved_bytes, driver.map.budget().used());
    EXPECT_EQ(driver.map.Totals().row_bytes, parent->Counts().row_bytes) << "shared bytes once";
    if (position > 4096) {
      EXPECT_GT(children[0]->Counts().shared_bytes, before * 55 / 100);
      EXPECT_EQ(children[0]->Info().shared_bytes, children[0]->Counts().shared_bytes);
    }
    // The first write copies one tail of each stream, and no more.
    ASSERT_TRUE(
        driver.Append(*children[0], driver.Item(*children[0], 1, 0, position, 1), 2).status.ok());
    EXPECT_LT(driver.map.budget().used() - before - added, before / 20);
    // Whoever goes last has it all.
    Close(driver, *parent);
    for (size_t i = 1; i < children.size(); ++i) Close(driver, *children[i]);
    EXPECT_EQ(driver.map.Totals().reserved_bytes, driver.map.budget().used());
    EXPECT_EQ(children[0]->Counts().shared_bytes, 0u);
    if (position > 8192) {
      EXPECT_GT(driver.map.budget().used(), before / 2);
    }
    Close(driver, *children[0]);
    EXPECT_EQ(driver.map.budget().used(), 0u);
  }
}

// Rows that were cut off make room for those that come instead, without a byte more: in a tail, in
// a segment that was cut, and beside a plan that still reads what was there.
TEST(BranchMemoryTest, AFullNodeCanRegenerate) {
  for (const base::Position position : {42, 40, 33, 20, 3}) {
    BranchDriver driver;
    const auto session = driver.Open(BranchDriver::Spec(1));
    uint64_t sequence = 0;
    for (uint32_t layer = 0; layer < 2; ++layer) {
      const auto item = driver.Item(*session, ++sequence, layer, 0, 46);
      ASSERT_TRUE(driver.Append(*session, item).status.ok());
    }
    driver.RunFor(milliseconds(1));
    auto reading = driver.Fetch(*session, sequence, 0, {0, 46});
    ASSERT_TRUE((*driver.Truncate(*session, ++sequence, position))->status.ok());
    auto& budget = const_cast<MemoryBudget&>(driver.map.budget());
    const uint64_t free = budget.limit() - budget.used();
    ASSERT_TRUE(budget.Reserve(free).ok());  // somebody else takes it
    for (uint32_t layer = 0; layer < 2; ++layer) {
      const auto item = driver.Item(*session, ++sequence, layer, position, 4);
      const AppendResult result = driver.Append(*session, item, 2);
      EXPECT_TRUE(result.status.ok()) << position << ": " << result.status;
    }
    budget.Release(free);
    {
      const absl::StatusOr<FetchedRows> seen = std::move(reading);
      ASSERT_TRUE(seen.ok());
      EXPECT_EQ(driver.TextOf(*session, *seen), "1:46") << "the plan sees what was there";
    }
    driver.RunFor(milliseconds(1));
    EXPECT_EQ(budget.used(), session->Counts().reserved_bytes);
    const std::string text = driver.RowsText(*session);
    EXPECT_EQ(text.substr(text.find("= ")), absl::StrCat("= 1:", position, " 2:4"));
  }
}

// A session as it should be.
struct Modelled {
  std::shared_ptr<Session> session;
  std::vector<int> generations;  // by position
  uint64_t sequence = 0;

  std::string Text() const {
    std::string text;
    for (size_t i = 0; i < generations.size();) {
      size_t end = i;
      while (end < generations.size() && generations[end] == generations[i]) ++end;
      text += (text.empty() ? "" : " ") + std::to_string(generations[i]) + ":" +
              std::to_string(end - i);
      i = end;
    }
    return text;
  }
};

class TightHistory {
 public:
  TightHistory(uint64_t seed, uint64_t cap) : random_(seed, 3), driver_(cap) {}

  // Returns how many operations were refused for memory.
  int Run() {
    for (int action = 0; action < 80 && !testing::Test::HasFailure(); ++action) {
      Act();
      EXPECT_LE(driver_.map.budget().used(), driver_.map.budget().limit());
      EXPECT_EQ(driver_.map.Totals().reserved_bytes, driver_.map.budget().used());
      if (random_.NextBelow(8) == 0) driver_.RunFor(milliseconds(1));
    }
    for (const auto& one : live_) Check(*one);
    while (!live_.empty()) CloseOne();
    driver_.RunFor(milliseconds(1));
    EXPECT_EQ(driver_.map.budget().used(), 0u);
    return refused_;
  }

 private:
  void Act() {
    const uint32_t kind = random_.NextBelow(16);
    if (live_.empty() || kind == 0) {
      const auto opened = driver_.map.Open(BranchDriver::Spec(++number_));
      if (opened.ok()) live_.push_back(NewModelled(*driver_.map.Find({1, number_}), {}));
      if (!opened.ok()) Refused(opened.status());
      return;
    }
    Modelled& one = Any();
    if (kind == 1) {
      CloseOne();
    } else if (kind < 5) {
      Truncate(one);
    } else if (kind < 8) {
      Fork(one);
    } else {
      Append(one);
    }
    if (!live_.empty() && random_.NextBelow(4) == 0) Check(Any());
  }

  void Append(Modelled& one) {
    const auto first = static_cast<base::Position>(one.generations.size());
    const uint32_t rows = random_.NextBelow(30);
    const bool seal = random_.NextBelow(4) == 0;
    const int generation = ++generation_;
    for (uint32_t layer = 0; layer < 2; ++layer) {
      const auto item = driver_.Item(*one.session, one.sequence + 1, layer, first, rows, seal);
      for (int attempt = 0;; ++attempt) {
        const AppendResult result = driver_.Append(*one.session, item, generation);
        if (result.status.ok()) break;
        Refused(result.status);
        if (attempt == 1) {  // given up: what was taken of it is cut off
          const auto cut = driver_.Truncate(*one.session, one.sequence + 1, first);
          ASSERT_TRUE(cut->has_value());
          ASSERT_TRUE((*cut)->status.ok()) << (*cut)->status;
          ++one.sequence;
          return;
        }
        Free(one);  // and once more, which continues
      }
      ++one.sequence;
    }
    one.generations.insert(one.generations.end(), rows, generation);
  }

  void Truncate(Modelled& one) {
    const uint32_t position = random_.NextBelow(static_cast<uint32_t>(one.generations.size()) + 1);
    const auto cut = driver_.Truncate(*one.session, ++one.sequence, position);
    ASSERT_TRUE(cut->has_value());
    ASSERT_TRUE((*cut)->status.ok()) << "takes no memory: " << (*cut)->status;
    one.generations.resize(position);
  }

  void Fork(Modelled& one) {
    const uint32_t position = random_.NextBelow(static_cast<uint32_t>(one.generations.size()) + 1);
    const auto child = driver_.Fork(*one.session, one.sequence, position, ++number_);
    if (!child.ok()) return Refused(child.status());
    live_.push_back(
        NewModelled(*child, {one.generations.begin(), one.generations.begin() + position}));
  }

  void Refused(const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    ++refused_;
  }
  // Closes another session, if there is one.
  void Free(const Modelled& except) {
    const auto other = std::find_if(live_.begin(), live_.end(),
                                    [&](const auto& one) { return one.get() != &except; });
    if (other == live_.end()) return;
    Close(driver_, *(*other)->session);
    live_.erase(other);
  }
  Modelled& Any() { return *live_[random_.NextBelow(static_cast<uint32_t>(live_.size()))]; }
  static std::unique_ptr<Modelled> NewModelled(std::shared_ptr<Session> session,
                                               std::vector<int> generations) {
    return std::make_unique<Modelled>(Modelled{std::move(session), std::move(generations)});
  }
  void CloseOne() {
    const size_t index = random_.NextBelow(static_cast<uint32_t>(live_.size()));
    Close(driver_, *live_[index]->session);
    live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(index));
  }
  void Check(const Modelled& one) {
    const std::string text = driver_.RowsText(*one.session);
    EXPECT_EQ(text.substr(text.find("= ") + 2), one.Text()) << text;
  }

  base::PhiloxStream random_;
  BranchDriver driver_;
  std::vector<std::unique_ptr<Modelled>> live_;
  uint64_t number_ = 0;
  int generation_ = 0;
  int refused_ = 0;
};

TEST(BranchMemoryTest, NothingIsLostUnderATightCap) {
  int refused = 0;
  for (uint64_t seed = 1; seed <= 150 && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    base::PhiloxStream random(seed, 4);
    refused += TightHistory(seed, 12000 + random.NextBelow(90000)).Run();
  }
  std::printf("seeds 1 to 150: %d operations were refused\n", refused);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace sounder::kv_node
