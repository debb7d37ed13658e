// Attend through a whole node: blocks of queries with causal bounds, counts, several sessions in
// one request, items that fail alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/base/virtual_executor.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/test_session.h"

namespace sounder::tests {
namespace {

using ::testing::HasSubstr;

class AttendTest : public testing::Test {
 protected:
  std::shared_ptr<gpu_worker::RemoteSession> Open(const TestRows& rows, uint64_t number,
                                                  base::Position end) {
    gpu_worker::RemoteSessionOptions options = SessionOptions(rows.shape(), number, 32);
    options.lsh = {4, 10, 2, wire::Projection::kHadamard, 1};
    options.indexed_layers = {0};
    auto session = cluster_.client().Open(options);
    EXPECT_TRUE(session.ok()) << session.status();
    EXPECT_TRUE(cluster_.client().Append(session->get(), rows.Range({0, end}, false)).ok());
    return *std::move(session);
  }

  base::VirtualExecutor executor_{1};
  LocalCluster cluster_{{}, &executor_};
};

TEST_F(AttendTest, BlocksWithCausalBoundsEqualTheReference) {
  for (const base::DType dtype : {base::DType::kF32, base::DType::kBF16, base::DType::kF16}) {
    const Shape shape{1, 2, 3, 24, dtype};
    const TestRows rows = TestRows::Gaussian(shape, 150, 3);
    const auto session = Open(rows, 1 + static_cast<uint64_t>(dtype), 150);
    base::PhiloxStream random(5, 0);
    for (int i = 0; i < 40; ++i) {
      const uint32_t count = 1 + random.NextBelow(9);
      const std::vector<float> queries = GaussianQueries(shape, count, 50 + i);
      const base::Position a = random.NextBelow(150);
      const base::Position b = random.NextBelow(151);
      std::vector<gpu_worker::AttendQuery> query{
          ExactQuery(session.get(), queries, {std::min(a, b), std::max(a, b)})};
      query[0].layout_position = random.NextBelow(200);
      query[0].causal_from =
          random.NextBelow(4) == 0 ? -1 : static_cast<base::Position>(random.NextBelow(160));
      cluster_.client().StartAttend(0, query)->Wait();
      ASSERT_TRUE(query[0].status.ok()) << query[0].status;
      EXPECT_LT(Distance(query[0], ReferenceOf(rows, 0, queries, query[0].range, query[0].scale,
                                               query[0].causal_from)),
                1e-5);
      uint64_t visible = 0;
      for (uint32_t t = 0; t < count; ++t) {
        base::PositionRange seen = query[0].range;
        if (query[0].causal_from >= 0) seen.end = std::min(seen.end, query[0].causal_from + t + 1);
        visible += static_cast<uint64_t>(seen.size());
      }
      EXPECT_EQ(query[0].rows_visible, 6 * visible);
      EXPECT_EQ(query[0].rows_read, query[0].rows_visible);
      EXPECT_EQ(query[0].rows_exact, query[0].rows_visible);
    }
    EXPECT_TRUE(cluster_.client().Close(session.get()).ok());
  }
}

TEST_F(AttendTest, ASampledBlockWhoseBoundsCutASegmentAttendsThatExactly) {
  const Shape shape{1, 1, 2, 16, base::DType::kF32};
  const TestRows rows = TestRows::Gaussian(shape, 96, 3);
  const auto session = Open(rows, 1, 96);
  const std::vector<float> queries = GaussianQueries(shape, 4, 9);
  const std::vector<uint64_t> signatures = Sign(*session, queries);
  std::vector<gpu_worker::AttendQuery> query{ExactQuery(session.get(), queries, {64, 96})};
  query[0].attention = wire::AttentionKind::kLshTables;
  query[0].signatures = signatures.data();
  query[0].causal_from = 80;
  cluster_.client().StartAttend(0, query)->Wait();
  ASSERT_TRUE(query[0].status.ok()) << query[0].status;
  EXPECT_LT(Distance(query[0], ReferenceOf(rows, 0, queries, {64, 96}, query[0].scale, 80)), 1e-5);
  EXPECT_EQ(query[0].rows_loaded, 20u) << "positions 64 to 83";
  // Behind the last row of a segment nothing is cut, and it is sampled.
  query[0].causal_from = 95;
  cluster_.client().StartAttend(0, query)->Wait();
  ASSERT_TRUE(query[0].status.ok()) << query[0].status;
  EXPECT_LT(query[0].rows_read, query[0].rows_visible);
}

TEST_F(AttendTest, LongPiecesAreAttendedInParts) {
  const Shape shape{1, 1, 2, 8, base::DType::kF32};
  const TestRows rows = TestRows::Gaussian(shape, 9000, 3);
  // A segment of 8,500 rows, longer than a unit of exact work, and a tail.
  gpu_worker::RemoteSessionOptions options = SessionOptions(shape, 1, 8500);
  const auto session = *cluster_.client().Open(options);
  ASSERT_TRUE(cluster_.client().Append(session.get(), rows.Range({0, 9000}, false)).ok());
  const std::vector<float> queries = GaussianQueries(shape, 3, 9);
  for (const base::Position causal_from : {-1, 4095, 8190, 8998}) {
    for (const base::Position begin : {0, 4095, 8192}) {
      std::vector<gpu_worker::AttendQuery> query{ExactQuery(session.get(), queries, {begin, 9000})};
      query[0].causal_from = causal_from;
      cluster_.client().StartAttend(0, query)->Wait();
      ASSERT_TRUE(query[0].status.ok()) << query[0].status;
      EXPECT_LT(Distance(query[0], ReferenceOf(rows, 0, queries, query[0].range, query[0].scale,
                                               causal_from)),
                1e-5);
      EXPECT_EQ(query[0].rows_read, query[0].rows_visible);
    }
  }
}

TEST_F(AttendTest, ItemsOfOneRequestFailAlone) {
  const Shape shape{1, 2, 2, 16, base::DType::kF32};
  const TestRows rows = TestRows::Gaussian(shape, 60, 4);
  const auto first = Open(rows, 1, 60);
  const auto second = Open(rows, 2, 60);
  const auto third = Open(rows, 3, 30);
  const std::vector<float> queries = GaussianQueries(shape, 1, 4);
  std::vector<gpu_worker::AttendQuery> asked{ExactQuery(first.get(), queries, {0, 60}),
                                             ExactQuery(second.get(), queries, {0, 60}),
                                             ExactQuery(third.get(), queries, {0, 60})};
  ASSERT_TRUE(cluster_.client().Close(second.get()).ok());
  cluster_.client().StartAttend(0, asked)->Wait();
  EXPECT_TRUE(asked[0].status.ok()) << asked[0].status;
  EXPECT_LT(Distance(asked[0], ReferenceOf(rows, 0, queries, {0, 60}, asked[0].scale)), 1e-5);
  // What the worker makes of NOT_FOUND: it had that session.
  EXPECT_EQ(asked[1].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(asked[1].status.ToString(), HasSubstr(second->id().ToString()));
  EXPECT_THAT(asked[1].status.ToString(), HasSubstr("node0:7401"));
  EXPECT_EQ(asked[2].status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(asked[2].status.ToString(), HasSubstr("position 30 is not held"));
}

}  // namespace
}  // namespace sounder::tests
