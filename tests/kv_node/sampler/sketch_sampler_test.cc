// What is the sketch sampler's own; what it shares with other samplers is in the conformance suite.
#include "kv_node/sampler/sketch_sampler.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/kv_node/sampler/testing.h"

namespace sounder::kv_node {
namespace {

// A block of many positions is sampled in parts: each as if it were asked for alone, in working
// memory that does not grow with the block.
TEST(SketchSamplerTest, LargeBlocksAreSampledInParts) {
  constexpr int kDim = 16;
  constexpr int kQueries = 3 * kSketchSharedQueries + 5;
  SamplerSpec spec;
  spec.kind = SamplerKind::kSketch;
  spec.dim = kDim;
  spec.sketch.row_fraction = .1;
  const auto sampler = *MakeSampler(spec);
  const auto segment =
      MakeSegment(*sampler, 2000, kDim, base::DType::kBF16, Gaussian(1), Gaussian(2));
  const Group group(*sampler, kQueries, kDim, Gaussian(3));
  const GroupQuery query = group.Query(0, 2000);
  EXPECT_EQ(sampler->Prepare(query.queries, kQueries, query.scale), nullptr);

  Scratch small;
  int64_t read = 0;
  std::vector<float> outputs;
  std::vector<float> lse;
  for (int begin = 0; begin < kQueries; begin += kSketchSharedQueries) {
    GroupQuery part = query;
    part.queries += begin * kDim;
    part.group = std::min(kSketchSharedQueries, kQueries - begin);
    const auto prepared = sampler->Prepare(part.queries, part.group, part.scale);
    part.prepared = prepared.get();
    const Answer answer = Ask(*sampler, *segment, part, small);
    outputs.insert(outputs.end(), answer.outputs.begin(), answer.outputs.end());
    lse.insert(lse.end(), answer.lse.begin(), answer.lse.end());
    read += answer.stats.rows_read;
    EXPECT_EQ(sampler->Candidates(*segment, query, begin, small).size(),
              static_cast<size_t>(answer.stats.rows_loaded));
  }
  Scratch whole;
  const Answer answer = Ask(*sampler, *segment, query, whole);
  EXPECT_EQ(answer.outputs, outputs);
  EXPECT_EQ(answer.lse, lse);
  EXPECT_EQ(answer.stats.rows_read, read);
  EXPECT_LE(whole.bytes(), small.bytes());
}

}  // namespace
}  // namespace sounder::kv_node
