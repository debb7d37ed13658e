// Runs the wire's decoders over valid seeds, all their truncations and random mutations, without
// libFuzzer: part of every test run, under every compiler and sanitizer. The corpora for libFuzzer
// are the same seeds; missing files are written by
//   fuzz_wire_replay_test --gtest_also_run_disabled_tests --gtest_filter='*WriteMissingCorpora'
#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/wire/codec.h"
#include "common/wire/control_codec.h"
#include "tests/common/wire/wire_values.h"
#include "tests/fuzz/wire/targets.h"

namespace sounder::fuzz {
namespace {

using transport::Message;

constexpr uint64_t kSeed = 101;
constexpr int kMutations = 3000;         // of every seed
constexpr int kMessageMutations = 2000;  // of every whole message

template <typename Root, typename Value>
std::string Flat(const Value& value) {
  capnp::MallocMessageBuilder builder;
  wire::Put(value, builder.initRoot<Root>());
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  return {words.asChars().begin(), words.asChars().size()};
}

// One message of each kind, with items of every sort.
std::vector<Message> Messages() {
  base::PhiloxStream random(kSeed, 0);
  wire::Tensors tensors(kSeed);
  std::vector<Message> messages;
  wire::AttendRequest attend;
  attend.envelope = wire::RandomEnvelope(random, wire::MessageKind::kAttend);
  attend.items = {wire::SmallAttend(&tensors), wire::SmallAttend(&tensors)};
  attend.items[1].signature_words = 2;
  wire::Fill(&attend.items[1], /*hints=*/true, &tensors);
  messages.push_back(wire::Encode(attend));
  wire::AttendReply reply;
  reply.envelope = wire::RandomEnvelope(random, wire::MessageKind::kAttendReply);
  reply.items = {wire::SmallReply(&tensors), wire::AttendReplyItem()};
  wire::Fill(&reply.items[0], /*error_terms=*/true, &tensors);
  reply.items[1].status = absl::NotFoundError("no such session");
  messages.push_back(wire::Encode(reply));
  wire::AppendRequest append;
  append.envelope = wire::RandomEnvelope(random, wire::MessageKind::kAppend);
  append.items = {wire::SmallAppend(&tensors), wire::SmallAppend(&tensors)};
  append.items[1].row_count = 3;
  wire::Fill(&append.items[1], /*tokens=*/true, &tensors);
  messages.push_back(wire::Encode(append));
  wire::AppendReply appended;
  appended.envelope = wire::RandomEnvelope(random, wire::MessageKind::kAppendReply);
  appended.items = {{absl::OkStatus(), 7}, {absl::InternalError("text"), 8}};
  messages.push_back(wire::Encode(appended));
  wire::FetchRequest fetch;
  fetch.envelope = wire::RandomEnvelope(random, wire::MessageKind::kFetch);
  fetch.items = {wire::SmallFetch(), wire::SmallFetch()};
  fetch.items[1].want_tokens = true;
  messages.push_back(wire::Encode(fetch));
  wire::FetchReply fetched;
  fetched.envelope = wire::RandomEnvelope(random, wire::MessageKind::kFetchReply);
  fetched.items = {wire::SmallFetchReply(&tensors), wire::FetchReplyItem()};
  wire::Fill(&fetched.items[0], /*tokens=*/true, &tensors);
  fetched.items[1].status = absl::NotFoundError("no such session");
  messages.push_back(wire::Encode(fetched));
  return messages;
}

std::vector<std::string> Seeds(std::string_view target) {
  std::vector<std::string> seeds;
  base::PhiloxStream random(kSeed, 1);
  if (target == "wire_items") {
    for (const Message& message : Messages()) seeds.push_back(ItemsInput(message));
  } else if (target == "wire_header") {
    for (const wire::MessageKind kind :
         {wire::MessageKind::kAttendReply, wire::MessageKind::kPing}) {
      wire::Envelope envelope = wire::RandomEnvelope(random, kind);
      envelope.status = absl::ResourceExhaustedError("too much");
      seeds.push_back(HeaderInput(wire::EncodeBare(envelope)));
    }
  } else {
    wire::SessionSpec spec = wire::RandomSpec(random);
    spec.model.name = "llama";
    spec.lsh = {10, 150, 2, wire::Projection::kHadamard, 1};
    spec.sketch = {};
    seeds.push_back(Flat<proto::SessionSpec>(spec));
    wire::SessionInfo info;
    info.spec = spec;
    seeds.push_back(Flat<proto::SessionInfo>(info));
    seeds.push_back(Flat<proto::NodeStatus>(wire::RandomNodeStatus(random)));
  }
  return seeds;
}

// Words and bytes replaced by telling values or noise, bits flipped, parts cut out, doubled or
// swapped. Lengths stay below twice the seed's.
std::string Mutate(std::string text, base::PhiloxStream& random) {
  constexpr uint32_t kTelling[] = {0, 1, 2, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffffc, 64};
  const uint32_t edits = 1 + random.NextBelow(4);
  for (uint32_t edit = 0; edit < edits && text.size() >= 8; ++edit) {
    const size_t at = random.NextBelow(static_cast<uint32_t>(text.size() - 7));
    const size_t length = std::min<size_t>(1 + random.NextBelow(24), text.size() - at);
    const uint32_t telling = kTelling[random.NextBelow(std::size(kTelling))];
    switch (random.NextBelow(7)) {
      case 0:
        text[at] = static_cast<char>(random.Next32());
        break;
      case 1:
        text[at] = static_cast<char>(text[at] ^ (1 << random.NextBelow(8)));
        break;
      case 2:
        text.erase(at, length);
        break;
      case 3:
        text.insert(at, text.substr(at, length));
        break;
      case 4:  // where numbers and pointers lie
        std::memcpy(text.data() + at / 4 * 4, &telling, sizeof telling);
        break;
      case 5:
        std::memcpy(text.data() + at / 8 * 8,
                    text.data() + random.NextBelow(static_cast<uint32_t>(text.size() / 8)) * 8, 8);
        break;
      default:
        text.resize(at);
    }
  }
  return text;
}

bool Feed(const WireTarget& target, const std::string& text) {
  // An exact heap copy, so that ASan sees a read past the end.
  const std::vector<char> copy(text.begin(), text.end());
  return target.run(std::as_bytes(std::span(copy)));
}

TEST(WireReplayTest, SeedsAreAccepted) {
  for (const WireTarget& target : WireTargets()) {
    for (const std::string& seed : Seeds(target.name))
      EXPECT_TRUE(Feed(target, seed)) << target.name;
  }
  for (const Message& message : Messages()) EXPECT_TRUE(RunMessage(message));
}

TEST(WireReplayTest, TruncationsAtEveryByteAndMutationsAreConsistentOrRefused) {
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  int total = 0;
  for (const WireTarget& target : WireTargets()) {
    int accepted = 0, refused = 0;
    const auto count = [&](bool ok) { ++(ok ? accepted : refused); };
    uint64_t stream = 0;
    for (const std::string& seed : Seeds(target.name)) {
      for (size_t size = 0; size < seed.size(); ++size) count(Feed(target, seed.substr(0, size)));
      base::PhiloxStream random(kSeed, ++stream);
      for (int i = 0; i < kMutations; ++i) count(Feed(target, Mutate(seed, random)));
    }
    std::printf("%.*s: %d accepted, %d refused\n", static_cast<int>(target.name.size()),
                target.name.data(), accepted, refused);
    // The mutations are worth something only if they reach both sides.
    EXPECT_GT(accepted, 200);
    EXPECT_GT(refused, 1000);
    total += accepted + refused;
  }
  EXPECT_GT(total, 20000);
}

// Whole messages, hashes and all: whatever was changed is seen.
TEST(WireReplayTest, NoDamagedMessageIsAccepted) {
  base::PhiloxStream random(kSeed, 99);
  for (const Message& message : Messages()) {
    const std::string header(reinterpret_cast<const char*>(message.header.data()),
                             message.header.size());
    const std::string payload(reinterpret_cast<const char*>(message.payload.data()),
                              message.payload.size());
    const auto run = [](const std::string& new_header, const std::string& new_payload) {
      Message damaged;
      const auto bytes = std::as_bytes(std::span(new_header));
      damaged.header.assign(bytes.begin(), bytes.end());
      damaged.payload = memory::AlignedBuffer::CopyOf(std::as_bytes(std::span(new_payload)));
      return RunMessage(damaged);
    };
    ASSERT_TRUE(run(header, payload));
    for (size_t size = 0; size < header.size(); ++size) {
      ASSERT_FALSE(run(header.substr(0, size), payload)) << size;
    }
    for (size_t size = 0; size < payload.size(); ++size) {
      ASSERT_FALSE(run(header, payload.substr(0, size))) << size;
    }
    for (int i = 0; i < kMessageMutations; ++i) {
      const std::string new_header = i % 2 == 0 ? Mutate(header, random) : header;
      const std::string new_payload = i % 2 == 1 ? Mutate(payload, random) : payload;
      if (new_header == header && new_payload == payload) continue;
      ASSERT_FALSE(run(new_header, new_payload)) << i;
    }
  }
}

// The committed corpora are accepted or refused, never worse, and all are there.
TEST(WireReplayTest, CommittedCorpora) {
  for (const WireTarget& target : WireTargets()) {
    const std::filesystem::path folder = "tests/fuzz/wire/corpus/" + std::string(target.name);
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      std::ifstream file(entry.path(), std::ios::binary);
      Feed(target, {std::istreambuf_iterator<char>(file), {}});
      ++files;
    }
    EXPECT_GE(files, static_cast<int>(Seeds(target.name).size())) << folder;
  }
}

TEST(WireReplayTest, DISABLED_WriteMissingCorpora) {
  for (const WireTarget& target : WireTargets()) {
    const std::filesystem::path folder = "tests/fuzz/wire/corpus/" + std::string(target.name);
    std::filesystem::create_directories(folder);
    int number = 0;
    for (const std::string& seed : Seeds(target.name)) {
      const auto path = folder / ("seed" + std::to_string(number++) + ".bin");
      if (!std::filesystem::exists(path)) std::ofstream(path, std::ios::binary) << seed;
    }
  }
}

}  // namespace
}  // namespace sounder::fuzz
