// What of an Attend item reaches a sampler, and in which order.
#include "kv_node/server/head_queries.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sounder::kv_node {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// 2 query positions, 2 kv heads of 3 query heads each; every tensor says which query it is of:
// 10 * position + query head.
class HeadQueriesTest : public testing::Test {
 protected:
  HeadQueriesTest() {
    for (const float query : {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15}) {
      queries_.insert(queries_.end(), 8, query);
      signatures_.push_back(static_cast<uint64_t>(query));
      signatures_.push_back(static_cast<uint64_t>(query) + 100);
      hints_.push_back(query + 0.5f);
    }
    item_.kv_head_begin = 4;
    item_.kv_head_count = 2;
    item_.group = 3;
    item_.query_count = 2;
    item_.head_dim = 8;
    item_.signature_words = 2;
    item_.queries = std::as_bytes(std::span(queries_));
    item_.signatures = signatures_;
    item_.lse_hints = hints_;
  }
  std::vector<float> queries_;
  std::vector<uint64_t> signatures_;
  std::vector<float> hints_;
  wire::AttendItem item_;
};

TEST_F(HeadQueriesTest, EverythingOfAHeadIsInOneOrder) {
  const HeadQueries packed = PackHead(item_, 1);
  ASSERT_EQ(packed.queries.size(), 6u * 8);
  const float wanted[] = {3, 4, 5, 13, 14, 15};
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(packed.queries[8 * i], wanted[i]);
    EXPECT_EQ(packed.queries[8 * i + 7], wanted[i]);
    EXPECT_EQ(packed.signatures[2 * i], wanted[i]);
    EXPECT_EQ(packed.signatures[2 * i + 1], wanted[i] + 100);
  }
  EXPECT_THAT(packed.lse_hints, ElementsAre(3.5f, 4.5f, 5.5f, 13.5f, 14.5f, 15.5f));
  item_.lse_hints = {};
  EXPECT_THAT(PackHead(item_, 1).lse_hints, IsEmpty());
}

TEST_F(HeadQueriesTest, SamplersGetAllThatSeedsAndBoundsTheirDraws) {
  item_.sample_key = 77;
  item_.step = 12;
  item_.layer = 3;
  item_.rows_budget = 0.25f;
  item_.rows_cap = 1000;
  item_.scale = 0.5f;
  const HeadQueries packed = PackHead(item_, 1);
  Piece piece;
  piece.row_begin = 5;
  piece.row_end = 50;
  const GroupQuery query = GroupQueryOf(item_, 1, packed, piece);
  EXPECT_EQ(query.queries, packed.queries.data());
  EXPECT_EQ(query.signatures, packed.signatures.data());
  EXPECT_EQ(query.lse_hints.data(), packed.lse_hints.data());
  EXPECT_EQ(query.lse_hints.size(), 6u);
  EXPECT_EQ(query.group, 6);
  EXPECT_EQ(query.row_begin, 5);
  EXPECT_EQ(query.row_end, 50);
  EXPECT_EQ(query.scale, 0.5f);
  EXPECT_EQ(query.sample_key, 77u);
  EXPECT_EQ(query.step, 12u);
  EXPECT_EQ(query.layer, 3);
  EXPECT_EQ(query.kv_head, 5);
  EXPECT_EQ(query.row_fraction, 0.25);
  EXPECT_EQ(query.row_cap, 1000);
  EXPECT_EQ(query.mean_size_hint, 0);
  EXPECT_EQ(query.uniform_fraction, 0);
  const std::vector<wire::HeadHint> hints = {{0.125f, 0}, {0.25f, 0.5f}};
  item_.head_hints = hints;
  EXPECT_EQ(GroupQueryOf(item_, 1, packed, piece).mean_size_hint, 0.25f);
  EXPECT_EQ(GroupQueryOf(item_, 1, packed, piece).uniform_fraction, 0.5);
}

}  // namespace
}  // namespace sounder::kv_node
