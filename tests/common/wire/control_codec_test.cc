#include "common/wire/control_codec.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iterator>

#include "common/base/absl_text.h"
#include "common/base/limits.h"
#include "tests/common/wire/wire_values.h"

namespace sounder::wire {
namespace {

using testing::HasSubstr;

absl::StatusOr<SessionSpec> Travel(const SessionSpec& spec) {
  capnp::MallocMessageBuilder builder;
  Put(spec, builder.initRoot<proto::SessionSpec>());
  return Get(builder.getRoot<proto::SessionSpec>().asReader());
}

TEST(ControlCodecTest, ValuesRoundTrip) {
  base::PhiloxStream random(51, 0);
  for (int round = 0; round < 300; ++round) {
    const SessionSpec spec = RandomSpec(random);
    const auto again = Travel(spec);
    ASSERT_TRUE(again.ok()) << again.status();
    ASSERT_EQ(Describe(*again), Describe(spec));

    capnp::MallocMessageBuilder builder;
    const SessionInfo info = RandomInfo(random);
    Put(info, builder.initRoot<proto::SessionInfo>());
    const auto info_again = Get(builder.getRoot<proto::SessionInfo>().asReader());
    ASSERT_TRUE(info_again.ok()) << info_again.status();
    ASSERT_EQ(Describe(*info_again), Describe(info));

    const NodeStatus status = RandomNodeStatus(random);
    Put(status, builder.initRoot<proto::NodeStatus>());
    const auto status_again = Get(builder.getRoot<proto::NodeStatus>().asReader());
    ASSERT_TRUE(status_again.ok()) << status_again.status();
    ASSERT_EQ(Describe(*status_again), Describe(status));
  }
}

TEST(ControlCodecTest, AnInfoOfTooManyHeadsIsRefused) {
  base::PhiloxStream random(51, 2);
  SessionInfo info = RandomInfo(random);
  info.head_ends.assign(base::kMaxKvHeads + 1, 5);
  capnp::MallocMessageBuilder builder;
  Put(info, builder.initRoot<proto::SessionInfo>());
  const absl::Status status = Get(builder.getRoot<proto::SessionInfo>().asReader()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(base::MessageOf(status), HasSubstr("the ends of 1025 kv heads"));
}

// A name was read whole and written up to its first NUL: a session's model compared unequal with
// itself after one trip more.
TEST(ControlCodecTest, NamesTravelWholeBehindANul) {
  base::PhiloxStream random(51, 2);
  SessionSpec spec = RandomSpec(random);
  for (std::string* name : {&spec.model.name, &spec.model.weights_digest, &spec.model.rope_digest,
                            &spec.model.adapter, &spec.model.kv_layout}) {
    *name = std::string("a\0b", 3);
  }
  const auto again = Travel(spec);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->model, spec.model);
}

TEST(ControlCodecTest, AStatusListsSoManyConnectionsAtMost) {
  NodeStatus status;
  status.connections.assign(base::kMaxConnections + 1, {"peer", "tcp", ""});
  capnp::MallocMessageBuilder builder;
  Put(status, builder.initRoot<proto::NodeStatus>());
  const auto again = Get(builder.getRoot<proto::NodeStatus>().asReader());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->connections.size(), base::kMaxConnections);
}

// Structs without fields take no bytes: 72 bytes of message took 1.5 GB to read.
TEST(ControlCodecTest, AStatusOfMillionsOfEmptyConnectionsIsRefused) {
  const uint64_t message[] = {
      uint64_t{8} << 32,  // one segment of eight words
      uint64_t{6} << 48,  // the root: no data, six pointers
      0,                  // the texts
      0,
      0,
      0,
      0,
      (uint64_t{7} << 32) | 1,    // the connections: a list behind a tag, of no words
      uint64_t{8'000'000} << 2};  // the tag: so many structs of no words
  capnp::FlatArrayMessageReader reader(
      kj::arrayPtr(reinterpret_cast<const capnp::word*>(message), std::size(message)));
  const auto status = Get(reader.getRoot<proto::NodeStatus>());
  EXPECT_EQ(status.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(base::MessageOf(status.status()), HasSubstr("8000000 connections"));
}

TEST(ControlCodecTest, StatusesRoundTrip) {
  for (int code = 0; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), code == 0 ? "" : "text");
    capnp::MallocMessageBuilder builder;
    Put(status, builder.initRoot<proto::Status>());
    EXPECT_EQ(Get(builder.getRoot<proto::Status>().asReader()), status);
  }
}

TEST(ControlCodecTest, EveryRuleOfASpecIsChecked) {
  base::PhiloxStream random(51, 1);
  SessionSpec good = RandomSpec(random);
  good.model.kv_heads = 4;
  good.model.query_heads = 8;
  good.kv_head_begin = 1;
  good.kv_head_count = 3;
  good.lsh = {10, 150, 2, Projection::kGaussian, 7};
  good.sketch = {};
  ASSERT_TRUE(Travel(good).ok());
  const auto refused = [&good](auto change, const std::string& text,
                               absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    SessionSpec spec = good;
    change(spec);
    const absl::Status status = Travel(spec).status();
    EXPECT_EQ(status.code(), code) << text << ": " << status;
    EXPECT_THAT(base::MessageOf(status), HasSubstr(text));
  };
  refused([](SessionSpec& s) { s.protocol_version = 9; }, "the worker speaks version 9, this node",
          absl::StatusCode::kFailedPrecondition);
  refused([](SessionSpec& s) { s.session.id = {}; }, "session id is empty");
  refused([](SessionSpec& s) { s.model.name.assign(257, 'x'); }, "model name of 257 bytes");
  refused([](SessionSpec& s) { s.model.weights_digest.assign(257, 'x'); }, "weights digest");
  refused([](SessionSpec& s) { s.model.rope_digest.assign(257, 'x'); }, "rope digest");
  refused([](SessionSpec& s) { s.model.adapter.assign(257, 'x'); }, "adapter");
  refused([](SessionSpec& s) { s.model.kv_layout.assign(257, 'x'); }, "kv layout of 257 bytes");
  refused([](SessionSpec& s) { s.model.layers = 0; }, "model of 0 layers");
  refused([](SessionSpec& s) { s.model.layers = base::kMaxLayers + 1; }, "model of 1025 layers");
  refused([](SessionSpec& s) { s.model.kv_heads = 0; }, "0 kv heads");
  refused([](SessionSpec& s) { s.model.kv_heads = base::kMaxKvHeads + 1; }, "1025 kv heads");
  refused([](SessionSpec& s) { s.model.query_heads = 0; }, "0 query heads");
  refused([](SessionSpec& s) { s.model.query_heads = 9; }, "9 query heads over 4");
  refused([](SessionSpec& s) { s.model.query_heads = 33 * 4; }, "132 query heads over 4");
  refused([](SessionSpec& s) { s.model.head_dim = 0; }, "head dim 0");
  refused([](SessionSpec& s) { s.model.head_dim = 100; }, "head dim 100");
  refused([](SessionSpec& s) { s.model.head_dim = 520; }, "head dim 520");
  refused([](SessionSpec& s) { s.kv_head_count = 0; }, "kv heads [1, +0)");
  refused([](SessionSpec& s) { s.kv_head_begin = 2; }, "kv heads [2, +3)");
  refused([](SessionSpec& s) { s.kv_head_begin = UINT32_MAX; }, "of a model with 4");
  refused([](SessionSpec& s) { s.seal_rows = base::kMaxSegmentRows + 1; }, "seal rows 65537");
  refused([](SessionSpec& s) { s.lsh.num_tables = base::kMaxTables + 1; }, "1025 tables");
  refused([](SessionSpec& s) { s.lsh.bits_per_table = 0; }, "tables of 0 bits");
  refused([](SessionSpec& s) { s.lsh.bits_per_table = 17; }, "tables of 17 bits");
  refused([](SessionSpec& s) { s.lsh.min_collisions = 0; }, "0 collisions");
  refused([](SessionSpec& s) { s.lsh.min_collisions = 151; }, "151 collisions");
  for (const uint32_t bits : {1u, 63u, 65u, 192u, 512u, UINT32_MAX}) {
    refused(
        [bits](SessionSpec& s) {
          s.lsh.num_tables = 0;
          s.sketch.bits = bits;
        },
        "expected 0 (none), 64, 128 or 256");
  }
  refused([](SessionSpec& s) { s.sketch.bits = 128; }, "one kind of index");
  refused([](SessionSpec& s) { s.placement.shard_rows = -1; }, "shards of -1 positions");
  refused([](SessionSpec& s) { s.indexed_layers = {s.model.layers}; }, "indexed layer");
  refused([](SessionSpec& s) { s.indexed_layers.assign(1025, 0); },
          "1025 indexed layers, at most 1024");
  refused([](SessionSpec& s) { s.dtype = static_cast<base::DType>(3); }, "unknown dtype 3");
  refused([](SessionSpec& s) { s.row_format = static_cast<RowFormat>(2); }, "row format 2");
  refused([](SessionSpec& s) { s.lsh.projection = static_cast<Projection>(2); }, "projection");
  refused([](SessionSpec& s) { s.durability = static_cast<Durability>(2); }, "durability");
  // Without tables their other options mean nothing.
  SessionSpec none = good;
  none.lsh = {99, 0, 99, Projection::kHadamard, 0};
  EXPECT_TRUE(Travel(none).ok());
}

}  // namespace
}  // namespace sounder::wire
