// What stays behind in a node's process when a worker has opened, appended to, attended, forked,
// truncated, adopted and closed sessions for a while: nothing, by its metrics and by its resident
// memory, descriptors and threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/cluster/session_cycles.h"
#include "tests/e2e/worker.h"

namespace sounder::e2e {
namespace {

constexpr uint64_t kSeed = 1;

class LeaksTest : public testing::Test {
 protected:
  Node& node() { return *nodes_[0]; }
  double MetricOf(const char* name) {
    return Metric(HttpGet(node().addresses().http, "/metrics").body, name).value_or(1e30);
  }
  // "" or what the node still has of closed sessions.
  std::string Left() {
    const double sessions = MetricOf("sounder_node_open_sessions");
    if (sessions > 0) return absl::StrCat(sessions, " sessions are left");
    double accounted = 0;
    const bool freed = Eventually([&] {  // an index that is being built holds its rows
      accounted = MetricOf("sounder_node_memory_used_bytes");
      return accounted == 0;
    });
    return freed ? "" : absl::StrCat(accounted, " accounted bytes are left");
  }
  int64_t ResidentBytes() { return ResidentKib(node().process().pid()) * 1024; }
  Resources Held() { return ResourcesOf(std::to_string(node().process().pid())); }
  std::string Block(int cycles) {
    std::string fault = cycles_.Run(cycles);
    return fault.empty() ? Left() : fault;
  }
  // As many blocks, behind one whose end they return to.
  void RunBlocks(int blocks, int cycles_per_block) {
    ASSERT_EQ(Block(cycles_per_block), "");
    const int64_t before = ResidentBytes();
    const int64_t tolerance = before / 20 + (int64_t{16} << 20);
    const Resources resources = Held();
    int64_t most = 0;
    for (int block = 1; block <= blocks; ++block) {
      ASSERT_EQ(Block(cycles_per_block), "") << "block " << block;
      most = std::max(most, ResidentBytes() - before);
      ASSERT_LE(most, tolerance) << "block " << block;
    }
    std::printf(
        "seed %llu\nblocks %d\ncycles_per_block %d\nadoptions %lld\n"
        "most_accounted_bytes_left 0\n"
        "resident_bytes_before %lld\nmost_resident_bytes_more %lld\n"
        "resident_bytes_tolerance %lld\n",
        static_cast<unsigned long long>(kSeed), blocks, cycles_per_block,
        static_cast<long long>(cycles_.adoptions()), static_cast<long long>(before),
        static_cast<long long>(most), static_cast<long long>(tolerance));
    // The last HTTP connections may be closing.
    EXPECT_TRUE(Eventually([&] { return Held().descriptors <= resources.descriptors; }));
    EXPECT_LE(Held().threads, resources.threads);
  }

  std::vector<std::unique_ptr<Node>> nodes_ =
      StartNodes(1, {"--ucx-tls", "tcp", "--threads", "1", "--log-level", "warning"});
  Client client_{nodes_, "tcp", seconds(10)};
  tests::SessionCycles cycles_{&client_.kv(), kSeed};
};

TEST_F(LeaksTest, FourBlocksOfAHundredCycles) { RunBlocks(4, 100); }

// For ./run acceptance.
TEST_F(LeaksTest, DISABLED_TwentyBlocksOfAThousandCycles) { RunBlocks(20, 1000); }

TEST_F(LeaksTest, ASessionThatIsNotClosedIsNoticed) {
  cycles_.LeakSessions(10);
  EXPECT_EQ(Block(10), "1 sessions are left");
}

}  // namespace
}  // namespace sounder::e2e
