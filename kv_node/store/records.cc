#include "kv_node/store/records.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {
namespace {

static_assert(std::endian::native == std::endian::little, "values are written as they lie");

constexpr char kKeyPrefix = 'S';
constexpr size_t kVersionBytes = sizeof kRecordsVersion;
constexpr size_t kChecksumBytes = sizeof(uint64_t);
constexpr uint8_t kIndexedFlag = 1;
constexpr size_t kSegmentBytes = 68, kTailHeadBytes = 7;
constexpr size_t kMaskWords = kTokenBlock / 64;

// Little-endian fields, one behind the other.
template <typename T>
void Put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename T>
T Take(std::string_view& bytes) {
  CHECK(bytes.size() >= sizeof(T));
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  bytes.remove_prefix(sizeof value);
  return value;
}

// Big-endian, so that keys sort as numbers do.
template <typename T>
void PutBig(std::string& bytes, T value) {
  for (size_t i = sizeof value; i > 0; --i) {
    bytes += static_cast<char>(static_cast<uint64_t>(value) >> (8 * (i - 1)));
  }
}

template <typename T>
T TakeBig(std::string_view& bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  bytes.remove_prefix(sizeof(T));
  return static_cast<T>(value);
}

template <typename... Parts>
absl::Status Damaged(const Parts&... parts) {
  return absl::DataLossError(absl::StrCat("the record ", parts...));
}

std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

uint64_t ChecksumOf(const RecordKey& key, std::string_view bytes) {
  const std::string name = EncodeKey(key);
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), XXH3_64bits(name.data(), name.size()));
}

bool HasPlace(RecordKind kind) { return kind == RecordKind::kSegment || kind == RecordKind::kTail; }

bool InRange(const RecordKey& key) {
  if (key.kind > RecordKind::kTokens || key.session.empty()) return false;
  if (key.layer >= base::kMaxLayers || key.kv_head >= base::kMaxKvHeads) return false;
  if (!HasPlace(key.kind) && (key.layer != 0 || key.kv_head != 0)) return false;
  if (key.kind == RecordKind::kSession && key.first_position != 0) return false;
  if (key.kind == RecordKind::kTokens && key.first_position % kTokenBlock != 0) return false;
  return key.first_position >= 0 && key.first_position <= base::kMaxPositions;
}

// Rows, dim and type of a tail, as StoredShape knows them.
absl::Status CheckTail(const TailRecord& record) {
  return CheckShape({.first_position = record.first_position,
                     .num_rows = record.rows,
                     .dim = record.dim,
                     .dtype = record.dtype});
}

}  // namespace

ContentHash HashRows(const memory::RowsView& keys, const memory::RowsView& values) {
  XXH3_state_t* const state = XXH3_createState();
  CHECK(state != nullptr && XXH3_128bits_reset(state) == XXH_OK);
  for (const memory::RowsView* rows : {&keys, &values}) {
    const size_t bytes = static_cast<size_t>(rows->dim) * base::SizeOf(rows->dtype);
    for (int64_t row = 0; row < rows->rows; ++row) {
      CHECK(XXH3_128bits_update(state, rows->Row(row), bytes) == XXH_OK);
    }
  }
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
  XXH3_freeState(state);
  ContentHash hash;
  static_assert(sizeof canonical == sizeof hash);
  std::memcpy(hash.data(), &canonical, sizeof hash);
  return hash;
}

std::string EncodeKey(const RecordKey& key) {
  CHECK(InRange(key)) << key.session.ToString() << " " << static_cast<int>(key.kind) << " "
                      << key.layer << " " << key.kv_head << " " << key.first_position;
  std::string bytes(1, kKeyPrefix);
  PutBig(bytes, key.session.high);
  PutBig(bytes, key.session.low);
  PutBig(bytes, static_cast<uint8_t>(key.kind));
  if (HasPlace(key.kind)) {
    PutBig(bytes, static_cast<uint16_t>(key.layer));
    PutBig(bytes, static_cast<uint16_t>(key.kv_head));
  }
  if (key.kind != RecordKind::kSession) PutBig(bytes, key.first_position);
  return bytes;
}

absl::StatusOr<RecordKey> ParseKey(std::string_view bytes) {
  const auto refuse = [] { return absl::DataLossError("a key that no record has"); };
  constexpr size_t kLeast = 1 + 2 * sizeof(uint64_t) + 1;
  if (bytes.size() < kLeast || bytes[0] != kKeyPrefix) return refuse();
  bytes.remove_prefix(1);
  RecordKey key;
  key.session.high = TakeBig<uint64_t>(bytes);
  key.session.low = TakeBig<uint64_t>(bytes);
  key.kind = static_cast<RecordKind>(TakeBig<uint8_t>(bytes));
  const size_t rest = key.kind == RecordKind::kSession ? 0 : HasPlace(key.kind) ? 12 : 8;
  if (key.kind > RecordKind::kTokens || bytes.size() != rest) return refuse();
  if (HasPlace(key.kind)) {
    key.layer = TakeBig<uint16_t>(bytes);
    key.kv_head = TakeBig<uint16_t>(bytes);
  }
  if (rest > 0) key.first_position = TakeBig<int64_t>(bytes);
  if (!InRange(key)) return refuse();
  return key;
}

std::string SealRecord(const RecordKey& key, std::string_view body) {
  std::string value;
  value.reserve(kVersionBytes + body.size() + kChecksumBytes);
  Put(value, kRecordsVersion);
  value.append(body);
  Put(value, ChecksumOf(key, value));
  return value;
}

absl::StatusOr<std::string_view> OpenRecord(const RecordKey& key, std::string_view value) {
  if (value.size() < kVersionBytes + kChecksumBytes) {
    return Damaged("has ", value.size(), " bytes, at least 10 are expected");
  }
  std::string_view end = value.substr(value.size() - kChecksumBytes);
  std::string_view body = value.substr(0, value.size() - kChecksumBytes);
  // First of all: another version may have another checksum.
  std::string_view front = body;
  if (const auto version = Take<uint16_t>(front); version != kRecordsVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a record of format version ", version, "; this program reads version ", kRecordsVersion));
  }
  if (Take<uint64_t>(end) != ChecksumOf(key, body)) return Damaged("does not match its checksum");
  return front;
}

namespace {

bool MarksFit(const SegmentRecord& record) {
  int64_t last = 0;
  for (const uint16_t mark : record.marks) {
    if (mark <= last) return false;
    last = mark;
  }
  return last < record.shape.num_rows;
}

}  // namespace

EncodedRecord EncodeRecord(const base::SessionId& session, const SegmentRecord& record) {
  const StoredShape& shape = record.shape;
  CHECK(CheckShape(shape).ok()) << CheckShape(shape).ToString();
  CHECK(record.rows_used >= 1 && record.rows_used <= shape.num_rows) << record.rows_used;
  const RecordKey key{session, RecordKind::kSegment, record.layer, record.kv_head,
                      shape.first_position};
  std::string body;
  Put(body, static_cast<uint8_t>(shape.dtype));
  Put(body, record.indexed ? kIndexedFlag : uint8_t{0});
  Put(body, static_cast<uint32_t>(shape.num_rows));
  Put(body, static_cast<uint32_t>(record.rows_used));
  Put(body, static_cast<uint16_t>(shape.dim));
  body.append(AsText(shape.tag));
  Put(body, shape.index_bytes);
  Put(body, record.place.file);
  Put(body, record.place.offset);
  body.append(AsText(record.content_hash));
  CHECK(body.size() == kSegmentBytes) << body.size();
  CHECK(MarksFit(record));
  for (const uint16_t mark : record.marks) Put(body, mark);
  return {EncodeKey(key), SealRecord(key, body)};
}

absl::StatusOr<SegmentRecord> ParseSegment(const RecordKey& key, std::string_view value) {
  CHECK(key.kind == RecordKind::kSegment);
  ASSIGN_OR_RETURN(std::string_view body, OpenRecord(key, value));
  if (body.size() < kSegmentBytes || (body.size() - kSegmentBytes) % sizeof(uint16_t) != 0) {
    return Damaged("of a segment has ", body.size(), " bytes, expected ", kSegmentBytes,
                   " and two for each mark");
  }
  SegmentRecord record;
  record.layer = key.layer;
  record.kv_head = key.kv_head;
  record.shape.first_position = key.first_position;
  record.shape.dtype = static_cast<base::DType>(Take<uint8_t>(body));
  const auto flags = Take<uint8_t>(body);
  record.indexed = (flags & kIndexedFlag) != 0;
  record.shape.num_rows = Take<uint32_t>(body);
  record.rows_used = Take<uint32_t>(body);
  record.shape.dim = Take<uint16_t>(body);
  record.shape.tag = Take<SegmentTag>(body);
  record.shape.index_bytes = Take<uint64_t>(body);
  record.place.file = Take<uint64_t>(body);
  record.place.offset = Take<uint64_t>(body);
  record.content_hash = Take<ContentHash>(body);
  while (!body.empty()) record.marks.push_back(Take<uint16_t>(body));
  if (const absl::Status status = CheckShape(record.shape); !status.ok()) {
    return Damaged("of a segment: ", status.message());
  }
  if (record.rows_used < 1 || record.rows_used > record.shape.num_rows) {
    return Damaged("of a segment: ", record.rows_used, " rows used of ", record.shape.num_rows);
  }
  if (!MarksFit(record)) return Damaged("of a segment has marks that do not divide it");
  if ((flags & ~kIndexedFlag) != 0) {
    return Damaged("of a segment has flags that this version does not know");
  }
  if (record.place.file == 0 || record.place.offset % kPageBytes != 0) {
    return Damaged("of a segment: no segment lies at ", record.place.offset, " of file ",
                   record.place.file);
  }
  return record;
}

EncodedRecord EncodeRecord(const base::SessionId& session, const TailRecord& record) {
  CHECK(CheckTail(record).ok()) << CheckTail(record).ToString();
  CHECK(record.keys.size() == record.half_bytes()) << record.keys.size();
  CHECK(record.values.size() == record.half_bytes()) << record.values.size();
  const RecordKey key{session, RecordKind::kTail, record.layer, record.kv_head,
                      record.first_position};
  std::string body;
  body.reserve(kTailHeadBytes + 2 * record.half_bytes());
  Put(body, static_cast<uint8_t>(record.dtype));
  Put(body, static_cast<uint32_t>(record.rows));
  Put(body, static_cast<uint16_t>(record.dim));
  CHECK(body.size() == kTailHeadBytes) << body.size();
  body.append(AsText(record.keys)).append(AsText(record.values));
  return {EncodeKey(key), SealRecord(key, body)};
}

absl::StatusOr<TailRecord> ParseTail(const RecordKey& key, std::string_view value) {
  CHECK(key.kind == RecordKind::kTail);
  ASSIGN_OR_RETURN(std::string_view body, OpenRecord(key, value));
  if (body.size() < kTailHeadBytes) {
    return Damaged("of a tail has ", body.size(), " bytes, at least ", kTailHeadBytes,
                   " are expected");
  }
  TailRecord record;
  record.layer = key.layer;
  record.kv_head = key.kv_head;
  record.first_position = key.first_position;
  record.dtype = static_cast<base::DType>(Take<uint8_t>(body));
  record.rows = Take<uint32_t>(body);
  record.dim = Take<uint16_t>(body);
  if (const absl::Status status = CheckTail(record); !status.ok()) {
    return Damaged("of a tail: ", status.message());
  }
  if (body.size() != 2 * record.half_bytes()) {
    return Damaged("of a tail has ", body.size(), " bytes of rows, expected ",
                   2 * record.half_bytes());
  }
  const auto rows = std::as_bytes(std::span(body));
  record.keys = rows.first(record.half_bytes());
  record.values = rows.subspan(record.half_bytes());
  return record;
}

EncodedRecord EncodeRecord(const base::SessionId& session, const TokenRecord& record) {
  CHECK(record.known.any());
  const RecordKey key{session, RecordKind::kTokens, 0, 0, record.first_position};
  std::array<uint64_t, kMaskWords> mask{};
  std::string ids;
  for (size_t i = 0; i < record.ids.size(); ++i) {
    if (!record.known[i]) continue;
    mask[i / 64] |= uint64_t{1} << (i % 64);
    Put(ids, record.ids[i]);
  }
  std::string body;
  Put(body, mask);
  return {EncodeKey(key), SealRecord(key, body + ids)};
}

absl::StatusOr<TokenRecord> ParseTokens(const RecordKey& key, std::string_view value) {
  CHECK(key.kind == RecordKind::kTokens);
  ASSIGN_OR_RETURN(std::string_view body, OpenRecord(key, value));
  using Mask = std::array<uint64_t, kMaskWords>;
  if (body.size() < sizeof(Mask)) {
    return Damaged("of token ids has ", body.size(), " bytes, at least ", sizeof(Mask),
                   " are expected");
  }
  const auto mask = Take<Mask>(body);
  TokenRecord record;
  record.first_position = key.first_position;
  for (size_t i = 0; i < record.ids.size(); ++i) record.known[i] = (mask[i / 64] >> (i % 64)) & 1;
  if (record.known.none() || body.size() != record.known.count() * sizeof(int32_t)) {
    return Damaged("of token ids has ", body.size(), " bytes of ids, expected ",
                   record.known.count(), " ids of 4 bytes, and one or more");
  }
  for (size_t i = 0; i < record.ids.size(); ++i) {
    if (record.known[i]) record.ids[i] = Take<int32_t>(body);
  }
  return record;
}

}  // namespace sounder::kv_node
