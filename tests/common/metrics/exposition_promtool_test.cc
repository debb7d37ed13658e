// Prometheus' own checker reads our exposition.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <string>

#include "common/metrics/registry.h"

namespace sounder::metrics {
namespace {

constexpr char kPromtool[] = "build/tools/usr/bin/promtool";  // scripts/unpack_test_tools.sh

struct Checked {
  int status = 0;
  std::string output;
};

Checked Check(const std::string& exposition) {
  const std::string path = ::testing::TempDir() + "/exposition." + std::to_string(getpid());
  std::ofstream(path) << exposition;
  FILE* pipe = popen((std::string(kPromtool) + " check metrics < " + path + " 2>&1").c_str(), "r");
  Checked checked;
  std::array<char, 4096> chunk;
  for (size_t count; (count = fread(chunk.data(), 1, chunk.size(), pipe)) > 0;) {
    checked.output.append(chunk.data(), count);
  }
  checked.status = pclose(pipe);
  std::remove(path.c_str());
  return checked;
}

TEST(Promtool, TakesTheExposition) {
  if (access(kPromtool, X_OK) != 0) GTEST_SKIP() << kPromtool << " is not there (./run test)";
  Registry registry;
  AddProcessMetrics(registry);
  registry.AddCounter("sounder_test_sent_messages_total", "Messages sent.").Add(3);
  registry.AddHistogram("sounder_test_wait_seconds", "Time.", LatencyBuckets()).Observe(.1);
  registry.AddHistogram("sounder_test_sent_bytes", "Sizes.", SizeBuckets()).Observe(1e9);
  registry.AddGaugeFamily("sounder_test_used_bytes", "Bytes.", {"tenant"})
      .With({"odd \"\\\n value"})
      .Set(1e15);
  const Checked good = Check(registry.Exposition());
  EXPECT_EQ(good.status, 0) << good.output;
  EXPECT_EQ(good.output, "");
  // The checker does find faults.
  EXPECT_NE(Check("# TYPE a counter\na{b=} 1\n").status, 0);
}

}  // namespace
}  // namespace sounder::metrics
