// The canary's bug is one that a sanitizer sees in inputs fed as the replay tests feed them.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/fuzz/target.h"

namespace sounder::fuzz {
namespace {

bool Feed(const std::string& text) {
  const std::vector<char> copy(text.begin(), text.end());
  return RunTarget(std::as_bytes(std::span(copy)));
}

TEST(CanaryTest, LivesOnWhatIsWellFormed) {
  EXPECT_TRUE(Feed(std::string("SNDR\2aa")));
  EXPECT_FALSE(Feed(std::string("SNDR\2ab")));
  EXPECT_FALSE(Feed("SNDR"));
  EXPECT_FALSE(Feed("SNDX\377"));
}

#ifdef __SANITIZE_ADDRESS__
TEST(CanaryTest, DiesOfALengthThatIsTooLong) {
  EXPECT_DEATH(Feed("SNDR\3aa"), "heap-buffer-overflow");
}
#endif

}  // namespace
}  // namespace sounder::fuzz
