// Opening, finding, closing and expiring sessions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/kv_node/session/session_driver.h"

namespace sounder::kv_node {
namespace {

using std::chrono::seconds;
using ::testing::HasSubstr;

class SessionMapTest : public testing::Test {
 protected:
  std::shared_ptr<std::optional<absl::Status>> Close(const wire::SessionOp& op,
                                                     base::Duration deadline = seconds(1)) {
    auto answer = std::make_shared<std::optional<absl::Status>>();
    driver_.map.Close(op, driver_.executor.clock().Now() + deadline,
                      [answer](absl::Status status) { *answer = std::move(status); });
    return answer;
  }
  SessionDriver driver_;
};

TEST_F(SessionMapTest, DefaultsOfTheNodeAreFilledIn) {
  wire::SessionSpec spec = SessionDriver::Spec(1);
  spec.seal_rows = 0;
  spec.min_indexed_rows = 0;
  const auto opened = driver_.map.Open(spec);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->seal_rows, 4096u);
  EXPECT_EQ(opened->min_indexed_rows, 1024u);
}

TEST_F(SessionMapTest, OpenIsIdempotent) {
  const auto first = driver_.Open(SessionDriver::Spec(1));
  EXPECT_EQ(driver_.Open(SessionDriver::Spec(1)), first);
  EXPECT_EQ(driver_.map.size(), 1u);
}

TEST_F(SessionMapTest, AnotherModelIsRefusedNamingBoth) {
  driver_.Open(SessionDriver::Spec(1));
  wire::SessionSpec other = SessionDriver::Spec(1);
  other.model.name = "another";
  other.model.weights_digest = "feedface";
  const absl::Status status = driver_.map.Open(other).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.ToString(), HasSubstr("belongs to another model"));
  EXPECT_THAT(status.ToString(), HasSubstr("model 'toy', the request 'another'; weights digest "
                                           "'digest', the request 'feedface'"));
}

TEST_F(SessionMapTest, AnotherKvLayoutIsAnotherModel) {
  driver_.Open(SessionDriver::Spec(1));
  wire::SessionSpec other = SessionDriver::Spec(1);
  other.model.kv_layout = "llama: k before rope, v";
  const absl::Status status = driver_.map.Open(other).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.ToString(), HasSubstr("kv layout '', the request 'llama: k before rope, v'"));
}

TEST_F(SessionMapTest, Int8RowsNeedSketches) {
  wire::SessionSpec spec = SessionDriver::Spec(1);
  spec.row_format = wire::RowFormat::kInt8;
  const absl::Status opened = driver_.map.Open(spec).status();
  EXPECT_EQ(opened.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(opened.ToString(), HasSubstr("row format 'int8': only sessions with sketches"));
  EXPECT_EQ(driver_.map.size(), 0u);
  EXPECT_TRUE(driver_.map.Open(SessionDriver::SketchSpec(1)).ok());
}

TEST_F(SessionMapTest, OtherSketchesAreRefused) {
  const wire::SessionSpec good = SessionDriver::SketchSpec(1);
  driver_.Open(good);
  EXPECT_TRUE(driver_.map.Open(good).ok());
  const auto refused = [&](const std::function<void(wire::SessionSpec&)>& change) {
    wire::SessionSpec other = good;
    change(other);
    return driver_.map.Open(other).status().code();
  };
  using absl::StatusCode;
  EXPECT_EQ(refused([](auto& spec) { spec.sketch.seed = 9; }), StatusCode::kAlreadyExists);
  EXPECT_EQ(refused([](auto& spec) { spec.sketch.bits = 128; }), StatusCode::kAlreadyExists);
  EXPECT_EQ(refused([](auto& spec) { spec.row_format = wire::RowFormat::kAsAppended; }),
            StatusCode::kAlreadyExists);
  EXPECT_EQ(refused([](auto& spec) {
              spec.session.id.low = 2;
              spec.sketch.bits = 100;
            }),
            StatusCode::kInvalidArgument);
}

TEST_F(SessionMapTest, OtherOptionsAreRefused) {
  driver_.Open(SessionDriver::Spec(1));
  const auto refused = [&](const std::function<void(wire::SessionSpec&)>& change) {
    wire::SessionSpec other = SessionDriver::Spec(1);
    change(other);
    return driver_.map.Open(other).status().code();
  };
  using absl::StatusCode;
  EXPECT_EQ(refused([](auto& spec) { spec.seal_rows = 32; }), StatusCode::kAlreadyExists);
  EXPECT_EQ(refused([](auto& spec) { spec.dtype = base::DType::kF32; }),
            StatusCode::kAlreadyExists);
  EXPECT_EQ(refused([](auto& spec) { spec.lsh.seed = 9; }), StatusCode::kAlreadyExists);
  EXPECT_EQ(refused([](auto& spec) { spec.tenant = 9; }), StatusCode::kAlreadyExists);
  EXPECT_EQ(refused([](auto& spec) { spec.session.epoch = 9; }), StatusCode::kAlreadyExists);
  EXPECT_EQ(refused([](auto& spec) { spec.durability = wire::Durability::kDisk; }),
            StatusCode::kFailedPrecondition);
}

// Every field that two opens must agree in is named with both sides, and nothing else is.
TEST_F(SessionMapTest, WhatDiffersIsNamedFieldByField) {
  driver_.Open(SessionDriver::Spec(1));
  using Spec = wire::SessionSpec;
  const std::vector<std::pair<std::function<void(Spec&)>, std::string>> changes = {
      {[](Spec& s) { s.model.name = "b"; }, "model 'toy', the request 'b'"},
      {[](Spec& s) { s.model.weights_digest = "b"; }, "weights digest 'digest', the request 'b'"},
      {[](Spec& s) { s.model.rope_digest = "b"; }, "rope digest '', the request 'b'"},
      {[](Spec& s) { s.model.adapter = "b"; }, "adapter '', the request 'b'"},
      {[](Spec& s) { s.model.kv_layout = "b"; }, "kv layout '', the request 'b'"},
      {[](Spec& s) { s.model.layers = 3; }, "layers 2, the request 3"},
      {[](Spec& s) { s.model.kv_heads = 4; }, "kv heads 2, the request 4"},
      {[](Spec& s) { s.model.query_heads = 8; }, "query heads 4, the request 8"},
      {[](Spec& s) { s.model.head_dim = 24; }, "head dim 16, the request 24"},
      {[](Spec& s) { s.session.epoch = 7; }, "epoch 0, the request 7"},
      {[](Spec& s) { s.dtype = base::DType::kF32; }, "dtype 'bf16', the request 'f32'"},
      {[](Spec& s) { s.seal_rows = 32; }, "seal rows 16, the request 32"},
      {[](Spec& s) { s.min_indexed_rows = 9; }, "min indexed rows 8, the request 9"},
      {[](Spec& s) { s.lsh = {}; }, "index 'lsh_tables', the request 'none'"},
      {[](Spec& s) { s.lsh.bits_per_table = 5; }, "bits per table 4, the request 5"},
      {[](Spec& s) { s.lsh.num_tables = 7; }, "tables 6, the request 7"},
      {[](Spec& s) { s.lsh.min_collisions = 3; }, "min collisions 2, the request 3"},
      {[](Spec& s) { s.lsh.projection = wire::Projection::kGaussian; },
       "projection 'hadamard', the request 'gaussian'"},
      {[](Spec& s) { s.lsh.seed = 2; }, "lsh seed 1, the request 2"},
      {[](Spec& s) { s.sketch.seed = 2; }, "sketch seed 0, the request 2"},
      {[](Spec& s) {
         s.indexed_layers = {0, 1};
       },
       "indexed layers '1', the request '0,1'"},
      {[](Spec& s) { s.kv_head_begin = 1; }, "first kv head 0, the request 1"},
      {[](Spec& s) { s.kv_head_count = 1; }, "kv heads held 2, the request 1"},
      {[](Spec& s) { s.placement.shard_rows = 32; }, "shard rows 0, the request 32"},
      {[](Spec& s) { s.placement.head_shards = 2; }, "head shards 0, the request 2"},
      {[](Spec& s) { s.placement.nodes = 2; }, "nodes 0, the request 2"},
      {[](Spec& s) {
         s.placement.id = {0, 1};
       },
       "placed by '" + base::SessionId{}.ToString() + "', the request"}};
  for (const auto& [change, text] : changes) {
    wire::SessionSpec other = SessionDriver::Spec(1);
    change(other);
    const absl::Status status = driver_.map.Open(other).status();
    EXPECT_THAT(status.ToString(), HasSubstr(text));
    EXPECT_EQ(status.ToString().find(text), status.ToString().rfind(text)) << "once";
  }
  wire::SessionSpec both = SessionDriver::Spec(1);
  both.seal_rows = 32;
  both.lsh.seed = 2;
  EXPECT_THAT(driver_.map.Open(both).status().ToString(),
              HasSubstr("other options: seal rows 16, the request 32; lsh seed 1, the request 2"));
  wire::SessionSpec sketches = SessionDriver::SketchSpec(2);
  driver_.Open(sketches);
  sketches.row_format = wire::RowFormat::kAsAppended;
  sketches.sketch.bits = 128;
  EXPECT_THAT(driver_.map.Open(sketches).status().ToString(),
              HasSubstr("sketch bits 64, the request 128; row format 'int8', the request "
                        "'as appended'"));
  // Another tenant learns nothing but that the id is taken.
  wire::SessionSpec stranger = SessionDriver::Spec(1);
  stranger.tenant = 5;
  stranger.seal_rows = 32;
  const absl::Status taken = driver_.map.Open(stranger).status();
  EXPECT_EQ(taken.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(taken.ToString(), ::testing::Not(HasSubstr("seal rows")));
  // How long it is to live may differ.
  wire::SessionSpec longer = SessionDriver::Spec(1);
  longer.ttl_seconds = 99;
  EXPECT_TRUE(driver_.map.Open(longer).ok());
}

TEST_F(SessionMapTest, BadTablesAreRefused) {
  wire::SessionSpec spec = SessionDriver::Spec(1);
  spec.lsh.bits_per_table = 99;
  EXPECT_EQ(driver_.map.Open(spec).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(driver_.map.size(), 0u);
}

TEST(SessionMapLimitTest, TooManySessions) {
  base::VirtualExecutor executor(1);
  SessionMap map({.max_sessions = 2}, &executor);
  EXPECT_TRUE(map.Open(SessionDriver::Spec(1)).ok());
  EXPECT_TRUE(map.Open(SessionDriver::Spec(2)).ok());
  const absl::Status status = map.Open(SessionDriver::Spec(3)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.ToString(), HasSubstr("2 sessions"));
  EXPECT_TRUE(map.Open(SessionDriver::Spec(1)).ok()) << "that one is open";
}

TEST_F(SessionMapTest, CloseWaitsForOperationsInFlight) {
  const auto session = driver_.Open(SessionDriver::Spec(1));
  const auto closed = Close({session->spec().session, 2});
  EXPECT_FALSE(closed->has_value());
  EXPECT_TRUE(driver_.Append(*session, driver_.Item(*session, 1, 0, 0, 20)).status.ok());
  EXPECT_FALSE(closed->has_value());
  const AppendResult last = driver_.Append(*session, driver_.Item(*session, 2, 0, 20, 20));
  EXPECT_TRUE(last.status.ok()) << last.status;
  ASSERT_TRUE(closed->has_value());
  EXPECT_TRUE((*closed)->ok()) << **closed;
  EXPECT_EQ(driver_.map.size(), 0u);
  EXPECT_EQ(driver_.map.budget().used(), 0u);
  EXPECT_EQ(driver_.map.Find(session->spec().session.id).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(SessionMapTest, CloseFreesEvenIfOperationsNeverCome) {
  const auto session = driver_.Open(SessionDriver::Spec(1));
  ASSERT_TRUE(driver_.Append(*session, driver_.Item(*session, 1, 0, 0, 20)).status.ok());
  const auto closed = Close({session->spec().session, 5});
  driver_.RunFor(seconds(2));
  ASSERT_TRUE(closed->has_value());
  EXPECT_TRUE((*closed)->ok());
  EXPECT_EQ(driver_.map.budget().used(), 0u);
}

TEST_F(SessionMapTest, CloseIsCheckedLikeEverything) {
  const auto session = driver_.Open(SessionDriver::Spec(1));
  wire::SessionOp op{session->spec().session, 0};
  op.session.epoch = 4;
  const auto wrong = Close(op);
  ASSERT_TRUE(wrong->has_value());
  EXPECT_EQ((*wrong)->code(), absl::StatusCode::kFailedPrecondition);
  const auto unknown = Close({{{9, 9}, 0}, 0});
  ASSERT_TRUE(unknown->has_value());
  EXPECT_EQ((*unknown)->code(), absl::StatusCode::kNotFound);
  EXPECT_THAT((*unknown)->ToString(), HasSubstr("is not open on this node"));
  EXPECT_EQ(driver_.map.size(), 1u);
}

TEST_F(SessionMapTest, ALateCloseSparesTheNextSessionOfThatId) {
  const auto first = driver_.Open(SessionDriver::Spec(1));
  const auto late = Close({first->spec().session, 3});  // waits for operations
  const auto now = Close({first->spec().session, 0});
  ASSERT_TRUE(now->has_value());
  ASSERT_TRUE(late->has_value()) << "its session has gone";
  const auto second = driver_.Open(SessionDriver::Spec(1));
  driver_.RunFor(seconds(3));
  EXPECT_EQ(*driver_.map.Find(second->spec().session.id), second);
}

TEST_F(SessionMapTest, SessionsExpireAfterTheirTtl) {
  wire::SessionSpec spec = SessionDriver::Spec(1);
  spec.ttl_seconds = 10;
  const auto mortal = driver_.Open(spec);
  const auto lasting = driver_.Open(SessionDriver::Spec(2));
  ASSERT_TRUE(driver_.Append(*mortal, driver_.Item(*mortal, 1, 0, 0, 20)).status.ok());
  driver_.RunFor(seconds(9));
  EXPECT_EQ(driver_.map.CloseExpired(), 0u);
  driver_.Plan(*mortal, driver_.Query(*mortal, 1, 0, {0, 20}));  // a sign of life
  driver_.RunFor(seconds(9));
  EXPECT_EQ(driver_.map.CloseExpired(), 0u);
  driver_.Send(*mortal, driver_.Item(*mortal, 1, 0, 0, 20));  // another
  driver_.RunFor(seconds(9));
  EXPECT_EQ(driver_.map.CloseExpired(), 0u);
  mortal->Touch();
  driver_.RunFor(seconds(9));
  EXPECT_EQ(driver_.map.CloseExpired(), 0u);
  driver_.RunFor(seconds(1));
  EXPECT_EQ(driver_.map.CloseExpired(), 1u);
  EXPECT_EQ(driver_.map.budget().used(), lasting->Counts().reserved_bytes);
  EXPECT_EQ(driver_.map.size(), 1u);
  EXPECT_TRUE(driver_.map.Find(lasting->spec().session.id).ok());
}

}  // namespace
}  // namespace sounder::kv_node
