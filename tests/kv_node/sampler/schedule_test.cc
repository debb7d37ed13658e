// How kernels run decides about speed only: whatever the schedule, every sampler selects the same
// rows and gives the same answer, bit for bit, at every SIMD level.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "common/kernels/simd_level.h"
#include "tests/kv_node/sampler/conformance.h"
#include "tests/kv_node/sampler/testing.h"

namespace sounder::kv_node {
namespace {

// Fields drawn from their whole range, the small values more often.
kernels::KernelSchedule AnySchedule(base::PhiloxStream& random) {
  kernels::KernelSchedule schedule;
  for (const kernels::ScheduleField& field : kernels::ScheduleFields()) {
    const uint32_t choices = static_cast<uint32_t>(field.max - field.min) + 1;
    const uint32_t bound = std::min(choices, 2u << random.Next32() % 17);
    schedule.*field.value = field.min + static_cast<int>(random.Next32() % bound);
  }
  return schedule;
}

class ScheduleTest : public testing::TestWithParam<Configuration> {
 protected:
  ~ScheduleTest() override { EXPECT_TRUE(kernels::ForceSimdLevel("best").ok()); }
};

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST_P(ScheduleTest, ChangesNoRowAndNoBit) {
  constexpr uint64_t kSeed = 5;
  for (const int dim : {32, 80, 128}) {
    const auto sampler = GetParam().Make(dim);
    const auto segment =
        MakeSegment(*sampler, 1500, dim, base::DType::kBF16, Gaussian(1, 1, .4), Gaussian(2));
    const Group group(*sampler, 4, dim, Gaussian(3, 2));
    GroupQuery query = group.Query(3, 1490);
    query.sample_key = 9;
    for (const std::string& level : kernels::SimdLevels()) {
      ASSERT_TRUE(kernels::ForceSimdLevel(level).ok());
      Scratch plain;
      const Answer expected = Ask(*sampler, *segment, query, plain);
      base::PhiloxStream random(kSeed, 0);
      for (int trial = 0; trial < 12; ++trial) {
        Scratch scratch(AnySchedule(random));
        SCOPED_TRACE("seed 5, dim " + std::to_string(dim) + ", " + level + ", " +
                     kernels::ScheduleText(scratch.schedule()));
        const Answer answer = Ask(*sampler, *segment, query, scratch);
        EXPECT_TRUE(SameBits(answer.outputs, expected.outputs));
        EXPECT_TRUE(SameBits(answer.lse, expected.lse));
        EXPECT_EQ(answer.stats.rows_read, expected.stats.rows_read);
        for (int g = 0; g < query.group; ++g) {
          const auto rows = sampler->Candidates(*segment, query, g, scratch);
          const auto expected_rows = sampler->Candidates(*segment, query, g, plain);
          ASSERT_EQ(rows.size(), expected_rows.size());
          for (size_t i = 0; i < rows.size(); ++i) {
            EXPECT_EQ(rows[i].row, expected_rows[i].row);
            EXPECT_EQ(rows[i].u, expected_rows[i].u);
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Samplers, ScheduleTest, testing::ValuesIn(Configurations()),
                         [](const auto& test) { return test.param.label; });

}  // namespace
}  // namespace sounder::kv_node
