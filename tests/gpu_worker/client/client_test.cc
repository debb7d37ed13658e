// The public interface does what KvClient does, refuses what would be a bug further down, and may
// be taken apart in any order.
#include "gpu_worker/client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/attention/partial_output.h"
#include "common/base/virtual_executor.h"
#include "tests/gpu_worker/client/engine.h"

namespace sounder::tests {
namespace {

using client::Code;
using client::Query;
using client::Session;
using Options = client::SessionOptions;
using testing::HasSubstr;

#define EXPECT_OK(expression)                       \
  do {                                              \
    const client::Status outcome = (expression);    \
    EXPECT_TRUE(outcome.ok()) << outcome.message(); \
  } while (false)

#define EXPECT_REFUSED(expression, wanted, text)            \
  do {                                                      \
    const client::Status outcome = (expression);            \
    EXPECT_EQ(outcome.code(), wanted) << outcome.message(); \
    EXPECT_THAT(outcome.message(), HasSubstr(text));        \
  } while (false)

constexpr int kNodes = 2;

class ClientTest : public testing::Test {
 protected:
  std::unique_ptr<Session> Open(const Options& options) {
    std::unique_ptr<Session> session;
    EXPECT_OK(engine_->Open(options, &session));
    return session;
  }
  // A session of every row, over both nodes.
  std::unique_ptr<Session> Filled(uint64_t number) {
    Options options = PublicOptions(kShape, number, 16);
    options.shard_rows = 32;
    std::unique_ptr<Session> session = Open(options);
    EXPECT_OK(session->Append(PublicRows(rows_, 0, rows_.positions())));
    return session;
  }
  double DistanceOf(const Query& query, client::Position causal_from = -1) const {
    return Distance(query,
                    ReferenceOf(rows_, 1, Queries(query), {query.range.begin, query.range.end},
                                1 / std::sqrt(16.0f), causal_from));
  }
  static std::span<const float> Queries(const Query& query) {
    return {query.queries, size_t{query.query_count} * kShape.query_heads() * kShape.dim};
  }
  void Attend(Query* query) { engine_->StartAttend(1, query, 1)->Wait(); }

  static constexpr Shape kShape{2, 3, 2, 16, base::DType::kBF16};
  base::VirtualExecutor executor_{1};
  const TestRows rows_ = TestRows::Gaussian(kShape, 200, 8);
  const std::vector<float> queries_ = GaussianQueries(kShape, 1, 4);
  const std::vector<float> block_ = GaussianQueries(kShape, 5, 4);
  LocalCluster cluster_{NodesOf(kNodes), &executor_};
  Engine engine_{&cluster_, kNodes, &executor_};
};

TEST_F(ClientTest, AttendsExactlyAndMergesWithWhatTheEngineKeeps) {
  const auto session = Filled(1);
  EXPECT_OK(session->WaitAppended(200));
  EXPECT_EQ(session->end(), 200);
  EXPECT_EQ(session->id().low, 1u);
  Query queries[] = {PublicQuery(session.get(), queries_, kShape, {0, 150}),
                     PublicQuery(session.get(), queries_, kShape, {150, 200}),
                     PublicQuery(session.get(), block_, kShape, {0, 200}),
                     PublicQuery(session.get(), queries_, kShape, {7, 7})};
  queries[2].causal_from = 190;
  engine_->StartAttend(1, queries, 4)->Wait();
  for (const Query& query : queries) EXPECT_OK(query.status);
  EXPECT_LT(DistanceOf(queries[0]), 1e-5);
  EXPECT_LT(DistanceOf(queries[2], 190), 1e-5);
  EXPECT_EQ(queries[0].rows_visible, 6u * 150);
  EXPECT_EQ(queries[0].rows_read, 6u * 150);
  EXPECT_EQ(queries[3].lse, std::vector<float>(6, attention::kEmptyLse));
  client::Merge(queries[0].outputs.data(), queries[0].lse.data(), queries[1].outputs.data(),
                queries[1].lse.data(), 6, 16);
  queries[0].range = {0, 200};
  EXPECT_LT(DistanceOf(queries[0]), 1e-5);
  // The empty set adds nothing.
  const std::vector<float> before = queries[0].outputs;
  client::Merge(queries[0].outputs.data(), queries[0].lse.data(), queries[3].outputs.data(),
                queries[3].lse.data(), 6, 16);
  EXPECT_EQ(queries[0].outputs, before);
  // Another scale is another answer.
  queries[0].range = {0, 150};
  queries[0].scale = 1;
  Attend(&queries[0]);
  EXPECT_GT(DistanceOf(queries[0]), 1e-2);
  EXPECT_OK(session->Close());
  EXPECT_EQ(cluster_.MemoryUsed(), 0u);
}

// Samples are those that KvClient gets with signatures of its own user.
TEST_F(ClientTest, SamplesAreThoseOfKvClient) {
  for (const bool sketch : {false, true}) {
    Options options = PublicOptions(kShape, 10 + sketch, 64);
    gpu_worker::RemoteSessionOptions inside = SessionOptions(kShape, 20 + sketch, 64);
    options.indexed_layers = inside.indexed_layers = {1};
    if (sketch) {
      options.sketch = {64, 3};
      options.int8_rows = true;
      inside.sketch = {64, 3};
      inside.row_format = wire::RowFormat::kInt8;
    } else {
      options.lsh = {12, 6, 2, false, 3};
      inside.lsh = {.bits_per_table = 6, .num_tables = 12, .min_collisions = 2, .seed = 3};
    }
    const auto session = Open(options);
    EXPECT_OK(session->Append(PublicRows(rows_, 0, 200)));
    const auto remote = *cluster_.client().Open(inside);
    ASSERT_TRUE(cluster_.client().Append(remote.get(), rows_.Range({0, 200}, false)).ok());

    // Queries that are no numbers of the session's dtype: they are rounded on the way.
    std::vector<float> queries = block_;
    for (float& value : queries) value *= 1.0001f;
    std::vector<float> rounded = queries;
    for (float& value : rounded) value = base::RoundTo(kShape.dtype, value);
    const std::vector<float> hints(5 * 6, 4.0f);
    Query query = PublicQuery(session.get(), queries, kShape, {0, 190});
    gpu_worker::AttendQuery wanted = ExactQuery(remote.get(), rounded, {0, 190});
    query.attention = sketch ? client::Attention::kSketch : client::Attention::kLshTables;
    wanted.attention = sketch ? wire::AttentionKind::kSketch : wire::AttentionKind::kLshTables;
    query.sample_key = wanted.sample_key = 77;
    query.step = wanted.step = 5;
    query.layout_position = wanted.layout_position = 195;
    std::vector<uint64_t> signatures;
    if (sketch) {
      query.rows_budget = wanted.rows_budget = .2f;
      query.rows_cap = wanted.rows_cap = 20;
      query.lse_hints = wanted.lse_hints = hints.data();
    } else {
      signatures = Sign(*remote, rounded);
      wanted.signatures = signatures.data();
    }
    Attend(&query);
    cluster_.client().StartAttend(1, {&wanted, 1})->Wait();
    ASSERT_TRUE(wanted.status.ok()) << wanted.status;
    EXPECT_OK(query.status);
    EXPECT_EQ(query.outputs, wanted.outputs);
    EXPECT_EQ(query.lse, wanted.lse);
    EXPECT_EQ(query.rows_read, wanted.rows_read);
    EXPECT_LT(query.rows_read, query.rows_visible) << "nothing was sampled";
    const std::vector<float> first = query.outputs;
    query.step = 6;
    if (sketch) {
      Attend(&query);
      EXPECT_NE(query.outputs, first) << "a step draws what the last one drew";
    }
    ASSERT_TRUE(cluster_.client().Close(remote.get()).ok());
  }
}

// Nodes get queries rounded to the session's dtype, and their signatures are those of these.
TEST_F(ClientTest, SignsQueriesAsTheNodesSeeThem) {
  gpu_worker::RemoteSessionOptions options = SessionOptions(kShape, 1, 16);
  options.lsh = {.bits_per_table = 16, .num_tables = 200, .min_collisions = 2, .seed = 3};
  const auto remote = *cluster_.client().Open(options);
  std::vector<float> queries = block_;
  for (size_t i = 0; i < queries.size(); ++i) queries[i] *= i % 2 == 0 ? 1.0015f : 0.9985f;
  const Query query = PublicQuery(nullptr, queries, kShape, {});
  EXPECT_EQ(gpu_worker::Sign(query, *remote), Sign(*remote, block_));
  EXPECT_NE(Sign(*remote, queries), Sign(*remote, block_)) << "proves nothing";
}

// As engines keep them: the heads of a position beside each other.
TEST_F(ClientTest, RowsMayLieApart) {
  const auto session = Open(PublicOptions(kShape, 1, 16));
  constexpr size_t kRow = kShape.dim * 2;
  std::vector<std::byte> keys(kShape.layers * 200 * kShape.kv_heads * kRow);
  std::vector<std::byte> values(keys.size());
  const auto place = [](uint32_t layer, uint32_t head, size_t row) {
    return ((layer * 200 + row) * kShape.kv_heads + head) * kRow;
  };
  for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
    for (uint32_t head = 0; head < kShape.kv_heads; ++head) {
      for (size_t row = 0; row < 200; ++row) {
        const size_t to = place(layer, head, row);
        std::memcpy(&keys[to], rows_.Keys(layer, head).data + row * kRow, kRow);
        std::memcpy(&values[to], rows_.Values(layer, head).data + row * kRow, kRow);
      }
    }
  }
  client::Rows rows;
  rows.count = 200;
  rows.head = [&](uint32_t layer, uint32_t head) {
    const size_t at = place(layer, head, 0);
    return client::HeadRows{&keys[at], &values[at], kShape.kv_heads * kRow};
  };
  EXPECT_OK(session->Append(rows));
  Query query = PublicQuery(session.get(), queries_, kShape, {0, 200});
  Attend(&query);
  EXPECT_OK(query.status);
  EXPECT_LT(DistanceOf(query), 1e-5);
}

TEST_F(ClientTest, RefusesQueriesThatDoNotFit) {
  const auto session = Filled(1);
  const auto closed = Open(PublicOptions(kShape, 2, 16));
  EXPECT_OK(closed->Close());
  Engine other(&cluster_, kNodes, &executor_);
  std::unique_ptr<Session> foreign;
  EXPECT_OK(other->Open(PublicOptions(kShape, 3, 16), &foreign));
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> hints(6, kNan);
  struct Case {
    std::function<void(Query&)> spoil;
    Code code;
    const char* text;
  };
  const Case cases[] = {
      {[](Query& q) { q.session = nullptr; }, Code::kInvalidArgument, "no session"},
      {[&](Query& q) { q.session = closed.get(); }, Code::kFailedPrecondition, "is closed"},
      {[&](Query& q) { q.session = foreign.get(); }, Code::kInvalidArgument, "another client"},
      {[](Query& q) { q.queries = nullptr; }, Code::kInvalidArgument, "at null"},
      {[](Query& q) { q.query_count = 0; }, Code::kInvalidArgument, "0 queries"},
      {[](Query& q) { q.query_count = 4097; }, Code::kInvalidArgument, "4097 queries"},
      {[](Query& q) {
         q.range = {-1, 3};
       },
       Code::kInvalidArgument, "range [-1, 3)"},
      {[](Query& q) {
         q.range = {4, 3};
       },
       Code::kInvalidArgument, "range [4, 3)"},
      {[](Query& q) { q.range.end = INT64_MAX; }, Code::kInvalidArgument, "range [0, "},
      {[](Query& q) { q.range.end = 201; }, Code::kOutOfRange, "201"},
      {[](Query& q) { q.causal_from = -2; }, Code::kInvalidArgument, "causal from -2"},
      {[](Query& q) { q.layout_position = INT64_MAX; }, Code::kInvalidArgument, "layout position"},
      {[](Query& q) { q.scale = kNan; }, Code::kInvalidArgument, "scale nan"},
      {[](Query& q) { q.scale = -2e6f; }, Code::kInvalidArgument, "scale -2"},
      {[](Query& q) { q.rows_budget = kNan; }, Code::kInvalidArgument, "rows budget nan"},
      {[](Query& q) { q.rows_budget = 1.5f; }, Code::kInvalidArgument, "rows budget 1.5"},
      {[&](Query& q) { q.lse_hints = hints.data(); }, Code::kInvalidArgument, "lse hint is nan"},
      {[](Query& q) { q.attention = client::Attention::kLshTables; }, Code::kFailedPrecondition,
       "no LSH tables"},
      {[](Query& q) { q.attention = client::Attention::kSketch; }, Code::kFailedPrecondition,
       "no sketches"},
      {[](Query& q) { q.attention = client::Attention{9}; }, Code::kInvalidArgument, "attention 9"},
  };
  for (const Case& wrong : cases) {
    SCOPED_TRACE(wrong.text);
    Query queries[] = {PublicQuery(session.get(), queries_, kShape, {0, 200}),
                       PublicQuery(session.get(), queries_, kShape, {0, 200}),
                       PublicQuery(session.get(), queries_, kShape, {0, 200})};
    wrong.spoil(queries[1]);
    engine_->StartAttend(1, queries, 3)->Wait();
    EXPECT_REFUSED(queries[1].status, wrong.code, wrong.text);
    for (const int neighbour : {0, 2}) {
      EXPECT_OK(queries[neighbour].status);
      EXPECT_LT(DistanceOf(queries[neighbour]), 1e-5);
    }
  }
  Query query = PublicQuery(session.get(), queries_, kShape, {0, 200});
  engine_->StartAttend(2, &query, 1)->Wait();
  EXPECT_REFUSED(query.status, Code::kInvalidArgument, "layer 2 of a model with 2 layers");
  engine_->StartAttend(0, nullptr, 0)->Wait();
}

TEST_F(ClientTest, RefusesSessionsThatCannotBe) {
  struct Case {
    std::function<void(Options&)> spoil;
    const char* text;
  };
  const Case cases[] = {
      {[](Options& o) { o.model.kv_heads = 0; }, "0 kv heads"},
      {[](Options& o) { o.model.kv_heads = UINT32_MAX; }, "kv heads"},
      {[](Options& o) { o.model.query_heads = 7; }, "7 query heads over 3 kv heads"},
      {[](Options& o) { o.model.query_heads = 0; }, "0 query heads"},
      {[](Options& o) { o.model.layers = 0; }, "0 layers"},
      {[](Options& o) { o.model.layers = UINT32_MAX; }, "4294967295 layers"},
      {[](Options& o) { o.model.head_dim = 12; }, "head dim 12"},
      {[](Options& o) { o.model.head_dim = 1024; }, "head dim 1024"},
      {[](Options& o) { o.head_shards = 0; }, "head shards 0"},
      {[](Options& o) { o.head_shards = -3; }, "head shards -3"},
      {[](Options& o) { o.shard_rows = 17; }, "shard rows 17"},
      {[](Options& o) { o.seal_rows = 0; }, "seal rows 0"},
      {[](Options& o) { o.seal_rows = 65537; }, "seal rows 65537"},
      {[](Options& o) { o.dtype = client::DType{3}; }, "dtype 3"},
      {[](Options& o) { o.sketch.bits = 65; }, "sketches of 65 bits"},
      {[](Options& o) { o.int8_rows = true; }, "int8"},
      {[](Options& o) {
         o.lsh = {4, 17, 2, false, 1};
       },
       "17"},
      {[](Options& o) {
         o.lsh = {4, 8, 5, false, 1};
       },
       "5"},
      {[](Options& o) { o.indexed_layers = {2}; }, "indexed layer 2"},
      {[](Options& o) {
         o.model.layers = 1024;
         o.model.kv_heads = o.model.query_heads = 1024;
         o.model.head_dim = 512;
       },
       "the rows of one position take"},
  };
  for (const Case& wrong : cases) {
    SCOPED_TRACE(wrong.text);
    Options options = PublicOptions(kShape, 1, 16);
    wrong.spoil(options);
    std::unique_ptr<Session> session;
    EXPECT_REFUSED(engine_->Open(options, &session), Code::kInvalidArgument, wrong.text);
    EXPECT_EQ(session, nullptr);
  }
  const auto session = Open(PublicOptions(kShape, 1, 16));
  std::unique_ptr<Session> again;
  Options options = PublicOptions(kShape, 1, 16);
  options.model.weights_digest = "of other weights";
  EXPECT_REFUSED(engine_->Open(options, &again), Code::kFailedPrecondition, "of other weights");
  EXPECT_REFUSED(engine_->Open(PublicOptions(kShape, 1, 32), &again), Code::kAlreadyExists, "");
}

TEST_F(ClientTest, RefusesRowsThatCannotBe) {
  const auto session = Open(PublicOptions(kShape, 1, 16));
  client::Rows rows = PublicRows(rows_, 0, 200);
  for (const auto& [first, count] :
       {std::pair<int64_t, int64_t>{-1, 3}, {0, -1}, {INT64_MAX, 1}, {1, int64_t{1} << 40}}) {
    rows.first = first;
    rows.count = count;
    EXPECT_REFUSED(session->Append(rows), Code::kInvalidArgument, "rows from position");
  }
  rows = {};
  rows.count = 3;
  EXPECT_REFUSED(session->Append(rows), Code::kInvalidArgument, "Rows::head");
  EXPECT_OK(session->Append(PublicRows(rows_, 0, 0)));
  EXPECT_OK(session->Append(PublicRows(rows_, 0, 50)));
  EXPECT_OK(session->WaitAppended(50));
  EXPECT_REFUSED(session->Append(PublicRows(rows_, 51, 60)), Code::kInvalidArgument,
                 "rows from position 51, expected 50");
  EXPECT_REFUSED(session->Append(PublicRows(rows_, 40, 60)), Code::kInvalidArgument,
                 "rows from position 40, expected 50");
  EXPECT_OK(session->Append(PublicRows(rows_, 50, 60)));
  EXPECT_OK(session->WaitAppended(60));
}

// What a node refuses is missing from then on, and every call says so.
TEST_F(ClientTest, AnAppendThatFailedIsSaidForGood) {
  const auto session = Open(PublicOptions(kShape, 1, 16));
  EXPECT_OK(session->Append(PublicRows(rows_, 0, 50)));
  client::Adopted adopted;
  EXPECT_OK(engine_->Adopt(session->id(), 0, &adopted));
  EXPECT_OK(session->Append(PublicRows(rows_, 50, 60)));
  EXPECT_REFUSED(session->WaitAppended(60), Code::kFailedPrecondition, "node");
  EXPECT_REFUSED(session->status(), Code::kFailedPrecondition, "epoch");
  EXPECT_REFUSED(session->Append(PublicRows(rows_, 60, 70)), Code::kFailedPrecondition, "epoch");
  Query query = PublicQuery(session.get(), queries_, kShape, {0, 50});
  Attend(&query);
  EXPECT_REFUSED(query.status, Code::kFailedPrecondition, "epoch");
}

TEST_F(ClientTest, AClosedSessionSaysSo) {
  const auto session = Filled(7);
  EXPECT_OK(session->Close());
  EXPECT_EQ(cluster_.Sessions(), 0u);
  constexpr char kText[] = "session 0000000000005e550000000000000007 is closed";
  EXPECT_REFUSED(session->Append(PublicRows(rows_, 0, 1)), Code::kFailedPrecondition, kText);
  EXPECT_REFUSED(session->WaitAppended(1), Code::kFailedPrecondition, kText);
  EXPECT_REFUSED(session->Truncate(1), Code::kFailedPrecondition, kText);
  std::unique_ptr<Session> child;
  EXPECT_REFUSED(session->Fork(1, &child), Code::kFailedPrecondition, kText);
  std::vector<int32_t> tokens;
  EXPECT_REFUSED(session->FetchTokens({0, 1}, &tokens), Code::kFailedPrecondition, kText);
  EXPECT_REFUSED(session->Fetch(0, {0, 1}, nullptr, nullptr), Code::kFailedPrecondition, kText);
  EXPECT_REFUSED(session->status(), Code::kFailedPrecondition, kText);
  EXPECT_OK(session->Close());
}

TEST_F(ClientTest, BranchesRollsBackAndReadsBack) {
  const auto session = Filled(1);
  std::unique_ptr<Session> child;
  EXPECT_REFUSED(session->Fork(201, &child), Code::kOutOfRange, "201");
  EXPECT_EQ(child, nullptr);
  EXPECT_OK(session->Fork(100, &child, {9, 9}));
  EXPECT_EQ(child->id().high, 9u);
  EXPECT_EQ(child->end(), 100);
  EXPECT_OK(child->Append(PublicRows(rows_, 100, 150)));
  Query query = PublicQuery(child.get(), queries_, kShape, {0, 150});
  Attend(&query);
  EXPECT_OK(query.status);
  EXPECT_LT(DistanceOf(query), 1e-5);
  EXPECT_REFUSED(child->Truncate(151), Code::kOutOfRange, "151");
  EXPECT_OK(child->Truncate(40));
  EXPECT_EQ(child->end(), 40);
  EXPECT_OK(session->Close());  // the child keeps what both had
  std::vector<std::byte> keys(3 * 30 * 32);
  std::vector<std::byte> values(keys.size());
  EXPECT_OK(child->Fetch(1, {10, 40}, keys.data(), values.data()));
  for (uint32_t head = 0; head < 3; ++head) {
    EXPECT_EQ(
        std::memcmp(keys.data() + head * 30 * 32, rows_.Keys(1, head).data + 10 * 32, 30 * 32), 0);
    EXPECT_EQ(
        std::memcmp(values.data() + head * 30 * 32, rows_.Values(1, head).data + 10 * 32, 30 * 32),
        0);
  }
  EXPECT_OK(child->Fetch(1, {10, 10}, nullptr, nullptr));
  EXPECT_REFUSED(child->Fetch(1, {10, 41}, keys.data(), values.data()), Code::kOutOfRange, "41");
  EXPECT_REFUSED(child->Fetch(2, {10, 40}, keys.data(), values.data()), Code::kInvalidArgument,
                 "layer 2");
  child.reset();
  EXPECT_EQ(cluster_.MemoryUsed(), 0u);
}

TEST_F(ClientTest, ASessionThatWasLeftIsTakenOver) {
  auto session = Open(PublicOptions(kShape, 1, 16));
  std::vector<int32_t> tokens(90);
  for (int32_t i = 0; i < 90; ++i) tokens[static_cast<size_t>(i)] = 3 * i;
  client::Rows rows = PublicRows(rows_, 0, 90);
  rows.tokens = tokens.data();
  EXPECT_OK(session->Append(rows));
  EXPECT_OK(session->WaitAppended(90));
  session->Leave();
  EXPECT_REFUSED(session->status(), Code::kFailedPrecondition, "closed");
  session.reset();
  EXPECT_EQ(cluster_.Sessions(), 1u);

  Engine other(&cluster_, kNodes, &executor_);
  client::Adopted adopted;
  EXPECT_REFUSED(other->Adopt({0x5e55, 2}, 0, &adopted), Code::kNotFound, "");
  EXPECT_OK(other->Adopt({0x5e55, 1}, 0, &adopted));
  ASSERT_NE(adopted.session, nullptr);
  EXPECT_EQ(adopted.session->end(), 90);
  EXPECT_EQ(adopted.tokens, tokens);
  std::vector<int32_t> some;
  EXPECT_OK(adopted.session->FetchTokens({20, 23}, &some));
  EXPECT_THAT(some, testing::ElementsAre(60, 63, 66));
  EXPECT_OK(adopted.session->Append(PublicRows(rows_, 90, 120)));
  Query query = PublicQuery(adopted.session.get(), queries_, kShape, {0, 120});
  other->StartAttend(1, &query, 1)->Wait();
  EXPECT_OK(query.status);
  EXPECT_LT(DistanceOf(query), 1e-5);
}

// Client, session and an attend in flight go in every order.
TEST_F(ClientTest, IsTakenApartInAnyOrder) {
  std::vector<int> order = {0, 1, 2};
  do {
    for (const bool wait : {false, true}) {
      Engine engine(&cluster_, kNodes, &executor_);
      std::unique_ptr<Session> session;
      EXPECT_OK(engine->Open(PublicOptions(kShape, 1, 16), &session));
      EXPECT_OK(session->Append(PublicRows(rows_, 0, 100)));
      auto query = std::make_unique<Query>(PublicQuery(session.get(), queries_, kShape, {0, 100}));
      auto pending = engine->StartAttend(1, query.get(), 1);
      for (const int which : order) {
        if (which == 0) engine.DropClient();
        if (which == 1) session.reset();
        if (which == 2 && wait) pending->Wait();
        if (which == 2) pending.reset();
      }
      EXPECT_EQ(cluster_.MemoryUsed(), 0u);
      // Asked for before the session was closed, if not answered before.
      if (order[0] == 2 && wait) EXPECT_OK(query->status);
      if (wait && query->status.ok()) {
        EXPECT_LT(DistanceOf(*query), 1e-5);
      }
    }
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_F(ClientTest, ASessionIsKeptAlive) {
  Options options = PublicOptions(kShape, 1, 16);
  options.ttl_seconds = 3;
  const auto kept = Open(options);
  const auto pass = [&](int seconds) {
    const base::Time end = executor_.clock().Now() + std::chrono::seconds(seconds);
    executor_.RunFor(end - executor_.clock().Now());
    for (int node = 0; node < kNodes; ++node) cluster_.sessions(node).CloseExpired();
  };
  for (int second = 0; second < 10; ++second) {
    pass(1);
    engine_->KeepAlive();
  }
  EXPECT_EQ(cluster_.Sessions(), 1u);
  pass(4);
  EXPECT_EQ(cluster_.Sessions(), 0u);
}

}  // namespace
}  // namespace sounder::tests
