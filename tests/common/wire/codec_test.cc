// What Encode writes, Decode reads: every field, over odd shapes.
#include "common/wire/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>

#include "common/base/absl_text.h"
#include "common/base/limits.h"
#include "tests/common/wire/wire_values.h"

namespace sounder::wire {
namespace {

constexpr uint64_t kSeed = 41;
constexpr int kRounds = 400;

template <typename T>
void ExpectInside(const memory::AlignedBuffer& payload, std::span<const T> tensor) {
  if (tensor.empty()) return;
  const std::span<const std::byte> bytes = std::as_bytes(tensor);
  EXPECT_GE(bytes.data(), payload.data());
  EXPECT_LE(bytes.data() + bytes.size(), payload.data() + payload.size());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % memory::kAlignment, 0u);
}

TEST(CodecTest, AttendRoundTrips) {
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  base::PhiloxStream random(kSeed, 0);
  for (int round = 0; round < kRounds; ++round) {
    Tensors tensors(static_cast<uint64_t>(round));
    const AttendRequest request = RandomAttend(random, &tensors);
    const auto decoded = DecodeAttend(Encode(request));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    ASSERT_EQ(Describe(*decoded), Describe(request)) << round;
    for (const AttendItem& item : decoded->items) {
      ExpectInside(decoded->payload, item.queries);
      ExpectInside(decoded->payload, item.signatures);
      ExpectInside(decoded->payload, item.lse_hints);
      ExpectInside(decoded->payload, item.head_hints);
    }
  }
}

TEST(CodecTest, AttendReplyRoundTrips) {
  base::PhiloxStream random(kSeed, 1);
  for (int round = 0; round < kRounds; ++round) {
    Tensors tensors(static_cast<uint64_t>(round));
    const AttendReply reply = RandomAttendReply(random, &tensors);
    const auto decoded = DecodeAttendReply(Encode(reply));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    ASSERT_EQ(Describe(*decoded), Describe(reply)) << round;
    for (const AttendReplyItem& item : decoded->items) {
      ExpectInside(decoded->payload, item.outputs);
      ExpectInside(decoded->payload, item.lse);
      ExpectInside(decoded->payload, item.error_terms);
      ExpectInside(decoded->payload, item.head_mass);
    }
  }
}

TEST(CodecTest, AppendRoundTrips) {
  base::PhiloxStream random(kSeed, 2);
  for (int round = 0; round < kRounds; ++round) {
    Tensors tensors(static_cast<uint64_t>(round));
    const AppendRequest request = RandomAppend(random, &tensors);
    const auto decoded = DecodeAppend(Encode(request));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    ASSERT_EQ(Describe(*decoded), Describe(request)) << round;
    for (const AppendItem& item : decoded->items) {
      ExpectInside(decoded->payload, item.keys);
      ExpectInside(decoded->payload, item.values);
      ExpectInside(decoded->payload, item.tokens);
      EXPECT_EQ(item.range().size(), item.row_count);
    }
  }
}

TEST(CodecTest, AppendReplyRoundTrips) {
  base::PhiloxStream random(kSeed, 3);
  for (int round = 0; round < kRounds; ++round) {
    const AppendReply reply = RandomAppendReply(random);
    const auto decoded = DecodeAppendReply(Encode(reply));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    ASSERT_EQ(Describe(*decoded), Describe(reply)) << round;
  }
}

TEST(CodecTest, FetchRoundTrips) {
  base::PhiloxStream random(kSeed, 5);
  for (int round = 0; round < kRounds; ++round) {
    const FetchRequest request = RandomFetch(random);
    const auto decoded = DecodeFetch(Encode(request));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    ASSERT_EQ(Describe(*decoded), Describe(request)) << round;
  }
}

TEST(CodecTest, FetchReplyRoundTrips) {
  base::PhiloxStream random(kSeed, 6);
  for (int round = 0; round < kRounds; ++round) {
    Tensors tensors(static_cast<uint64_t>(round));
    const FetchReply reply = RandomFetchReply(random, &tensors);
    const auto decoded = DecodeFetchReply(Encode(reply));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    ASSERT_EQ(Describe(*decoded), Describe(reply)) << round;
    for (const FetchReplyItem& item : decoded->items) {
      ExpectInside(decoded->payload, item.keys);
      ExpectInside(decoded->payload, item.values);
      ExpectInside(decoded->payload, item.tokens);
    }
  }
}

TEST(CodecTest, EnvelopesOfEveryKindRoundTrip) {
  base::PhiloxStream random(kSeed, 4);
  for (int round = 0; round < kRounds; ++round) {
    for (const MessageKind kind :
         {MessageKind::kAttend, MessageKind::kAttendReply, MessageKind::kAppend,
          MessageKind::kAppendReply, MessageKind::kPing, MessageKind::kPong, MessageKind::kFetch,
          MessageKind::kFetchReply}) {
      const Envelope envelope = RandomEnvelope(random, kind);
      const transport::Message message = EncodeBare(envelope);
      EXPECT_TRUE(message.payload.empty());
      EXPECT_EQ(WireBytes(message), message.header.size());
      const auto decoded = DecodeEnvelope(message);
      ASSERT_TRUE(decoded.ok()) << decoded.status();
      ASSERT_EQ(Describe(*decoded), Describe(envelope));
    }
    Tensors tensors(1);
    const AttendRequest request = RandomAttend(random, &tensors);
    EXPECT_EQ(Describe(*DecodeEnvelope(Encode(request))), Describe(request.envelope));
  }
}

TEST(CodecTest, AnAnswerThatFailedAsAWholeNeedsNoPayload) {
  Envelope envelope;
  envelope.kind = MessageKind::kAttendReply;
  envelope.ticket = 9;
  envelope.status = absl::ResourceExhaustedError("full");
  const auto attend = DecodeAttendReply(EncodeBare(envelope));
  ASSERT_TRUE(attend.ok()) << attend.status();
  EXPECT_EQ(attend->envelope.status, envelope.status);
  EXPECT_TRUE(attend->items.empty());
  envelope.kind = MessageKind::kAppendReply;
  const auto append = DecodeAppendReply(EncodeBare(envelope));
  ASSERT_TRUE(append.ok()) << append.status();
  EXPECT_EQ(append->envelope.status, envelope.status);
  // Not so for an answer that says it succeeded.
  envelope.status = absl::OkStatus();
  EXPECT_FALSE(DecodeAppendReply(EncodeBare(envelope)).ok());
  envelope.kind = MessageKind::kAttendReply;
  EXPECT_FALSE(DecodeAttendReply(EncodeBare(envelope)).ok());
}

TEST(CodecTest, LongStatusesAreCutAndTheHeaderStaysSmall) {
  base::PhiloxStream random(kSeed, 5);
  for (const size_t length : {0u, 1u, 511u, 512u, 513u, 5000u}) {
    Envelope envelope = RandomEnvelope(random, MessageKind::kAttendReply);
    envelope.status = absl::InternalError(std::string(length, 'x'));
    const transport::Message message = EncodeBare(envelope);
    EXPECT_LE(message.header.size(), base::kMaxHeaderBytes);
    EXPECT_EQ(base::MessageOf(DecodeEnvelope(message)->status),
              std::string(std::min<size_t>(length, 512), 'x'));
    AppendReply reply;
    reply.envelope.kind = MessageKind::kAppendReply;
    reply.items.push_back({envelope.status, 1});
    EXPECT_EQ(base::MessageOf(DecodeAppendReply(Encode(reply))->items[0].status).size(),
              std::min<size_t>(length, 512));
  }
}

TEST(CodecTest, EveryStatusCodeTravelsAndUnknownOnesBecomeUnknown) {
  for (int code = 1; code <= 40; ++code) {
    Envelope envelope;
    envelope.kind = MessageKind::kPong;
    envelope.status = absl::Status(static_cast<absl::StatusCode>(code), "text");
    const auto decoded = DecodeEnvelope(EncodeBare(envelope));
    ASSERT_TRUE(decoded.ok());
    EXPECT_EQ(static_cast<int>(decoded->status.code()), code <= 16 ? code : 2) << code;
    EXPECT_EQ(base::MessageOf(decoded->status), "text");
  }
}

TEST(CodecTest, TheLargestShapesAreCarried) {
  Tensors tensors(1);
  AttendRequest request;
  request.envelope.kind = MessageKind::kAttend;
  AttendItem wide = SmallAttend(&tensors);
  wide.head_dim = base::kMaxHeadDim;
  wide.group = base::kMaxGroup;
  wide.kv_head_count = 64;
  wide.layer = base::kMaxLayers - 1;
  wide.range = {0, base::kMaxPositions};
  wide.layout_position = base::kMaxPositions;
  wide.causal_from = base::kMaxPositions;
  wide.rows_budget = 1;
  wide.signature_words = base::kMaxTables * base::kMaxBitsPerTable / 64;
  Fill(&wide, /*hints=*/true, &tensors);
  AttendItem last_head = SmallAttend(&tensors);
  last_head.kv_head_begin = base::kMaxKvHeads - 1;
  AttendItem block = SmallAttend(&tensors);
  block.query_count = base::kMaxQueryBlock;
  Fill(&block, /*hints=*/true, &tensors);
  request.items = {wide, last_head, block};
  const auto decoded = DecodeAttend(Encode(request));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(Describe(*decoded), Describe(request));

  AttendRequest many;
  many.envelope.kind = MessageKind::kAttend;
  many.items.assign(base::kMaxItems, SmallAttend(&tensors));
  EXPECT_EQ(DecodeAttend(Encode(many))->items.size(), base::kMaxItems);

  AppendRequest append;
  append.envelope.kind = MessageKind::kAppend;
  append.items.push_back(SmallAppend(&tensors));
  append.items[0].first_position = base::kMaxPositions - 1;  // and one row
  EXPECT_TRUE(DecodeAppend(Encode(append)).ok());
}

TEST(CodecDeathTest, SpansOfAnotherSizeThanAnnouncedAreABug) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  Tensors tensors(1);
  AttendRequest request;
  request.items.push_back(SmallAttend(&tensors));
  request.items[0].head_dim = 16;
  EXPECT_DEATH(Encode(request), "CHECK failed");
  request.items[0] = SmallAttend(&tensors);
  request.items[0].signature_words = 1;
  EXPECT_DEATH(Encode(request), "CHECK failed");
  AppendRequest append;
  append.items.push_back(SmallAppend(&tensors));
  append.items[0].row_count = 2;
  EXPECT_DEATH(Encode(append), "CHECK failed");
  AttendReply reply;
  reply.items.push_back(SmallReply(&tensors));
  reply.items[0].query_heads = 2;
  EXPECT_DEATH(Encode(reply), "CHECK failed");
}

}  // namespace
}  // namespace sounder::wire
