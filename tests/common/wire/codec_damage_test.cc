// Whole messages of every kind, cut at every byte and damaged at random: nothing is accepted, by
// any decoder. (tests/fuzz makes the hashes fit what was damaged.)
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "common/wire/codec.h"
#include "tests/common/wire/wire_values.h"

namespace sounder::wire {
namespace {

constexpr uint64_t kSeed = 101;
constexpr int kDamages = 4000;  // of every message

// One message of each kind, with items of every sort.
std::vector<transport::Message> Messages() {
  base::PhiloxStream random(kSeed, 0);
  Tensors tensors(kSeed);
  std::vector<transport::Message> messages;
  AttendRequest attend;
  attend.envelope = RandomEnvelope(random, MessageKind::kAttend);
  attend.items = {SmallAttend(&tensors), SmallAttend(&tensors)};
  attend.items[1].signature_words = 2;
  Fill(&attend.items[1], /*hints=*/true, &tensors);
  messages.push_back(Encode(attend));
  AttendReply reply;
  reply.envelope = RandomEnvelope(random, MessageKind::kAttendReply);
  reply.items = {SmallReply(&tensors), AttendReplyItem()};
  Fill(&reply.items[0], /*error_terms=*/true, &tensors);
  reply.items[1].status = absl::NotFoundError("no such session");
  messages.push_back(Encode(reply));
  AppendRequest append;
  append.envelope = RandomEnvelope(random, MessageKind::kAppend);
  append.items = {SmallAppend(&tensors)};
  append.items[0].row_count = 3;
  Fill(&append.items[0], /*tokens=*/true, &tensors);
  messages.push_back(Encode(append));
  AppendReply appended;
  appended.envelope = RandomEnvelope(random, MessageKind::kAppendReply);
  appended.items = {{absl::OkStatus(), 7}, {absl::InternalError("text"), 8}};
  messages.push_back(Encode(appended));
  FetchRequest fetch;
  fetch.envelope = RandomEnvelope(random, MessageKind::kFetch);
  fetch.items = {SmallFetch(), SmallFetch()};
  fetch.items[1].want_tokens = true;
  messages.push_back(Encode(fetch));
  FetchReply fetched;
  fetched.envelope = RandomEnvelope(random, MessageKind::kFetchReply);
  fetched.items = {SmallFetchReply(&tensors), FetchReplyItem()};
  Fill(&fetched.items[0], /*tokens=*/true, &tensors);
  fetched.items[1].status = absl::NotFoundError("no such session");
  messages.push_back(Encode(fetched));
  return messages;
}

std::string TextOf(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// By a decoder of messages with items.
bool Accepted(const std::string& header, const std::string& payload) {
  transport::Message message;
  const auto bytes = std::as_bytes(std::span(header));
  message.header.assign(bytes.begin(), bytes.end());
  message.payload = memory::AlignedBuffer::CopyOf(std::as_bytes(std::span(payload)));
  return DecodeAttend(CopyOf(message)).ok() || DecodeAttendReply(CopyOf(message)).ok() ||
         DecodeAppend(CopyOf(message)).ok() || DecodeAppendReply(CopyOf(message)).ok() ||
         DecodeFetch(CopyOf(message)).ok() || DecodeFetchReply(CopyOf(message)).ok();
}

// Bytes replaced, cut out or doubled.
std::string Damaged(std::string text, base::PhiloxStream& random) {
  const size_t at = random.NextBelow(static_cast<uint32_t>(text.size()));
  const size_t length = 1 + random.NextBelow(24);
  switch (random.NextBelow(3)) {
    case 0:
      text[at] = static_cast<char>(random.Next32());
      return text;
    case 1:
      return text.erase(at, length);
    default:
      return text.insert(at, text.substr(at, length));
  }
}

TEST(CodecDamageTest, NoCutMessageIsAccepted) {
  for (const transport::Message& message : Messages()) {
    const std::string header = TextOf(message.header), payload = TextOf(message.payload.bytes());
    ASSERT_TRUE(Accepted(header, payload));
    for (size_t size = 0; size < header.size(); ++size) {
      ASSERT_FALSE(Accepted(header.substr(0, size), payload)) << size;
    }
    for (size_t size = 0; size < payload.size(); ++size) {
      ASSERT_FALSE(Accepted(header, payload.substr(0, size))) << size;
    }
  }
}

TEST(CodecDamageTest, NoDamagedMessageIsAccepted) {
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  base::PhiloxStream random(kSeed, 99);
  for (const transport::Message& message : Messages()) {
    const std::string header = TextOf(message.header), payload = TextOf(message.payload.bytes());
    for (int i = 0; i < kDamages; ++i) {
      const std::string new_header = i % 2 == 0 ? Damaged(header, random) : header;
      const std::string new_payload = i % 2 == 1 ? Damaged(payload, random) : payload;
      if (new_header == header && new_payload == payload) continue;
      ASSERT_FALSE(Accepted(new_header, new_payload)) << i;
    }
  }
}

}  // namespace
}  // namespace sounder::wire
