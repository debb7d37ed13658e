// Writes the files of the corpora that nobody could write by hand: messages of the wire. To be run
// again, and its files committed, when the protocol's version changes (the replay tests fail then):
//   build/release/tests/fuzz_corpus_generator tests/fuzz/corpus
#include <capnp/message.h>
#include <capnp/serialize.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/base/philox.h"
#include "common/wire/codec.h"
#include "common/wire/codec_parts.h"
#include "common/wire/control_codec.h"
#include "tests/common/wire/wire_values.h"
#include "tests/fuzz/wire_checks.h"

namespace sounder::fuzz {
namespace {

constexpr uint64_t kSeed = 101;

void Write(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  CHECK(file.flush().good()) << path;
}

std::string TextOf(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The input of wire_items that says what `message` says.
std::string ItemsInput(const transport::Message& message) {
  wire::PayloadShape shape;
  const auto envelope = wire::DecodeHeader(message.header, &shape);
  CHECK(envelope.ok()) << envelope.status().ToString();
  const auto* const kind =
      std::find(std::begin(kKindsWithItems), std::end(kKindsWithItems), envelope->kind);
  const uint32_t head[] = {static_cast<uint32_t>(kind - kKindsWithItems), shape.item_count,
                           shape.item_table_bytes};
  return TextOf(std::as_bytes(std::span(head))) + TextOf(message.payload.bytes());
}

// One message of each kind, with items of every sort.
void WriteItems(const std::filesystem::path& folder) {
  base::PhiloxStream random(kSeed, 0);
  wire::Tensors tensors(kSeed);
  wire::AttendRequest attend;
  attend.envelope = wire::RandomEnvelope(random, wire::MessageKind::kAttend);
  attend.items = {wire::SmallAttend(&tensors), wire::SmallAttend(&tensors)};
  attend.items[1].signature_words = 2;
  wire::Fill(&attend.items[1], /*hints=*/true, &tensors);
  Write(folder / "accepted_attend", ItemsInput(wire::Encode(attend)));
  wire::AttendReply reply;
  reply.envelope = wire::RandomEnvelope(random, wire::MessageKind::kAttendReply);
  reply.items = {wire::SmallReply(&tensors), wire::AttendReplyItem()};
  wire::Fill(&reply.items[0], /*error_terms=*/true, &tensors);
  reply.items[1].status = absl::NotFoundError("no such session");
  Write(folder / "accepted_attend_reply", ItemsInput(wire::Encode(reply)));
  wire::AppendRequest append;
  append.envelope = wire::RandomEnvelope(random, wire::MessageKind::kAppend);
  append.items = {wire::SmallAppend(&tensors), wire::SmallAppend(&tensors)};
  append.items[1].row_count = 3;
  wire::Fill(&append.items[1], /*tokens=*/true, &tensors);
  Write(folder / "accepted_append", ItemsInput(wire::Encode(append)));
  wire::AppendReply appended;
  appended.envelope = wire::RandomEnvelope(random, wire::MessageKind::kAppendReply);
  appended.items = {{absl::OkStatus(), 7}, {absl::InternalError("text"), 8}};
  Write(folder / "accepted_append_reply", ItemsInput(wire::Encode(appended)));
  wire::FetchRequest fetch;
  fetch.envelope = wire::RandomEnvelope(random, wire::MessageKind::kFetch);
  fetch.items = {wire::SmallFetch(), wire::SmallFetch()};
  fetch.items[1].want_tokens = true;
  Write(folder / "accepted_fetch", ItemsInput(wire::Encode(fetch)));
  fetch.items[1].range.end = int64_t{1} << 30;
  Write(folder / "refused_fetch_answer_too_long", ItemsInput(wire::Encode(fetch)));
  wire::FetchReply fetched;
  fetched.envelope = wire::RandomEnvelope(random, wire::MessageKind::kFetchReply);
  fetched.items = {wire::SmallFetchReply(&tensors), wire::FetchReplyItem()};
  wire::Fill(&fetched.items[0], /*tokens=*/true, &tensors);
  fetched.items[1].status = absl::NotFoundError("no such session");
  Write(folder / "accepted_fetch_reply", ItemsInput(wire::Encode(fetched)));
}

void WriteHeaders(const std::filesystem::path& folder) {
  base::PhiloxStream random(kSeed, 1);
  const auto write = [&](const std::string& name, wire::MessageKind kind, uint16_t code) {
    wire::Envelope envelope = wire::RandomEnvelope(random, kind);
    envelope.status = wire::FromWire(code, "too much");
    const std::string header = TextOf(wire::EncodeBare(envelope).header);
    Write(folder / name, header.substr(0, header.size() - sizeof(uint64_t)));  // without its seal
  };
  write("accepted_attend_reply", wire::MessageKind::kAttendReply, 8);
  write("accepted_ping", wire::MessageKind::kPing, 0);
  write("accepted_fetch_reply", wire::MessageKind::kFetchReply, 5);
}

// As wire_values_fuzz.cc reads them: kind, ticket, 32 bytes of elements, then items whose zeros
// mean the least that is allowed.
void WriteValues(const std::filesystem::path& folder) {
  constexpr size_t kItem = 41;   // where the first item begins
  constexpr size_t kHeads = 75;  // its number of kv heads, in attend, append and fetch
  constexpr size_t kFirst = 42;  // its first number, in attend_reply and fetch_reply
  const char* const kNames[] = {"attend",       "attend_reply", "append",
                                "append_reply", "fetch",        "fetch_reply"};
  for (size_t kind = 0; kind < std::size(kNames); ++kind) {
    std::string input(kItem + 80, '\0');
    input[0] = static_cast<char>(kind);
    Write(folder / ("accepted_" + std::string(kNames[kind])), input);
    if (kind == 3) continue;  // no item of which is refused
    input.replace(kind % 2 == 1 ? kFirst : kHeads, 9, 9, '\xff');
    Write(folder / ("refused_" + std::string(kNames[kind])), input);
  }
}

// As node_fuzz.cc reads them: a session with sketches, tables or no index, rows in both layers, a
// question about them.
void WriteNode(const std::filesystem::path& folder) {
  const auto text = [](std::initializer_list<int> bytes) {
    return std::string(bytes.begin(), bytes.end());
  };
  const std::string time = text({5, 0, 1});
  const std::string close = text({6, 0, 0, 1, 0});
  for (const int index : {0, 1, 2}) {  // LSH tables, sketches, none
    std::string input = text({0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, index});
    input += index == 1 ? text({0, 1}) : text({0});  // sketches of 64 bits and int8; as appended
    for (const int layer : {0, 1}) {
      input += text({1, 0, 0, 0, layer, 0, 1, 0, 40, 1, 3, 1, 0, 0}) + time;
    }
    for (const int layer : {0, 1}) {
      input += text({3, 0, 0, 0, layer, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1});
      input +=
          text({9, 8, 7, 6, 5, 4, 3, 2, 4, 0, 1, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 3, 0, 0, 0});
    }
    Write(folder / ("accepted_index_" + std::to_string(index)), input + time + close);
  }
  // The session without an index, then a fork of its first 20 rows, a truncate of the session to
  // 30, another writer, and questions about the rows of both: attends, rows and token ids read
  // back.
  std::string input = text({0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 2, 0});
  for (const int layer : {0, 1}) {
    input += text({1, 0, 0, 0, layer, 0, 1, 0, 40, 1, 3, 1, 0, 0}) + time;
  }
  input += text({8, 0, 0, 0, 20, 0, 0, 1, 0});  // fork
  input += text({8, 0, 0, 0, 30, 1, 0});        // truncate
  input += text({8, 0, 0, 0, 0, 2, 0, 0}) + time;
  for (const int session : {0, 1}) {
    input += text({9, session, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0});
    input += text({3, session, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1});
    input +=
        text({9, 8, 7, 6, 5, 4, 3, 2, 4, 0, 1, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 3, 0, 0, 0});
  }
  Write(folder / "accepted_branches", input + time + close);
  // Asked about 41 rows, of which 11 are then others: asked again, it must not be answered.
  std::string again = text({0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 2, 0});
  const auto append = [&](int layer, int elements) {
    return text({1, 0, 0, 0, layer, 0, 1, 0, 40, 1, elements, 1, 0, 0}) + time;
  };
  again += append(0, 3) + append(1, 3) + text({9, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0}) + time;
  again += text({8, 0, 0, 0, 30, 1, 0}) + append(0, 9) + append(1, 9) + text({10, 0}) + time;
  Write(folder / "refused_asked_after_truncate", again + close);
  Write(folder / "refused_no_session", close + time);
}

template <typename Root, typename Value>
std::string Flat(const Value& value) {
  capnp::MallocMessageBuilder builder;
  wire::Put(value, builder.initRoot<Root>());
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  return {words.asChars().begin(), words.asChars().size()};
}

void WriteControl(const std::filesystem::path& folder) {
  base::PhiloxStream random(kSeed, 2);
  wire::SessionSpec spec = wire::RandomSpec(random);
  spec.model.name = "llama";
  spec.lsh = {10, 150, 2, wire::Projection::kHadamard, 1};
  spec.sketch = {};
  Write(folder / "accepted_session_spec", Flat<proto::SessionSpec>(spec));
  spec.model.name = std::string("a\0b", 3);
  Write(folder / "accepted_session_spec_nul", Flat<proto::SessionSpec>(spec));
  wire::SessionInfo info;
  info.spec = spec;
  info.spec.lsh = {};
  info.spec.sketch = {128, 1};
  info.head_ends = {7, 5};
  info.parent = {3, 4};
  info.fork_position = 2;
  Write(folder / "accepted_session_info", Flat<proto::SessionInfo>(info));
  Write(folder / "accepted_node_status", Flat<proto::NodeStatus>(wire::RandomNodeStatus(random)));
  // Eight million connections of no bytes each (tests/common/wire/control_codec_test.cc).
  const uint64_t millions[] = {uint64_t{8} << 32,     uint64_t{6} << 48,       0, 0, 0, 0, 0,
                               uint64_t{7} << 32 | 1, uint64_t{8'000'000} << 2};
  Write(folder / "refused_node_status_millions", TextOf(std::as_bytes(std::span(millions))));
}

}  // namespace
}  // namespace sounder::fuzz

int main(int argc, char** argv) {
  CHECK(argc == 2) << "usage: fuzz_corpus_generator FOLDER";
  const std::filesystem::path corpus = argv[1];
  sounder::fuzz::WriteItems(corpus / "wire_items");
  sounder::fuzz::WriteValues(corpus / "wire_values");
  sounder::fuzz::WriteNode(corpus / "node");
  sounder::fuzz::WriteHeaders(corpus / "wire_header");
  sounder::fuzz::WriteControl(corpus / "wire_control");
}
