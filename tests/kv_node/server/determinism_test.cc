// Determinism: the same session and queries give the same sample, whatever threads, nodes and SIMD
// level they meet: bit-identical candidate sets and row counts everywhere, outputs that differ by
// rounding only, and not at all on the same layout and level, also when they are asked again later.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/base/thread_executor.h"
#include "common/base/virtual_executor.h"
#include "common/kernels/simd_level.h"
#include "kv_node/sampler/scratch.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/test_session.h"

namespace sounder::tests {
namespace {

constexpr int64_t kPositions = 3000;
constexpr uint32_t kSealRows = 512;
constexpr base::Position kPrefill = 1700;  // a seal mark between multiples
constexpr base::Position kSteps[] = {1700, 1800, 2048, 2600, 3000};  // layout positions

struct Layout {
  std::string name;
  int nodes = 1;
  int64_t shard_rows = 0;
  int head_shards = 1;
  int64_t message_bytes = 1 << 20;
};

struct Answer {
  uint64_t rows_visible = 0;
  uint64_t rows_read = 0;
  uint64_t rows_loaded = 0;
  uint64_t rows_exact = 0;
  std::vector<float> outputs;
  std::vector<float> lse;
  // [query * query heads + head]: positions sampled from sealed segments, ascending.
  std::vector<std::vector<base::Position>> candidates;
};

struct Workload {
  explicit Workload(wire::Projection kind)
      : projection(kind),
        shape{1, 2, 4, 64, base::DType::kBF16},
        rows(TestRows::Gaussian(shape, kPositions, 11)) {
    for (size_t i = 0; i < std::size(kSteps); ++i) {
      queries.push_back(GaussianQueries(shape, 2, 100 + i));
      // Some queries look for a row, as trained ones do.
      for (uint32_t column = 0; column < shape.dim; ++column) {
        queries.back()[column] =
            base::RoundTo(shape.dtype, 2 * rows.Keys(0, 0).At(1000 + 30 * i, column));
      }
    }
  }
  wire::Projection projection;
  Shape shape;
  TestRows rows;
  std::vector<std::vector<float>> queries;
};

// A session on a cluster of that layout.
class Replay {
 public:
  Replay(const Workload& work, const Layout& layout, base::Executor* executor) : work_(work) {
    LocalClusterOptions options;
    options.nodes = layout.nodes;
    options.client.append_message_bytes = layout.message_bytes;
    options.client.deadline = std::chrono::seconds(30);
    cluster_ = std::make_unique<LocalCluster>(options, executor);
    gpu_worker::RemoteSessionOptions session = SessionOptions(work.shape, 5, kSealRows);
    session.shard_rows = layout.shard_rows;
    session.head_shards = layout.head_shards;
    session.min_indexed_rows = 300;
    session.lsh = {8, 40, 2, work.projection, 17};
    session.indexed_layers = {0};
    session_ = *cluster_->client().Open(session);
  }

  // Asks for each step as soon as its rows are there, then for all again.
  std::vector<Answer> Go() {
    std::vector<Answer> answers;
    Append({0, kPrefill}, true);
    base::Position appended = kPrefill;
    for (size_t i = 0; i < std::size(kSteps); ++i) {
      for (; appended < kSteps[i]; ++appended) Append({appended, appended + 1}, false);
      answers.push_back(Attend(i));
    }
    for (size_t i = 0; i < std::size(kSteps); ++i) ExpectSame(Attend(i), answers[i], true);
    EXPECT_TRUE(cluster_->client().Close(session_.get()).ok());
    // What other threads were still holding when their answer had gone out comes back soon.
    const auto start = std::chrono::steady_clock::now();
    while (cluster_->MemoryUsed() != 0 &&
           std::chrono::steady_clock::now() - start < std::chrono::seconds(5)) {
      std::this_thread::yield();
    }
    EXPECT_EQ(cluster_->MemoryUsed(), 0u);
    return answers;
  }

  static void ExpectSame(const Answer& a, const Answer& b, bool bits) {
    EXPECT_EQ(a.rows_visible, b.rows_visible);
    EXPECT_EQ(a.rows_read, b.rows_read);
    EXPECT_EQ(a.rows_loaded, b.rows_loaded);
    EXPECT_EQ(a.rows_exact, b.rows_exact);
    EXPECT_TRUE(a.candidates == b.candidates) << "other rows were sampled";
    ASSERT_EQ(a.outputs.size(), b.outputs.size());
    if (bits) {
      EXPECT_EQ(0, std::memcmp(a.outputs.data(), b.outputs.data(), a.outputs.size() * 4));
      EXPECT_EQ(0, std::memcmp(a.lse.data(), b.lse.data(), a.lse.size() * 4));
      return;
    }
    for (size_t k = 0; k < a.outputs.size(); ++k) EXPECT_NEAR(a.outputs[k], b.outputs[k], 1e-5);
    for (size_t k = 0; k < a.lse.size(); ++k) EXPECT_NEAR(a.lse[k], b.lse[k], 1e-5);
  }

 private:
  void Append(base::PositionRange range, bool seal) {
    const absl::Status status =
        cluster_->client().Append(session_.get(), work_.rows.Range(range, seal));
    ASSERT_TRUE(status.ok()) << status;
  }

  Answer Attend(size_t step) {
    const std::vector<uint64_t> signatures = Sign(*session_, work_.queries[step]);
    std::vector<gpu_worker::AttendQuery> query{
        ExactQuery(session_.get(), work_.queries[step], {4, kSteps[step] - 32})};
    query[0].layout_position = kSteps[step];
    query[0].attention = wire::AttentionKind::kLshTables;
    query[0].signatures = signatures.data();
    cluster_->client().StartAttend(0, query)->Wait();
    EXPECT_TRUE(query[0].status.ok()) << query[0].status;
    Answer answer{query[0].rows_visible,
                  query[0].rows_read,
                  query[0].rows_loaded,
                  query[0].rows_exact,
                  query[0].outputs,
                  query[0].lse,
                  {}};
    answer.candidates.resize(answer.lse.size());
    for (const policy::Shard& shard : session_->placement().ShardsOf(query[0].range)) {
      Sampled(query[0], signatures, shard, &answer);
    }
    uint64_t sampled = answer.rows_exact;
    for (const auto& rows : answer.candidates) sampled += rows.size();
    EXPECT_EQ(sampled, answer.rows_read) << "the answer was made of other rows";
    return answer;
  }

  // What the node's samplers choose for the part of a query that is on it.
  void Sampled(const gpu_worker::AttendQuery& query, const std::vector<uint64_t>& signatures,
               const policy::Shard& shard, Answer* answer) {
    wire::AttendItem item;
    item.session = session_->ref();
    item.kv_head_begin = static_cast<uint32_t>(shard.kv_head_begin);
    item.kv_head_count = static_cast<uint32_t>(shard.kv_heads());
    item.group = work_.shape.group;
    item.query_count = query.query_count;
    item.head_dim = work_.shape.dim;
    item.range = shard.range;
    item.layout_position = query.layout_position;
    item.attention = query.attention;
    item.signature_words = static_cast<uint32_t>(signatures.size() / answer->lse.size());
    absl::StatusOr<kv_node::AttendPlan> plan = absl::UnknownError("not planned");
    auto session = cluster_->sessions(shard.node).Find(session_->id());
    ASSERT_TRUE(session.ok()) << session.status();
    // Ready since the answer came, so this does not wait.
    (*session)->Plan(item, base::kNever,
                     [&](absl::StatusOr<kv_node::AttendPlan> made) { plan = std::move(made); });
    ASSERT_TRUE(plan.ok()) << plan.status();
    kv_node::Scratch scratch;
    for (size_t head = 0; head < plan->pieces.size(); ++head) {
      for (const kv_node::Piece& piece : plan->pieces[head]) {
        if (!piece.sealed || piece.segment->index() == nullptr) continue;
        for (uint32_t t = 0; t < query.query_count; ++t) {
          for (uint32_t g = 0; g < work_.shape.group; ++g) {
            const size_t at = t * work_.shape.query_heads() +
                              (static_cast<size_t>(shard.kv_head_begin) + head) * item.group + g;
            kv_node::GroupQuery one;
            one.queries = query.queries + at * item.head_dim;
            one.group = 1;
            one.signatures = signatures.data() + at * item.signature_words;
            one.row_begin = piece.row_begin;
            one.row_end = piece.row_end;
            one.scale = query.scale;
            for (const kv_node::Candidate& candidate :
                 plan->sampler->Candidates(*piece.segment, one, 0, scratch)) {
              answer->candidates[at].push_back(piece.first_position + candidate.row);
            }
          }
        }
      }
    }
  }

  const Workload& work_;
  std::unique_ptr<LocalCluster> cluster_;
  std::shared_ptr<gpu_worker::RemoteSession> session_;
};

const Layout kOneNode{"one node"};
const std::vector<Layout> kLayouts = {
    {"one node, small messages", 1, 0, 1, 5000},         {"three nodes by range", 3, kSealRows, 1},
    {"three nodes by wider range", 3, 2 * kSealRows, 1}, {"two nodes by head", 2, 0, 2},
    {"three nodes by both", 3, kSealRows, 2, 20000},
};

class DeterminismTest : public testing::TestWithParam<wire::Projection> {
 protected:
  ~DeterminismTest() override { EXPECT_TRUE(kernels::ForceSimdLevel("best").ok()); }

  void ExpectAllSame(const std::vector<Answer>& a, const std::vector<Answer>& b, bool bits) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      SCOPED_TRACE(kSteps[i]);
      Replay::ExpectSame(a[i], b[i], bits);
    }
  }
  std::vector<Answer> Virtually(const Layout& layout, uint64_t seed) {
    base::VirtualExecutor executor(seed);
    return Replay(work_, layout, &executor).Go();
  }
  std::vector<Answer> OnThreads(const Layout& layout, int threads) {
    base::ThreadExecutor executor(threads, "nodes");
    return Replay(work_, layout, &executor).Go();
  }

  const Workload work_{GetParam()};
};

TEST_P(DeterminismTest, SampleIsASample) {
  const std::vector<Answer> answers = Virtually(kOneNode, 1);
  for (const Answer& answer : answers) {
    const double share = static_cast<double>(answer.rows_read - answer.rows_exact) /
                         static_cast<double>(answer.rows_visible - answer.rows_exact);
    std::printf("%llu rows visible, %llu attended exactly, %.2f%% of the others sampled\n",
                static_cast<unsigned long long>(answer.rows_visible),
                static_cast<unsigned long long>(answer.rows_exact), 100 * share);
    EXPECT_GT(share, 0.002);
    EXPECT_LT(share, 0.1);
  }
  // The comparison can fail: another query has another sample.
  EXPECT_FALSE(answers[0].candidates == answers[1].candidates);
}

TEST_P(DeterminismTest, RepeatsAndOrdersOfEventsAreBitIdentical) {
  const std::vector<Answer> first = Virtually(kOneNode, 1);
  for (uint64_t seed = 1; seed <= 3; ++seed) ExpectAllSame(Virtually(kOneNode, seed), first, true);
}

TEST_P(DeterminismTest, ThreadsChangeNothing) {
  for (const Layout& layout : {kOneNode, kLayouts.back()}) {
    SCOPED_TRACE(layout.name);
    const std::vector<Answer> first = Virtually(layout, 1);
    ExpectAllSame(OnThreads(layout, 1), first, true);
    ExpectAllSame(OnThreads(layout, 2), first, true);
    ExpectAllSame(OnThreads(layout, 4), first, true);
  }
}

TEST_P(DeterminismTest, NodesChangeOnlyRounding) {
  const std::vector<Answer> first = Virtually(kOneNode, 1);
  for (const Layout& layout : kLayouts) {
    SCOPED_TRACE(layout.name);
    ExpectAllSame(Virtually(layout, 2), first, false);
  }
}

TEST_P(DeterminismTest, SimdLevelsChangeOnlyRounding) {
  const std::vector<Answer> best = Virtually(kOneNode, 1);
  const std::vector<std::string> levels = kernels::SimdLevels();
  EXPECT_GE(levels.size(), 2u) << "nothing to compare with";
  for (const std::string& level : levels) {
    SCOPED_TRACE(level);
    ASSERT_TRUE(kernels::ForceSimdLevel(level).ok());
    const std::vector<Answer> forced = Virtually(kOneNode, 1);
    ExpectAllSame(forced, best, false);
    ExpectAllSame(OnThreads(kOneNode, 2), forced, true);
    ExpectAllSame(Virtually(kLayouts.back(), 1), best, false);
  }
}

INSTANTIATE_TEST_SUITE_P(Projections, DeterminismTest,
                         testing::Values(wire::Projection::kHadamard, wire::Projection::kGaussian),
                         [](const auto& test) {
                           return test.param == wire::Projection::kHadamard ? "Hadamard"
                                                                            : "Gaussian";
                         });

}  // namespace
}  // namespace sounder::tests
