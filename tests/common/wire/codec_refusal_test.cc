// Every rule of the data codec, broken alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <cmath>
#include <functional>
#include <limits>

#include "common/base/absl_text.h"
#include "common/base/limits.h"
#include "common/wire/codec.h"
#include "common/wire/codec_parts.h"
#include "tests/common/wire/wire_values.h"

namespace sounder::wire {
namespace {

using testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class CodecRefusalTest : public testing::Test {
 protected:
  // An item changed by `change`; tensors are made to fit the changed fields unless `keep`.
  absl::Status Attend(const std::function<void(AttendItem&)>& change) {
    AttendRequest request;
    request.envelope.kind = MessageKind::kAttend;
    request.items.push_back(SmallAttend(&tensors_));
    request.items.push_back(SmallAttend(&tensors_));
    change(request.items[1]);
    Fill(&request.items[1], /*hints=*/false, &tensors_);
    return DecodeAttend(Encode(request)).status();
  }
  absl::Status Append(const std::function<void(AppendItem&)>& change) {
    AppendRequest request;
    request.envelope.kind = MessageKind::kAppend;
    request.items.push_back(SmallAppend(&tensors_));
    change(request.items[0]);
    Fill(&request.items[0], /*tokens=*/false, &tensors_);
    return DecodeAppend(Encode(request)).status();
  }
  absl::Status Reply(const std::function<void(AttendReplyItem&)>& change) {
    AttendReply reply;
    reply.envelope.kind = MessageKind::kAttendReply;
    reply.items.push_back(SmallReply(&tensors_));
    change(reply.items[0]);
    Fill(&reply.items[0], /*error_terms=*/false, &tensors_);
    return DecodeAttendReply(Encode(reply)).status();
  }
  transport::Message GoodAttend() {
    AttendRequest request;
    request.envelope.kind = MessageKind::kAttend;
    request.envelope.ticket = 5;
    request.items.push_back(SmallAttend(&tensors_));
    return Encode(request);
  }
  // A payload of a table and tensors that nobody checked, under a right header.
  static transport::Message Raw(MessageKind kind, capnp::MessageBuilder& table, uint32_t item_count,
                                const std::vector<std::span<const std::byte>>& tensors) {
    PayloadShape shape;
    transport::Message message;
    message.payload = BuildPayload(table, item_count, tensors, &shape);
    Envelope envelope;
    envelope.kind = kind;
    message.header = EncodeHeader(envelope, shape);
    return message;
  }
  // The message under a header that announces `change`d things and has the right hashes.
  static transport::Message WithShape(transport::Message message,
                                      const std::function<void(PayloadShape&)>& change) {
    PayloadShape shape;
    const absl::StatusOr<Envelope> envelope = DecodeHeader(message.header, &shape);
    EXPECT_TRUE(envelope.ok());
    change(shape);
    message.header = EncodeHeader(*envelope, shape);
    return message;
  }

  Tensors tensors_{1};
};

void ExpectRefusal(const absl::Status& status, absl::StatusCode code, const std::string& text) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(base::MessageOf(status), HasSubstr(text));
}
void ExpectInvalid(const absl::Status& status, const std::string& text) {
  ExpectRefusal(status, absl::StatusCode::kInvalidArgument, text);
}

TEST_F(CodecRefusalTest, TheUnchangedItemsAreAccepted) {
  EXPECT_TRUE(Attend([](AttendItem&) {}).ok());
  EXPECT_TRUE(Append([](AppendItem&) {}).ok());
  EXPECT_TRUE(Reply([](AttendReplyItem&) {}).ok());
}

TEST_F(CodecRefusalTest, FieldsOfAnAttend) {
  const auto refused = [this](auto change, const std::string& text) {
    const absl::Status status = Attend(change);
    ExpectInvalid(status, text);
    EXPECT_THAT(base::MessageOf(status), HasSubstr("item 1"));  // which one
  };
  refused([](AttendItem& item) { item.layer = base::kMaxLayers; }, "layer 1024");
  refused([](AttendItem& item) { item.kv_head_count = 0; }, "kv heads");
  refused([](AttendItem& item) { item.kv_head_count = base::kMaxKvHeads + 1; }, "kv heads");
  refused([](AttendItem& item) { item.kv_head_begin = base::kMaxKvHeads; }, "kv heads");
  refused([](AttendItem& item) { item.kv_head_begin = UINT32_MAX; }, "kv heads");
  refused([](AttendItem& item) { item.head_dim = 0; }, "head dim 0");
  refused([](AttendItem& item) { item.head_dim = 12; }, "head dim 12");
  refused([](AttendItem& item) { item.head_dim = base::kMaxHeadDim + 8; }, "head dim 520");
  refused([](AttendItem& item) { item.group = 0; }, "group of 0");
  refused([](AttendItem& item) { item.group = base::kMaxGroup + 1; }, "group of 33");
  refused([](AttendItem& item) { item.query_count = 0; }, "block of 0");
  refused([](AttendItem& item) { item.query_count = base::kMaxQueryBlock + 1; }, "block of 4097");
  refused([](AttendItem& item) { item.query_dtype = static_cast<base::DType>(3); }, "dtype 3");
  refused([](AttendItem& item) { item.attention = static_cast<AttentionKind>(3); }, "attention");
  refused([](AttendItem& item) { item.row_format = static_cast<RowFormat>(2); }, "row format 2");
  refused([](AttendItem& item) { item.range = {-1, 5}; }, "[-1, 5)");
  refused([](AttendItem& item) { item.range = {6, 5}; }, "[6, 5)");
  refused([](AttendItem& item) { item.range = {0, base::kMaxPositions + 1}; }, "position range");
  refused([](AttendItem& item) { item.range = {INT64_MIN, INT64_MAX}; }, "position range");
  refused([](AttendItem& item) { item.layout_position = -1; }, "layout position");
  refused([](AttendItem& item) { item.layout_position = base::kMaxPositions + 1; }, "layout");
  refused([](AttendItem& item) { item.causal_from = -2; }, "causal bound");
  refused([](AttendItem& item) { item.causal_from = base::kMaxPositions + 1; }, "causal bound");
  for (const float scale : {kNan, kInfinity, -kInfinity, 1e7f, -1e7f}) {
    refused([scale](AttendItem& item) { item.scale = scale; }, "scale");
  }
  for (const float budget : {kNan, kInfinity, -0.1f, 1.1f}) {
    refused([budget](AttendItem& item) { item.rows_budget = budget; }, "budget");
  }
  refused(
      [](AttendItem& item) {
        item.signature_words = base::kMaxTables * base::kMaxBitsPerTable / 64 + 1;
      },
      "signatures of 257 words");
}

TEST_F(CodecRefusalTest, HintsOfAnAttend) {
  std::vector<float> lse(1);
  std::vector<HeadHint> heads(1);
  const auto attend = [&](float hint, HeadHint head) {
    lse[0] = hint;
    heads[0] = head;
    AttendRequest request;
    request.envelope.kind = MessageKind::kAttend;
    request.items.assign(2, SmallAttend(&tensors_));
    request.items[1].lse_hints = lse;
    request.items[1].head_hints = heads;
    return DecodeAttend(Encode(request)).status();
  };
  for (const float hint : {0.0f, -1e30f, 1e30f}) EXPECT_TRUE(attend(hint, {0, 1}).ok()) << hint;
  EXPECT_TRUE(attend(0, {1, 0}).ok());
  for (const float hint : {kNan, kInfinity, -kInfinity}) {
    ExpectInvalid(attend(hint, {}), "item 1: an lse hint is");
  }
  for (const float wrong : {kNan, kInfinity, -kInfinity, -1e-6f, 1.001f}) {
    ExpectInvalid(attend(0, {wrong, 0}), "item 1: a head hint is mean size");
    ExpectInvalid(attend(0, {0, wrong}), "item 1: a head hint is mean size");
  }
}

TEST_F(CodecRefusalTest, MassesOfAReply) {
  const auto reply = [&](std::vector<float> masses) {
    AttendReply answer;
    answer.envelope.kind = MessageKind::kAttendReply;
    answer.items.push_back(SmallReply(&tensors_));
    answer.items[0].head_mass = masses;
    return DecodeAttendReply(Encode(answer)).status();
  };
  EXPECT_TRUE(reply({0, 3}).ok());
  for (const float wrong : {kNan, kInfinity, -1.0f}) {
    ExpectInvalid(reply({0, wrong}), "mass of a head");
  }
  ExpectInvalid(reply(std::vector<float>(base::kMaxKvHeads + 1)), "out of bounds");
}

TEST_F(CodecRefusalTest, FieldsOfAnAppend) {
  const auto refused = [this](auto change, const std::string& text) {
    ExpectInvalid(Append(change), text);
  };
  refused([](AppendItem& item) { item.layer = base::kMaxLayers; }, "layer 1024");
  refused([](AppendItem& item) { item.kv_head_count = 0; }, "kv heads");
  refused([](AppendItem& item) { item.kv_head_begin = base::kMaxKvHeads; }, "kv heads");
  refused([](AppendItem& item) { item.head_dim = 4; }, "head dim 4");
  refused([](AppendItem& item) { item.dtype = static_cast<base::DType>(9); }, "dtype 9");
  refused([](AppendItem& item) { item.first_position = -1; }, "at position -1, expected");
  // The last row would lie behind the last position.
  refused([](AppendItem& item) { item.first_position = base::kMaxPositions; }, "positions of 0 to");
  refused([](AppendItem& item) { item.first_position = INT64_MAX; }, "positions of 0 to");
}

TEST_F(CodecRefusalTest, FieldsOfAReply) {
  const auto refused = [this](auto change, const std::string& text) {
    ExpectInvalid(Reply(change), text);
  };
  refused([](AttendReplyItem& item) { item.query_count = base::kMaxQueryBlock + 1; },
          "out of bounds");
  refused([](AttendReplyItem& item) { item.query_heads = 32769; }, "out of bounds");
  refused([](AttendReplyItem& item) { item.head_dim = base::kMaxHeadDim + 1; }, "out of bounds");
  refused([](AttendReplyItem& item) { item.covered = {-1, 0}; }, "position range");
  refused([](AttendReplyItem& item) { item.covered = {5, 4}; }, "position range");
  refused([](AttendReplyItem& item) { item.covered = {0, base::kMaxPositions + 1}; }, "range");
}

TEST_F(CodecRefusalTest, FieldsOfAFetch) {
  const auto fetch = [](auto change) {
    FetchRequest request;
    request.envelope.kind = MessageKind::kFetch;
    request.items = {SmallFetch(), SmallFetch()};
    change(request.items[1]);
    return DecodeFetch(Encode(request)).status();
  };
  EXPECT_TRUE(fetch([](FetchItem&) {}).ok());
  EXPECT_TRUE(fetch([](FetchItem& item) {
                item.kv_head_count = 0;
                item.want_tokens = true;
              }).ok());
  const auto refused = [&](auto change, const std::string& text) {
    ExpectInvalid(fetch(change), text);
  };
  refused([](FetchItem& item) { item.layer = base::kMaxLayers; }, "item 1: layer 1024");
  refused([](FetchItem& item) { item.kv_head_count = 0; }, "neither rows nor token ids");
  refused([](FetchItem& item) { item.kv_head_count = base::kMaxKvHeads + 1; }, "kv heads");
  refused([](FetchItem& item) { item.kv_head_begin = UINT32_MAX; }, "kv heads");
  refused([](FetchItem& item) { item.head_dim = 12; }, "head dim 12");
  refused([](FetchItem& item) { item.dtype = static_cast<base::DType>(3); }, "dtype 3");
  refused([](FetchItem& item) { item.range = {-1, 5}; }, "[-1, 5)");
  refused([](FetchItem& item) { item.range = {6, 5}; }, "[6, 5)");
  refused([](FetchItem& item) { item.range = {0, base::kMaxPositions + 1}; }, "range");
  // The largest numbers there are, and a sum of items that fit alone.
  refused(
      [](FetchItem& item) {
        item.range = {0, base::kMaxPositions};
        item.kv_head_count = base::kMaxKvHeads;
        item.head_dim = base::kMaxHeadDim;
      },
      "the answer would take");
  refused([](FetchItem& item) { item.range = {0, (4 << 20) - 1000}; }, "the answer would take");
  EXPECT_TRUE(fetch([](FetchItem& item) { item.range = {0, 3 << 20}; }).ok());
  FetchRequest many;
  many.envelope.kind = MessageKind::kFetch;
  many.items.assign(2, SmallFetch());
  for (FetchItem& item : many.items) item.range = {0, 3 << 20};
  ExpectInvalid(DecodeFetch(Encode(many)).status(), "the answer would take");
}

TEST_F(CodecRefusalTest, FieldsOfAFetchReply) {
  const auto reply = [this](auto change) {
    FetchReply message;
    message.envelope.kind = MessageKind::kFetchReply;
    message.items.push_back(SmallFetchReply(&tensors_));
    change(message.items[0]);
    Fill(&message.items[0], /*tokens=*/true, &tensors_);
    return DecodeFetchReply(Encode(message)).status();
  };
  EXPECT_TRUE(reply([](FetchReplyItem&) {}).ok());
  ExpectInvalid(reply([](FetchReplyItem& item) { item.kv_head_count = base::kMaxKvHeads + 1; }),
                "out of bounds");
  ExpectInvalid(reply([](FetchReplyItem& item) { item.head_dim = base::kMaxHeadDim + 1; }),
                "out of bounds");
  ExpectInvalid(reply([](FetchReplyItem& item) { item.dtype = static_cast<base::DType>(3); }),
                "dtype 3");
  capnp::MallocMessageBuilder table;
  auto item = table.initRoot<proto::FetchReplyItems>().initItems(1)[0];
  item.setKvHeadCount(1);
  item.setHeadDim(8);
  item.setRowCount(1);
  const auto bytes = tensors_.Bytes(32);
  const auto raw = [&](const std::vector<std::span<const std::byte>>& tensors) {
    return DecodeFetchReply(Raw(MessageKind::kFetchReply, table, 1, tensors)).status();
  };
  EXPECT_TRUE(raw({bytes, bytes}).ok());
  ExpectInvalid(raw({bytes}), "too short");
  ExpectInvalid(raw({bytes, bytes, bytes}), "left over");
  item.setHasTokens(true);
  ExpectInvalid(raw({bytes, bytes}), "too short");
  item.setRowCount(UINT32_MAX);
  item.setKvHeadCount(base::kMaxKvHeads);
  item.setHeadDim(base::kMaxHeadDim);
  ExpectInvalid(raw({bytes, bytes}), "too short");
}

TEST_F(CodecRefusalTest, ARequestWhoseAnswerIsTooLarge) {
  // bf16 queries of 160 MiB are fine as such; their f32 outputs take 320 MiB.
  const auto large = [](AttendItem& item) {
    item.query_dtype = base::DType::kBF16;
    item.head_dim = 512;
    item.kv_head_count = 40;
    item.query_count = 4096;
  };
  ExpectInvalid(Attend(large), "the answer would take");
}

TEST_F(CodecRefusalTest, Counts) {
  AttendRequest many;
  many.envelope.kind = MessageKind::kAttend;
  many.items.assign(base::kMaxItems + 1, SmallAttend(&tensors_));
  ExpectInvalid(DecodeAttend(Encode(many)).status(), "4097 items");
  for (const uint32_t count : {0u, 2u, UINT32_MAX}) {
    const auto message = WithShape(GoodAttend(), [&](PayloadShape& s) { s.item_count = count; });
    EXPECT_EQ(DecodeAttend(CopyOf(message)).status().code(), absl::StatusCode::kInvalidArgument);
  }
  const auto twice = WithShape(GoodAttend(), [](PayloadShape& s) { s.item_count = 2; });
  ExpectInvalid(DecodeAttend(CopyOf(twice)).status(),
                "the item table has 1 items, the header announces 2");
}

TEST_F(CodecRefusalTest, Sizes) {
  const transport::Message good = GoodAttend();
  const auto shaped = [&](auto change) {
    return DecodeAttend(WithShape(CopyOf(good), change)).status();
  };
  ExpectInvalid(shaped([](PayloadShape& s) { s.payload_bytes += 64; }), "the header announces");
  ExpectInvalid(shaped([](PayloadShape& s) { s.payload_bytes -= 64; }), "the header announces");
  ExpectInvalid(shaped([](PayloadShape& s) { s.item_table_bytes = 1 << 20; }), "item table");
  ExpectInvalid(shaped([](PayloadShape& s) { s.item_table_bytes += 4; }), "item table");
  ExpectInvalid(shaped([](PayloadShape& s) { s.item_table_bytes = 0; }), "malformed item table");
  ExpectInvalid(shaped([](PayloadShape& s) { s.item_table_bytes = 8; }), "malformed item table");
  // DecodeEnvelope judges the size as well.
  auto longer = WithShape(CopyOf(good), [](PayloadShape& s) { s.payload_bytes += 64; });
  ExpectInvalid(DecodeEnvelope(longer).status(), "the header announces");
}

TEST_F(CodecRefusalTest, PayloadsThatAreShortOrLongForTheirItems) {
  const transport::Message good = GoodAttend();
  const auto resized = [&](size_t bytes) {
    transport::Message message;
    message.payload = memory::AlignedBuffer::Zeroed(bytes);
    if (bytes > 0) {
      std::memcpy(message.payload.data(), good.payload.data(),
                  std::min(bytes, good.payload.size()));
    }
    PayloadShape shape;
    const auto envelope = DecodeHeader(good.header, &shape);
    shape.payload_bytes = static_cast<uint32_t>(bytes);
    shape.checksum = XXH3_64bits(message.payload.data(), bytes);
    message.header = EncodeHeader(*envelope, shape);
    return DecodeAttend(std::move(message)).status();
  };
  EXPECT_TRUE(resized(good.payload.size()).ok());
  ExpectInvalid(resized(good.payload.size() - 64), "too short");
  ExpectInvalid(resized(good.payload.size() + 64), "left over");
  ExpectInvalid(resized(good.payload.size() - 8), "multiple of 64");
  ExpectInvalid(resized(good.payload.size() + 8), "multiple of 64");
  ExpectInvalid(resized(0), "item table");
}

TEST_F(CodecRefusalTest, TensorsThatAreAnnouncedButMissing) {
  const auto attend = [this](auto change) {
    capnp::MallocMessageBuilder table;
    auto item = table.initRoot<proto::AttendItems>().initItems(1)[0];
    item.setKvHeadCount(1);
    item.setGroup(1);
    item.setQueryCount(1);
    item.setHeadDim(8);
    change(item);
    return DecodeAttend(Raw(MessageKind::kAttend, table, 1, {tensors_.Bytes(32)})).status();
  };
  EXPECT_TRUE(attend([](proto::AttendItem::Builder) {}).ok());
  ExpectInvalid(attend([](proto::AttendItem::Builder i) { i.setSignatureWords(1); }), "too short");
  ExpectInvalid(attend([](proto::AttendItem::Builder i) { i.setHasLseHints(true); }), "too short");
  ExpectInvalid(attend([](proto::AttendItem::Builder i) { i.setHasHeadHints(true); }), "too short");
  ExpectInvalid(attend([](proto::AttendItem::Builder i) { i.setQueryCount(3); }), "too short");
  // A tensor may end in the padding of the one before it: that is still too short.
  ExpectInvalid(attend([](proto::AttendItem::Builder i) { i.setQueryCount(4096); }), "too short");

  capnp::MallocMessageBuilder table;
  auto append = table.initRoot<proto::AppendItems>().initItems(1)[0];
  append.setKvHeadCount(1);
  append.setHeadDim(8);
  append.setRowCount(1);
  const auto bytes = tensors_.Bytes(32);
  EXPECT_TRUE(DecodeAppend(Raw(MessageKind::kAppend, table, 1, {bytes, bytes})).ok());
  ExpectInvalid(DecodeAppend(Raw(MessageKind::kAppend, table, 1, {bytes})).status(), "too short");
  append.setHasTokens(true);
  ExpectInvalid(DecodeAppend(Raw(MessageKind::kAppend, table, 1, {bytes, bytes})).status(),
                "too short");
  append.setRowCount(UINT32_MAX);
  append.setKvHeadCount(1024);
  append.setHeadDim(512);
  ExpectInvalid(DecodeAppend(Raw(MessageKind::kAppend, table, 1, {bytes})).status(), "too short");
}

TEST_F(CodecRefusalTest, Kinds) {
  const transport::Message good = GoodAttend();
  ExpectInvalid(DecodeAppend(CopyOf(good)).status(), "kind 1, expected 3");
  ExpectInvalid(DecodeAttendReply(CopyOf(good)).status(), "kind 1, expected 2");
  ExpectInvalid(DecodeAppendReply(CopyOf(good)).status(), "kind 1, expected 4");
  Envelope envelope;
  envelope.kind = MessageKind::kPing;
  ExpectInvalid(DecodeAttend(EncodeBare(envelope)).status(), "kind 5, expected 1");
  for (const int kind : {0, 9, 65535}) {
    envelope.kind = static_cast<MessageKind>(kind);
    ExpectInvalid(DecodeEnvelope(EncodeBare(envelope)).status(), "unknown message kind");
  }
  // An answer without payload must still be the right kind of answer.
  envelope.kind = MessageKind::kAppendReply;
  envelope.status = absl::InternalError("x");
  ExpectInvalid(DecodeAttendReply(EncodeBare(envelope)).status(), "kind 4, expected 2");
}

TEST_F(CodecRefusalTest, AnotherVersionIsNamedWithOurs) {
  capnp::MallocMessageBuilder builder;
  auto header = builder.initRoot<proto::DataHeader>();
  header.setVersion(kProtocolVersion + 6);
  header.setKind(proto::Kind::PING);
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  transport::Message message;
  const auto bytes = words.asBytes();
  message.header.resize(bytes.size() + 8);  // sealed in no way that we know
  std::memcpy(message.header.data(), bytes.begin(), bytes.size());
  for (const absl::Status& status :
       {DecodeEnvelope(message).status(), DecodeAttend(CopyOf(message)).status(),
        DecodeAppendReply(CopyOf(message)).status()}) {
    ExpectRefusal(status, absl::StatusCode::kFailedPrecondition, "speaks version 9");
    EXPECT_THAT(base::MessageOf(status), HasSubstr("this side speaks version 3"));
  }
}

TEST_F(CodecRefusalTest, EveryDamagedBitOfThePayloadIsDataLoss) {
  const transport::Message good = GoodAttend();
  for (size_t bit = 0; bit < good.payload.size() * 8; ++bit) {
    transport::Message damaged = CopyOf(good);
    damaged.payload.data()[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    ASSERT_EQ(DecodeAttend(std::move(damaged)).status().code(), absl::StatusCode::kDataLoss) << bit;
  }
}

TEST_F(CodecRefusalTest, EveryDamagedBitOfTheHeaderIsSeen) {
  const transport::Message good = GoodAttend();
  int data_loss = 0;
  for (size_t bit = 0; bit < good.header.size() * 8; ++bit) {
    transport::Message damaged = CopyOf(good);
    damaged.header[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    const absl::StatusCode code = DecodeEnvelope(damaged).status().code();
    ASSERT_NE(code, absl::StatusCode::kOk) << bit;
    data_loss += code == absl::StatusCode::kDataLoss ? 1 : 0;
  }
  EXPECT_GT(data_loss, 300);  // tickets, sizes, hashes; the rest hits the version or the pointers
}

TEST_F(CodecRefusalTest, HeadersOfOddSizes) {
  transport::Message message = GoodAttend();
  for (const size_t size : {0u, 1u, 7u, 8u, 9u, 1032u, 8192u}) {
    message.header.assign(size, std::byte{0});
    ExpectInvalid(DecodeEnvelope(message).status(), "malformed header");
  }
  message.header.assign(1024, std::byte{0xff});
  EXPECT_FALSE(DecodeEnvelope(message).ok());
}

TEST_F(CodecRefusalTest, LongStatusMessagesOfItemsAreCut) {
  capnp::MallocMessageBuilder table;
  auto item = table.initRoot<proto::AppendReplyItems>().initItems(1)[0];
  item.setStatusCode(13);
  item.setStatusMessage(std::string(100000, 'x').c_str());
  const auto reply = DecodeAppendReply(Raw(MessageKind::kAppendReply, table, 1, {}));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(base::MessageOf(reply->items[0].status).size(), kMaxStatusMessage);
}

}  // namespace
}  // namespace sounder::wire
