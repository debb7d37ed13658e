#include "kv_node/store/records.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <tuple>

#include "common/base/limits.h"
#include "tests/common/wire/wire_values.h"
#include "tests/kv_node/store/record_values.h"
#include "tests/kv_node/store/scratch_folder.h"

namespace sounder::kv_node {
namespace {

using absl::StatusCode;

uint64_t Word(std::string_view bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) {
    value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[at + i])) << (8 * i);
  }
  return value;
}

RecordKey KeyOf(const EncodedRecord& record) { return *ParseKey(record.key); }

// Whatever kind it is.
absl::Status ParseAny(const RecordKey& key, std::string_view value) {
  switch (key.kind) {
    case RecordKind::kSession:
      return ParseSession(key, value).status();
    case RecordKind::kSegment:
      return ParseSegment(key, value).status();
    case RecordKind::kTail:
      return ParseTail(key, value).status();
    case RecordKind::kTokens:
      return ParseTokens(key, value).status();
  }
  return absl::InternalError("no kind");
}

SegmentRecord MarkedSegment(std::vector<uint16_t> marks) {
  SegmentRecord record = TestSegmentRecord(31, 7, 1 << 21);
  record.marks = std::move(marks);
  return record;
}

std::vector<EncodedRecord> OneOfEach() {
  const base::SessionId id{0x0123456789abcdef, 0xfedcba9876543210};
  return {EncodeRecord(TestSession(id, 18446744073709551615u)),
          EncodeRecord(id, TestSegmentRecord(31, 7, 1 << 20)),
          EncodeRecord(id, TestTail(31, 7, 1052672, 5).record),
          EncodeRecord(id, TestTokens(2048, 100, 103, 1)),
          EncodeRecord(id, MarkedSegment({1000, 3000, 4095}))};
}

// FORMAT.md's tables, by hand.
TEST(RecordsTest, BytesLieWhereTheDocumentSays) {
  const std::vector<EncodedRecord> records = OneOfEach();
  const std::string id = "S\x01\x23\x45\x67\x89\xab\xcd\xef\xfe\xdc\xba\x98\x76\x54\x32\x10";
  EXPECT_EQ(records[0].key, id + std::string(1, 0));
  EXPECT_EQ(records[1].key, id + std::string("\1\0\x1f\0\7\0\0\0\0\0\x10\0\0", 13));
  EXPECT_EQ(records[2].key, id + std::string("\2\0\x1f\0\7\0\0\0\0\0\x10\x10\0", 13));
  EXPECT_EQ(records[3].key, id + std::string("\3\0\0\0\0\0\0\x8\0", 9));
  for (const auto& [key, value] : records) {
    EXPECT_EQ(Word(value, 0, 2), 1u);  // version
    EXPECT_EQ(
        Word(value, value.size() - 8, 8),
        XXH3_64bits_withSeed(value.data(), value.size() - 8, XXH3_64bits(key.data(), key.size())));
  }
  const std::string& segment = records[1].value;
  ASSERT_EQ(segment.size(), 78u);
  EXPECT_EQ(Word(segment, 2, 1), 2u);  // bf16
  EXPECT_EQ(Word(segment, 3, 1), 1u);  // indexed
  EXPECT_EQ(Word(segment, 4, 4), 4096u);
  EXPECT_EQ(Word(segment, 8, 4), 4000u);
  EXPECT_EQ(Word(segment, 12, 2), 128u);
  EXPECT_EQ(Word(segment, 14, 8), 0x8f8f8f8f8f8f8f8fu);  // the tag
  EXPECT_EQ(Word(segment, 30, 8), 81920u);
  EXPECT_EQ(Word(segment, 38, 8), 2u);
  EXPECT_EQ(Word(segment, 46, 8), 4096u * 77);
  EXPECT_EQ(Word(segment, 54, 8), 0x0706050403020100u);
  EXPECT_EQ(Word(segment, 62, 8), 0x0f0e0d0c0b0a0908u);
  const TestTail tail(31, 7, 1052672, 5);
  const std::string& rows = records[2].value;
  ASSERT_EQ(rows.size(), 9 + 2 * 80 + 8u);
  EXPECT_EQ(Word(rows, 2, 1), 1u);  // f16
  EXPECT_EQ(Word(rows, 3, 4), 5u);
  EXPECT_EQ(Word(rows, 7, 2), 8u);
  EXPECT_EQ(std::memcmp(rows.data() + 9, tail.keys.data(), 80), 0);
  EXPECT_EQ(std::memcmp(rows.data() + 89, tail.values.data(), 80), 0);
  const std::string& tokens = records[3].value;
  ASSERT_EQ(tokens.size(), 2 + 128 + 3 * 4 + 8u);
  EXPECT_EQ(Word(tokens, 2 + 8, 8), uint64_t{7} << 36);  // 100 .. 102
  EXPECT_EQ(Word(tokens, 130, 4), 102148u);
  EXPECT_EQ(Word(tokens, 138, 4), 102150u);
}

// Of that session, in words.
TEST(RecordsTest, TheSessionsRecordIsJsonWithEveryField) {
  const EncodedRecord record = OneOfEach()[0];
  EXPECT_EQ(
      record.value.substr(2, record.value.size() - 10),
      R"({"applied_sequence":18446744073709551615,"committed_position":12345,)"
      R"("epoch":18446744073709551615,)"
      R"("fork":{"parent":"00000000000000010000000000000002","position":777,"sequence":5},)"
      R"("holder":9223372036854775809,"in_sync":["b:7400"],)"
      R"("replicas":["10.0.0.1:7400","b:7400"],)"
      R"("spec":{"dtype":"bf16","durability":"disk","epoch":3,)"
      R"("id":"0123456789abcdeffedcba9876543210","indexed_layers":[2,3,31],"kv_head_begin":0,)"
      R"("kv_head_count":8,"lsh":{"bits_per_table":0,"min_collisions":2,"num_tables":0,)"
      R"("projection":"hadamard","seed":0},"min_indexed_rows":0,)"
      "\"model\":{\"adapter\":\"\",\"head_dim\":128,\"kv_heads\":8,\"kv_layout\":\"kv\\n\","
      "\"layers\":32,\"name\":\"llama \\\"3\\\"\",\"query_heads\":32,\"rope_digest\":\"rope\","
      "\"weights_digest\":\"sha256:\xc3\xbf\xc2\x80\"},"
      R"("protocol_version":3,"row_format":"as_appended","seal_rows":4096,)"
      R"("shards":{"head_shards":2,"id":"0123456789abcdeffedcba9876543210","nodes":4,)"
      R"("shard_rows":65536},"sketch":{"bits":128,"seed":18364758544493064720},)"
      R"("tenant":9,"ttl_seconds":0}})");
}

TEST(RecordsTest, ReadsBackWhatWasWritten) {
  constexpr uint64_t kSeed = 11;
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  base::PhiloxStream random(kSeed, 0);
  for (int i = 0; i < 200; ++i) {
    SessionRecord session;
    session.spec = wire::RandomSpec(random);
    session.epoch = random.Next64();
    session.holder = random.Next64();
    session.applied_sequence = random.Next64();
    session.committed_position = static_cast<base::Position>(random.Next64() >> 24);
    const EncodedRecord written = EncodeRecord(session);
    const auto read = ParseSession(KeyOf(written), written.value);
    ASSERT_TRUE(read.ok()) << read.status().ToString() << written.value;
    EXPECT_EQ(EncodeRecord(*read).value, written.value);
    EXPECT_EQ(wire::Describe(read->spec), wire::Describe(session.spec));
    EXPECT_EQ(std::tie(session.epoch, session.holder, session.applied_sequence),
              std::tie(read->epoch, read->holder, read->applied_sequence));
    EXPECT_EQ(session.committed_position, read->committed_position);
  }
  const SessionRecord full = *ParseSession(KeyOf(OneOfEach()[0]), OneOfEach()[0].value);
  EXPECT_EQ(full.parent, (base::SessionId{1, 2}));
  EXPECT_EQ(full.fork_position, 777);
  EXPECT_EQ(full.fork_sequence, 5u);
  EXPECT_EQ(full.replicas, (std::vector<std::string>{"10.0.0.1:7400", "b:7400"}));
  EXPECT_EQ(full.in_sync, (std::vector<std::string>{"b:7400"}));

  const SegmentRecord segment = TestSegmentRecord(3, 4, 1000, 9);
  const EncodedRecord segment_bytes = EncodeRecord(TestId(1), segment);
  EXPECT_EQ(*ParseSegment(KeyOf(segment_bytes), segment_bytes.value), segment);
  EXPECT_EQ(segment.live().bytes, SegmentLayout(segment.shape).bytes());
  const TestTail tail(1023, 1023, base::kMaxPositions, 7, 512);
  const EncodedRecord tail_bytes = EncodeRecord(TestId(1), tail.record);
  const auto rows = ParseTail(KeyOf(tail_bytes), tail_bytes.value);
  ASSERT_TRUE(rows.ok()) << rows.status().ToString();
  EXPECT_EQ(std::tie(rows->layer, rows->kv_head, rows->first_position, rows->rows, rows->dim,
                     rows->dtype),
            std::tie(tail.record.layer, tail.record.kv_head, tail.record.first_position,
                     tail.record.rows, tail.record.dim, tail.record.dtype));
  EXPECT_TRUE(SameBytes(rows->keys, tail.keys));
  EXPECT_TRUE(SameBytes(rows->values, tail.values));
  TokenRecord tokens = TestTokens(0, 0, kTokenBlock, -3);
  tokens.known.reset(63).reset(64).reset(1023);
  tokens.ids[63] = tokens.ids[64] = tokens.ids[1023] = 0;
  const EncodedRecord token_bytes = EncodeRecord(TestId(1), tokens);
  const auto ids = ParseTokens(KeyOf(token_bytes), token_bytes.value);
  ASSERT_TRUE(ids.ok()) << ids.status().ToString();
  EXPECT_EQ(ids->known, tokens.known);
  EXPECT_EQ(ids->ids, tokens.ids);
}

TEST(RecordsTest, KeysSortByTheirFields) {
  constexpr uint64_t kSeed = 12;
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  base::PhiloxStream random(kSeed, 0);
  std::vector<RecordKey> keys;
  for (int i = 0; i < 300; ++i) {
    RecordKey key{{random.NextBelow(2), 1 + (uint64_t{random.NextBelow(2)} << 40)},
                  static_cast<RecordKind>(random.NextBelow(4))};
    if (key.kind != RecordKind::kSession) {
      key.first_position = int64_t{random.NextBelow(3)} << (10 + random.NextBelow(28));
    }
    if (key.kind == RecordKind::kSegment || key.kind == RecordKind::kTail) {
      key.layer = random.NextBelow(base::kMaxLayers);
      key.kv_head = random.NextBelow(base::kMaxKvHeads);
    }
    EXPECT_EQ(*ParseKey(EncodeKey(key)), key);
    keys.push_back(key);
  }
  const auto fields = [](const RecordKey& key) {
    return std::tuple(key.session, key.kind, key.layer, key.kv_head, key.first_position);
  };
  for (const RecordKey& a : keys) {
    for (const RecordKey& b : keys) {
      ASSERT_EQ(EncodeKey(a) < EncodeKey(b), fields(a) < fields(b));
    }
  }
}

TEST(RecordsTest, KeysOfNoRecordAreRefused) {
  for (const auto& [good, value] : OneOfEach()) {
    const auto refused = [](std::string key) {
      return ParseKey(key).status().code() == StatusCode::kDataLoss;
    };
    EXPECT_TRUE(refused(good.substr(0, good.size() - 1)));
    EXPECT_TRUE(refused(good + 'a'));
    EXPECT_TRUE(refused("s" + good.substr(1)));
    EXPECT_TRUE(refused(good.substr(0, 1) + std::string(16, '\0') + good.substr(17)));
    EXPECT_TRUE(refused(good.substr(0, 17) + '\4' + good.substr(18)));
    if (good.size() > 18) {
      EXPECT_TRUE(refused(good.substr(0, 18) + '\x7f' + good.substr(19)));
    }
  }
  EXPECT_FALSE(ParseKey("").ok());
  // Token ids are in blocks.
  std::string key = OneOfEach()[3].key;
  key.back() = 1;
  EXPECT_FALSE(ParseKey(key).ok());
}

// Whichever byte is damaged, and under another key: refused.
TEST(RecordsTest, DamageAndOtherPlacesAreFound) {
  for (const EncodedRecord& record : OneOfEach()) {
    RecordKey key = KeyOf(record);
    ASSERT_TRUE(ParseAny(key, record.value).ok()) << ParseAny(key, record.value).ToString();
    for (size_t at = 0; at < record.value.size(); ++at) {
      std::string damaged = record.value;
      damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
      EXPECT_EQ(ParseAny(key, damaged).code(),
                at < 2 ? StatusCode::kFailedPrecondition : StatusCode::kDataLoss)
          << at;
    }
    for (size_t size = 0; size < record.value.size(); size += 7) {
      EXPECT_EQ(ParseAny(key, record.value.substr(0, size)).code(), StatusCode::kDataLoss) << size;
    }
    key.session.low ^= 1;
    EXPECT_EQ(ParseAny(key, record.value).ToString(),
              "DATA_LOSS: the record does not match its checksum");
  }
}

TEST(RecordsTest, AnotherVersionIsRefusedNamingBoth) {
  EncodedRecord record = OneOfEach()[1];
  record.value[0] = 2;
  EXPECT_EQ(ParseSegment(KeyOf(record), record.value).status().ToString(),
            "FAILED_PRECONDITION: a record of format version 2; this program reads version 1");
}

// With right checksums.
TEST(RecordsTest, FieldsOutOfTheirRangeAreNamed) {
  const EncodedRecord segment = OneOfEach()[1], tail = OneOfEach()[2], tokens = OneOfEach()[3];
  const auto message = [](const EncodedRecord& record, auto change) {
    std::string body = record.value.substr(2, record.value.size() - 10);
    change(body);
    return ParseAny(KeyOf(record), SealRecord(KeyOf(record), body)).ToString();
  };
  EXPECT_EQ(message(segment, [](auto& b) { b[0] = 9; }),
            "DATA_LOSS: the record of a segment: element type 9: expected 0 (f32), 1 (f16), 2 "
            "(bf16)");
  EXPECT_EQ(message(segment, [](auto& b) { b[1] = 2; }),
            "DATA_LOSS: the record of a segment has flags that this version does not know");
  EXPECT_EQ(message(segment, [](auto& b) { b[4] = 1; }),
            "DATA_LOSS: the record of a segment: rows 69632: expected [1, 65536]");
  EXPECT_EQ(message(segment, [](auto& b) { b[7] = 17; }),
            "DATA_LOSS: the record of a segment: 4512 rows used of 4096");
  EXPECT_EQ(message(segment, [](auto& b) { b[44] = 1; }),
            "DATA_LOSS: the record of a segment: no segment lies at 315393 of file 2");
  EXPECT_EQ(message(segment, [](auto& b) { b += 'a'; }),
            "DATA_LOSS: the record of a segment has 69 bytes, expected 68 and two for each mark");
  const EncodedRecord marked = EncodeRecord({1, 2}, MarkedSegment({1, 4095}));
  for (const auto& [first, second] : {std::pair(0, 1), std::pair(5, 5), std::pair(1, 4096)}) {
    EXPECT_EQ(
        message(marked,
                [&](auto& b) {
                  const auto marks = {static_cast<uint16_t>(first), static_cast<uint16_t>(second)};
                  std::copy(marks.begin(), marks.end(), reinterpret_cast<uint16_t*>(b.data() + 68));
                }),
        "DATA_LOSS: the record of a segment has marks that do not divide it");
  }
  EXPECT_EQ(message(tail, [](auto& b) { b[1] = 6; }),
            "DATA_LOSS: the record of a tail has 160 bytes of rows, expected 192");
  EXPECT_EQ(message(tail, [](auto& b) { b[5] = 9; }),
            "DATA_LOSS: the record of a tail: dim 9: expected a multiple of 8 in [8, 512]");
  EXPECT_EQ(message(tail, [](auto& b) { b.resize(3); }),
            "DATA_LOSS: the record of a tail has 3 bytes, at least 7 are expected");
  EXPECT_EQ(message(tokens, [](auto& b) { b[0] = 1; }),
            "DATA_LOSS: the record of token ids has 12 bytes of ids, expected 4 ids of 4 bytes, "
            "and one or more");
  EXPECT_EQ(message(tokens, [](auto& b) { b = std::string(128, '\0'); }),
            "DATA_LOSS: the record of token ids has 0 bytes of ids, expected 0 ids of 4 bytes, and "
            "one or more");
}

TEST(RecordsTest, SessionsThatThisVersionDoesNotWriteAreRefused) {
  const EncodedRecord record = OneOfEach()[0];
  const RecordKey key = KeyOf(record);
  const std::string good = record.value.substr(2, record.value.size() - 10);
  const auto message = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    return ParseSession(key, SealRecord(key, text)).status().ToString();
  };
  EXPECT_EQ(message("", ""), "OK");
  EXPECT_EQ(message("{", "["), "DATA_LOSS: the session's record is not JSON");
  EXPECT_EQ(message("\"holder\"", "\"Holder\""), "DATA_LOSS: the session's record has no holder");
  EXPECT_EQ(message("\"num_tables\":0,", ""),
            "DATA_LOSS: the session's record has no spec.lsh.num_tables");
  EXPECT_EQ(message("\"tenant\":9", "\"tenant\":4294967296"),
            "DATA_LOSS: the session's record: spec.tenant is number or out of its range");
  EXPECT_EQ(message("\"tenant\":9", "\"tenant\":-1"),
            "DATA_LOSS: the session's record: spec.tenant is number or out of its range");
  EXPECT_EQ(message("\"tenant\":9", "\"tenant\":\"9\""),
            "DATA_LOSS: the session's record: spec.tenant is string or out of its range");
  EXPECT_EQ(message("[2,3,31]", "[2,3,true]"),
            "DATA_LOSS: the session's record: spec.indexed_layers is array or out of its range");
  EXPECT_EQ(message("\"bf16\"", "\"f8\""),
            "DATA_LOSS: the session's record: spec.dtype is a name that this version does not know "
            "or out of its range");
  EXPECT_EQ(message("\"head_dim\":128", "\"head_dim\":129"),
            "DATA_LOSS: the session's record: head dim 129, expected a multiple of 8 up to 512");
  EXPECT_EQ(message("\"position\":777", "\"position\":-1"),
            "DATA_LOSS: the session's record: a parent without a fork's position, or the reverse");
  const std::string others =
      "DATA_LOSS: the session's record has fields that this version does "
      "not write";
  EXPECT_EQ(message("\"holder\"", "\"holdee\":1,\"holder\""), others);
  EXPECT_EQ(message("\"holder\"", "\"holder\":1,\"holder\""), others);
  EXPECT_EQ(message("\"holder\"", " \"holder\""), others);
  EXPECT_EQ(message("llama", "ll\xc4\x80ma"), others);  // a character above 255
  EXPECT_EQ(message("\"epoch\":3,\"id\":\"0", "\"epoch\":3,\"id\":\"1"),
            "DATA_LOSS: the record of session 1123456789abcdeffedcba9876543210 lies where that of "
            "0123456789abcdeffedcba9876543210 should");
  // Nothing that goes as deep as the text.
  std::string deep(500'000, '[');
  EXPECT_EQ(ParseSession(key, SealRecord(key, deep + std::string(500'000, ']'))).status().code(),
            StatusCode::kDataLoss);
  EXPECT_EQ(ParseSession(key, SealRecord(key, std::string(kMaxSessionRecordBytes + 1, ' ')))
                .status()
                .code(),
            StatusCode::kDataLoss);
}

TEST(RecordsTest, RowsAreHashedAsIfTheyWerePacked) {
  const TestTail tail(0, 0, 5, 6, 16);
  std::vector<std::byte> both = tail.keys;
  both.insert(both.end(), tail.values.begin(), tail.values.end());
  XXH128_canonical_t expected;
  XXH128_canonicalFromHash(&expected, XXH3_128bits(both.data(), both.size()));
  const size_t row = 32, stride = 40;
  std::vector<std::byte> spread(6 * stride, std::byte{0xee});
  for (size_t i = 0; i < 6; ++i) std::memcpy(&spread[i * stride], &tail.keys[i * row], row);
  const memory::RowsView keys{spread.data(), 6, stride, 16, base::DType::kF16};
  const memory::RowsView values{tail.values.data(), 6, row, 16, base::DType::kF16};
  const ContentHash hash = HashRows(keys, values);
  EXPECT_EQ(std::memcmp(&expected, hash.data(), hash.size()), 0);
}

// Records of version 1, committed once, are read for ever: of each its key and its value, with
// their sizes (4 bytes) before them.
TEST(RecordsTest, TheGoldenFileOfVersion1) {
  std::string written;
  for (const auto& [key, value] : OneOfEach()) {
    for (const std::string* part : {&key, &value}) {
      const auto size = static_cast<uint32_t>(part->size());
      written.append(reinterpret_cast<const char*>(&size), sizeof size).append(*part);
    }
  }
  std::ifstream file("tests/golden/store/records_version_1.bin", std::ios::binary);
  const std::string golden{std::istreambuf_iterator<char>(file), {}};
  if (golden != written) {  // of this version: today's writer must give the same bytes
    const std::string path = testing::TempDir() + "records_version_1.bin";
    std::ofstream(path, std::ios::binary) << written;
    ADD_FAILURE() << "differs from what is written today, which is in " << path;
  }
  std::string_view rest = golden;
  const auto take = [&] {
    if (rest.size() < 4 || rest.size() < 4 + Word(rest, 0, 4)) return std::string_view();
    const std::string_view part = rest.substr(4, Word(rest, 0, 4));
    rest.remove_prefix(4 + part.size());
    return part;
  };
  for (const EncodedRecord& expected : OneOfEach()) {
    const auto key = ParseKey(take());
    ASSERT_TRUE(key.ok()) << key.status().ToString();
    EXPECT_EQ(*key, KeyOf(expected));
    const std::string_view value = take();
    ASSERT_TRUE(ParseAny(*key, value).ok()) << ParseAny(*key, value).ToString();
  }
  EXPECT_TRUE(rest.empty());
}

}  // namespace
}  // namespace sounder::kv_node
