// What stays behind when sessions have been opened, appended to, attended, forked, truncated,
// adopted and closed, thousand after thousand: nothing, by the nodes' accounts and by the
// allocator's.
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/virtual_executor.h"
#include "common/memory/aligned_buffer.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/session_cycles.h"

#ifdef __SANITIZE_ADDRESS__
extern "C" size_t __sanitizer_get_current_allocated_bytes();  // gcc ships no header for it
#endif

namespace sounder::tests {
namespace {

constexpr uint64_t kSeed = 1;

// Bytes that this process holds, and how many more are still as many. Under AddressSanitizer what
// the allocator has given out; otherwise resident memory, as the system counts it.
#ifdef __SANITIZE_ADDRESS__
constexpr const char* kMeasured = "allocated";
int64_t HeldBytes() { return static_cast<int64_t>(__sanitizer_get_current_allocated_bytes()); }
int64_t Tolerance(int64_t) { return int64_t{1} << 20; }
#else
constexpr const char* kMeasured = "resident";
int64_t HeldBytes() {
  ::malloc_trim(0);
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::atoll(line.c_str() + 6) * 1024;
  }
  ADD_FAILURE() << "/proc/self/status names no VmRSS";
  return 0;
}
int64_t Tolerance(int64_t baseline) { return baseline / 20 + (int64_t{16} << 20); }
#endif

// Two nodes and a worker that run for as long as the test, and what they held after every block.
class Blocks {
 public:
  Blocks() {
    LocalClusterOptions options;
    options.nodes = 2;
    cluster_ = std::make_unique<LocalCluster>(options, &executor_);
    cycles_ = std::make_unique<SessionCycles>(&cluster_->client(), kSeed);
  }
  SessionCycles& cycles() { return *cycles_; }
  // Kept by the test until it ends, more of it with every block: a leak.
  void KeepPerBlock(size_t bytes) { keep_bytes_ = bytes; }

  // "" or what stayed behind after one of the blocks. The first block warms up: buffers, pools and
  // tables have the size they need after it, and what is held then is what later blocks return to.
  std::string Run(int blocks, int cycles_per_block) {
    if (const std::string fault = Block(cycles_per_block); !fault.empty()) return fault;
    baseline_ = HeldBytes();
    for (int block = 1; block <= blocks; ++block) {
      if (std::string fault = Block(cycles_per_block); !fault.empty()) {
        return absl::StrCat("block ", block, ": ", fault);
      }
      const int64_t more = HeldBytes() - baseline_;
      most_ = std::max(most_, more);
      if (more > Tolerance(baseline_)) {
        return absl::StrCat("block ", block, ": ", more, " bytes more are ", kMeasured,
                            " than the ", baseline_, " before, at most ", Tolerance(baseline_),
                            " may be");
      }
    }
    return "";
  }

  void Print(int blocks, int cycles_per_block) const {
    std::printf(
        "seed %llu\nblocks %d\ncycles_per_block %d\nadoptions %lld\nmost_accounted_bytes_left "
        "%llu\n"
        "%s_bytes_before %lld\nmost_%s_bytes_more %lld\n%s_bytes_tolerance %lld\n",
        static_cast<unsigned long long>(kSeed), blocks, cycles_per_block,
        static_cast<long long>(cycles_->adoptions()),
        static_cast<unsigned long long>(most_accounted_), kMeasured,
        static_cast<long long>(baseline_), kMeasured, static_cast<long long>(most_), kMeasured,
        static_cast<long long>(Tolerance(baseline_)));
  }

 private:
  std::string Block(int cycles) {
    if (std::string fault = cycles_->Run(cycles); !fault.empty()) return fault;
    // What a node keeps for a second, such as who appended in it, is of this block alone.
    executor_.RunFor(std::chrono::seconds(2));
    if (keep_bytes_ > 0) kept_.push_back(memory::AlignedBuffer::Zeroed(keep_bytes_));
    const uint64_t accounted = cluster_->MemoryUsed();
    most_accounted_ = std::max(most_accounted_, accounted);
    if (cluster_->Sessions() > 0)
      return absl::StrCat(cluster_->Sessions(), " parts of sessions are left");
    return accounted > 0 ? absl::StrCat(accounted, " accounted bytes are left") : "";
  }

  base::VirtualExecutor executor_{kSeed};
  std::unique_ptr<LocalCluster> cluster_;
  std::unique_ptr<SessionCycles> cycles_;
  size_t keep_bytes_ = 0;
  std::vector<memory::AlignedBuffer> kept_;
  int64_t baseline_ = 0;
  int64_t most_ = 0;
  uint64_t most_accounted_ = 0;
};

void RunBlocks(int blocks, int cycles_per_block) {
  Blocks run;
  ASSERT_EQ(run.Run(blocks, cycles_per_block), "");
  run.Print(blocks, cycles_per_block);
  // The cycles do what they are there for.
  EXPECT_GT(run.cycles().adoptions(), run.cycles().cycles() / 20);
  EXPECT_GT(run.cycles().rows_not_read(), 0u);
}

TEST(LeaksTest, FourBlocksOfTwoHundredCycles) { RunBlocks(4, 200); }

// For ./run acceptance.
TEST(LeaksTest, DISABLED_TwentyBlocksOfAThousandCycles) { RunBlocks(20, 1000); }

TEST(LeaksTest, ASessionThatIsNotClosedIsNoticed) {
  Blocks run;
  run.cycles().LeakSessions(40);
  EXPECT_EQ(run.Run(1, 40), "2 parts of sessions are left");
}

TEST(LeaksTest, MemoryThatIsKeptIsNoticed) {
  Blocks run;
  run.KeepPerBlock(static_cast<size_t>(Tolerance(0)) / 2 + (size_t{4} << 20));
  const std::string fault = run.Run(8, 10);
  EXPECT_NE(fault.find(" bytes more are "), std::string::npos) << fault;
}

}  // namespace
}  // namespace sounder::tests
