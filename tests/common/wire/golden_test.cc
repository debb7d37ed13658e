// The formats of this protocol version as they were first released: one committed file per kind of
// message. A file is never changed; fields that came later have files of their own, and files of
// earlier versions a folder. Missing files are written by
//   common_wire_golden_test --gtest_also_run_disabled_tests --gtest_filter='*WriteMissingFiles'
#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "common/wire/codec.h"
#include "common/wire/control_codec.h"
#include "tests/common/wire/wire_values.h"

namespace sounder::wire {
namespace {

using testing::HasSubstr;

constexpr uint64_t kSeed = 2024;

std::string PathOf(const std::string& name) { return "tests/golden/wire/" + name + ".bin"; }

// A u32 (little-endian) of the header's size, the header, the payload.
std::string Pack(const transport::Message& message) {
  const auto size = static_cast<uint32_t>(message.header.size());
  std::string file(sizeof size + size + message.payload.size(), '\0');
  std::memcpy(file.data(), &size, sizeof size);
  std::memcpy(file.data() + sizeof size, message.header.data(), size);
  if (!message.payload.empty()) {
    std::memcpy(file.data() + sizeof size + size, message.payload.data(), message.payload.size());
  }
  return file;
}

transport::Message Unpack(const std::string& file) {
  uint32_t size = 0;
  transport::Message message;
  if (file.size() < sizeof size) return message;
  std::memcpy(&size, file.data(), sizeof size);
  const auto bytes = std::as_bytes(std::span(file)).subspan(sizeof size);
  message.header.assign(bytes.begin(), bytes.begin() + size);
  message.payload = memory::AlignedBuffer::CopyOf(bytes.subspan(size));
  return message;
}

template <typename Root, typename Value>
std::string PackControl(const Value& value) {
  capnp::MallocMessageBuilder builder;
  Put(value, builder.initRoot<Root>());
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  const auto chars = words.asChars();
  return {chars.begin(), chars.size()};
}

// What a file of this name says: its bytes today, and its decoded fields.
struct Golden {
  std::string name;
  std::string bytes;
  std::string fields;
};

template <typename Message>
Golden OfMessage(const std::string& name, const Message& message) {
  return {name, Pack(Encode(message)), Describe(message)};
}

Golden OfEnvelope(const std::string& name, const Envelope& envelope) {
  return {name, Pack(EncodeBare(envelope)), Describe(envelope)};
}

std::vector<Golden> All() {
  Tensors tensors(kSeed);  // every message draws from a stream of its own
  std::vector<Golden> all;

  AttendRequest attend;
  attend.envelope = {MessageKind::kAttend, 3, 41, 5, 250000, absl::OkStatus(), {}, 0};
  AttendItem item;
  item.session = {{0x1111222233334444, 0x5555666677778888}, 6};
  item.sequence = 17;
  item.step = 99;
  item.layer = 31;
  item.kv_head_begin = 2;
  item.kv_head_count = 2;
  item.group = 4;
  item.query_count = 1;
  item.head_dim = 16;
  item.query_dtype = base::DType::kBF16;
  item.range = {4, 100000};
  item.layout_position = 98304;
  item.causal_from = 99999;
  item.scale = 0.25f;
  item.attention = AttentionKind::kLshTables;
  item.sample_key = 0xabcdef0123456789;
  item.rows_budget = 0.02f;
  item.rows_cap = 4096;
  item.signature_words = 3;
  item.want_error_terms = true;
  Fill(&item, /*hints=*/true, &tensors);
  item.head_hints = {};
  attend.items.push_back(item);
  attend.items.push_back(SmallAttend(&tensors));
  all.push_back(OfMessage("attend", attend));
  attend.items[0].attention = AttentionKind::kSketch;
  attend.items[0].row_format = RowFormat::kInt8;
  attend.items[0].head_hints = tensors.HeadHints(2);
  all.push_back(OfMessage("attend_sketch", attend));

  tensors = Tensors(kSeed + 1);
  AttendReply reply;
  reply.envelope = {MessageKind::kAttendReply, 3, 41, 5, 0, absl::OkStatus(), {1, 2, 3, 4}, 0};
  AttendReplyItem answer;
  answer.query_count = 1;
  answer.query_heads = 8;
  answer.head_dim = 16;
  answer.covered = {4, 100000};
  answer.rows_visible = 799968;
  answer.rows_read = 16000;
  answer.rows_loaded = 4000;
  answer.rows_exact = 1700;
  Fill(&answer, /*error_terms=*/true, &tensors);
  answer.head_mass = {};
  reply.items.push_back(answer);
  reply.items.emplace_back().status = absl::FailedPreconditionError("not all rows are here");
  all.push_back(OfMessage("attend_reply", reply));
  reply.items[0].head_mass = tensors.Masses(2);
  all.push_back(OfMessage("attend_reply_sketch", reply));

  tensors = Tensors(kSeed + 2);
  AppendRequest append;
  append.envelope = {MessageKind::kAppend, 3, 42, 0, 1000000, absl::OkStatus(), {}, 0};
  AppendItem rows;
  rows.session = item.session;
  rows.sequence = 18;
  rows.layer = 31;
  rows.kv_head_begin = 2;
  rows.kv_head_count = 2;
  rows.first_position = 100000;
  rows.row_count = 3;
  rows.head_dim = 16;
  rows.dtype = base::DType::kF16;
  rows.seal_after = true;
  Fill(&rows, /*tokens=*/true, &tensors);
  append.items.push_back(rows);
  append.items.push_back(SmallAppend(&tensors));
  all.push_back(OfMessage("append", append));

  AppendReply appended;
  appended.envelope = {MessageKind::kAppendReply, 3, 42, 0, 0, absl::OkStatus(), {}, 0};
  appended.items.push_back({absl::OkStatus(), 18});
  appended.items.push_back({absl::ResourceExhaustedError("no memory"), 0});
  all.push_back(OfMessage("append_reply", appended));

  tensors = Tensors(kSeed + 3);
  FetchRequest fetch;
  fetch.envelope = {MessageKind::kFetch, 3, 44, 5, 250000, absl::OkStatus(), {}, 0};
  fetch.items.push_back(
      {item.session, 17, 31, 2, 2, {100000, 100003}, 16, base::DType::kF16, true});
  fetch.items.push_back(SmallFetch());
  all.push_back(OfMessage("fetch", fetch));
  FetchReply fetched;
  fetched.envelope = {MessageKind::kFetchReply, 3, 44, 5, 0, absl::OkStatus(), {}, 0};
  FetchReplyItem& held = fetched.items.emplace_back();
  held.kv_head_count = 2;
  held.row_count = 3;
  held.head_dim = 16;
  held.dtype = base::DType::kF16;
  Fill(&held, /*tokens=*/true, &tensors);
  fetched.items.emplace_back().status = absl::FailedPreconditionError("not all rows are here");
  all.push_back(OfMessage("fetch_reply", fetched));

  all.push_back(OfEnvelope("ping", {MessageKind::kPing, 0, 7, 0, 100, absl::OkStatus(), {}, 0}));
  all.push_back(OfEnvelope("pong", {MessageKind::kPong, 0, 7, 0, 100, absl::OkStatus(), {}, 0}));
  all.push_back(OfEnvelope("refusal", {MessageKind::kAttendReply,
                                       3,
                                       43,
                                       5,
                                       0,
                                       absl::ResourceExhaustedError("too many requests"),
                                       {5, 6, 7, 8},
                                       1500}));

  SessionSpec spec;
  spec.session = item.session;
  spec.tenant = 3;
  spec.model = {"llama", "weights-digest", 32, 8, 32, 128, "rope-digest", "adapter"};
  spec.dtype = base::DType::kF16;
  spec.seal_rows = 4096;
  spec.min_indexed_rows = 2048;
  spec.lsh = {10, 150, 2, Projection::kGaussian, 12345};
  spec.indexed_layers = {1, 2, 31};
  spec.kv_head_begin = 2;
  spec.kv_head_count = 4;
  spec.ttl_seconds = 600;
  spec.durability = Durability::kDisk;
  spec.placement = {{7, 8}, 65536, 2, 3};
  all.push_back({"session_spec", PackControl<proto::SessionSpec>(spec), Describe(spec)});
  SessionSpec sketch = spec;
  sketch.lsh = {};
  sketch.sketch = {128, 54321};
  sketch.row_format = RowFormat::kInt8;
  sketch.model.kv_layout = "llama: k after rope, v";
  all.push_back({"session_spec_sketch", PackControl<proto::SessionSpec>(sketch), Describe(sketch)});
  const SessionInfo info{spec,    18, 4,  100003, 12, 2, 4096, 512, 3, {100003, 100004},
                         {9, 10}, 77, 78, 79};
  all.push_back({"session_info", PackControl<proto::SessionInfo>(info), Describe(info)});
  const NodeStatus status{"0.1.0", 1,
                          "a:1",   "a:2",
                          "a:3",   4,
                          5,       6,
                          7,       8,
                          9,       "AVX2",
                          10,      {{"peer:1", "tcp", "lanes\nand more"}, {"peer:2", "posix", ""}},
                          true};
  all.push_back({"node_status", PackControl<proto::NodeStatus>(status), Describe(status)});
  return all;
}

template <typename Value>
std::string FieldsOf(const absl::StatusOr<Value>& value) {
  return value.ok() ? Describe(*value) : value.status().ToString();
}

// Decodes a file by what its name promises.
std::string Decode(const std::string& name, const std::string& file) {
  if (name.starts_with("attend_reply")) return FieldsOf(DecodeAttendReply(Unpack(file)));
  if (name.starts_with("attend")) return FieldsOf(DecodeAttend(Unpack(file)));
  if (name == "fetch") return FieldsOf(DecodeFetch(Unpack(file)));
  if (name == "fetch_reply") return FieldsOf(DecodeFetchReply(Unpack(file)));
  if (name == "append") return FieldsOf(DecodeAppend(Unpack(file)));
  if (name == "append_reply") return FieldsOf(DecodeAppendReply(Unpack(file)));
  if (name == "refusal") return FieldsOf(DecodeAttendReply(Unpack(file)));
  if (name == "ping" || name == "pong") return FieldsOf(DecodeEnvelope(Unpack(file)));
  std::vector<capnp::word> words(file.size() / sizeof(capnp::word));
  std::memcpy(static_cast<void*>(words.data()), file.data(), words.size() * sizeof(capnp::word));
  capnp::FlatArrayMessageReader reader(kj::arrayPtr(words.data(), words.size()));
  if (name.starts_with("session_spec")) {
    return FieldsOf(Get(reader.getRoot<proto::SessionSpec>()));
  }
  if (name == "session_info") return FieldsOf(Get(reader.getRoot<proto::SessionInfo>()));
  return Describe(Get(reader.getRoot<proto::NodeStatus>()).value());
}

std::string FileText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(GoldenTest, OldFilesStillMeanTheSame) {
  for (const Golden& golden : All()) {
    const std::string file = FileText(PathOf(golden.name));
    ASSERT_FALSE(file.empty()) << PathOf(golden.name);
    EXPECT_EQ(Decode(golden.name, file), golden.fields) << golden.name;
  }
}

// Version 1 had error terms of two numbers; version 2 had no tenant in calls.
TEST(GoldenTest, FilesOfEarlierVersionsAreRefusedByName) {
  const std::vector<std::string> kNames[] = {
      {"attend", "attend_int8", "attend_reply", "append", "append_reply", "ping", "pong", "refusal",
       "session_spec", "session_spec_int8", "session_info"},
      {"attend", "attend_sketch", "attend_reply", "attend_reply_sketch", "append", "append_reply",
       "ping", "pong", "refusal", "session_spec", "session_spec_sketch", "session_info"}};
  for (int version = 1; version <= 2; ++version) {
    for (const std::string& name : kNames[version - 1]) {
      const std::string path = "version_" + std::to_string(version) + "/" + name;
      const std::string file = FileText(PathOf(path));
      ASSERT_FALSE(file.empty()) << path;
      const std::string refusal = Decode(name, file);
      EXPECT_THAT(refusal, HasSubstr("FAILED_PRECONDITION")) << path;
      EXPECT_THAT(refusal, HasSubstr("speaks version " + std::to_string(version))) << path;
      EXPECT_THAT(refusal, HasSubstr("speaks version 3")) << path;
    }
  }
}

// Today's encoder and decoder agree on the same values.
TEST(GoldenTest, NewBytesMeanTheSame) {
  for (const Golden& golden : All()) {
    EXPECT_EQ(Decode(golden.name, golden.bytes), golden.fields) << golden.name;
  }
}

TEST(GoldenTest, DISABLED_WriteMissingFiles) {
  for (const Golden& golden : All()) {
    if (!FileText(PathOf(golden.name)).empty()) continue;
    std::ofstream(PathOf(golden.name), std::ios::binary) << golden.bytes;
  }
}

}  // namespace
}  // namespace sounder::wire
