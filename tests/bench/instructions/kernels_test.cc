#include "bench/instructions/kernels.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "bench/instructions/counts.h"

namespace sounder::instructions {
namespace {

// Every kernel runs, does the same amount of work each time, and is in the committed baseline,
// which holds no others.
TEST(KernelsTest, RunAndAreInTheBaseline) {
  constexpr int64_t kRows = 4096;
  const Rows rows(kRows);
  std::set<std::string> names;
  for (const auto& group : {AttentionKernels(rows), SketchKernels(rows), StepKernels(kRows)}) {
    for (const Kernel& kernel : group) {
      SCOPED_TRACE(kernel.name);
      EXPECT_TRUE(names.insert(kernel.name).second);
      int64_t units[2];
      for (int64_t& run : units) {
        if (kernel.prepare) kernel.prepare();
        run = kernel.run();
      }
      EXPECT_GT(units[0], 0);
      EXPECT_EQ(units[0], units[1]);
    }
  }
  std::ifstream file("bench/instructions/baseline.json");
  std::ostringstream text;
  text << file.rdbuf();
  const auto baseline = FromJson(text.str());
  ASSERT_TRUE(baseline.ok()) << baseline.status();
  std::set<std::string> known;
  for (const Count& count : baseline->kernels) known.insert(count.name);
  EXPECT_EQ(names, known);
}

}  // namespace
}  // namespace sounder::instructions
