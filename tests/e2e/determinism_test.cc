// The same prompts give the same tokens from the same sampled rows, whatever the run, the number of
// threads and the number of nodes.
#include "tests/e2e/determinism.h"

#include <gtest/gtest.h>

namespace sounder::e2e {
namespace {

std::string Text(const Outcomes& outcomes) {
  std::string text;
  for (const auto& [id, outcome] : outcomes) {
    text += id + ":";
    for (const int32_t token : outcome.tokens) text += " " + std::to_string(token);
    text += "; rows read " + std::to_string(outcome.rows_read) + ", loaded " +
            std::to_string(outcome.rows_loaded) + ", exact " + std::to_string(outcome.rows_exact) +
            "\n";
  }
  return text;
}

// How sequences are cut is an option of the session, and the partial outputs are merged in its
// order; how many nodes there are is not. So runs of the same cut agree to the bit. Cuts that
// divide the rows differently round differently: their tokens agree all the same.
class DeterminismTest : public testing::TestWithParam<const char*> {
 protected:
  DeterminismTest() : prompts_(WritePrompts(folder_)), one_(StartNodes(1, {"--threads", "1"})) {}

  Outcomes Answer(const std::vector<std::unique_ptr<Node>>& nodes, const Arguments& options) {
    return RunWorker(folder_, prompts_, nodes, options, GetParam());
  }

  void ExpectSame(const char* what, const Outcomes& outcomes, const Outcomes& expected) {
    const bool same = outcomes == expected;
    std::printf("determinism: %s: %s\n", what, same ? "the same" : "DIFFERENT");
    EXPECT_TRUE(same) << what << "\n" << Text(outcomes) << "instead of\n" << Text(expected);
  }

  TemporaryFolder folder_;
  const std::string prompts_;
  const std::vector<std::unique_ptr<Node>> one_;
};

TEST_P(DeterminismTest, RunsAndThreads) {
  const Outcomes first = Answer(one_, {});
  std::printf("%s", Text(first).c_str());
  // It is sampling that is compared.
  const double share =
      static_cast<double>(RowsRead(first)) / static_cast<double>(RowsVisible(first));
  EXPECT_GT(share, 0.005);
  EXPECT_LT(share, 0.5);
  ExpectSame("a second run", Answer(one_, {}), first);
  ExpectSame("2 threads", Answer(StartNodes(1, {"--threads", "2"}), {}), first);
  // Negative control: another seed draws other rows.
  EXPECT_NE(Answer(one_, {"--lsh-seed", "2", "--sketch-seed", "2"}), first);
}

TEST_P(DeterminismTest, OneAndThreeNodes) {
  const auto three = StartNodes(3, {"--threads", "2"});
  const Outcomes whole = Answer(one_, {});
  struct Cut {
    const char* name;
    Arguments options;
  };
  for (const Cut& cut :
       {Cut{"3 nodes by head", {"--head-shards", "2"}},
        Cut{"3 nodes by range, a segment each", {"--head-shards", "1", "--shard-rows", "512"}},
        Cut{"3 nodes by range, two segments each", {"--head-shards", "1", "--shard-rows", "1024"}},
        Cut{"3 nodes by both", {"--head-shards", "2", "--shard-rows", "512"}}}) {
    const Outcomes expected = Answer(one_, cut.options);
    ExpectSame(cut.name, Answer(three, cut.options), expected);
    for (const auto& [id, outcome] : expected) EXPECT_EQ(outcome.tokens, whole.at(id).tokens) << id;
  }
}

INSTANTIATE_TEST_SUITE_P(Samplers, DeterminismTest, testing::Values("lsh", "sketch"),
                         [](const auto& sampler) { return std::string(sampler.param); });

}  // namespace
}  // namespace sounder::e2e
