// What the store keeps of sessions beside the rows of sealed segments: which sessions there are,
// where their segments lie, the rows of tails and the token ids. Here are the values and their
// bytes (FORMAT.md, "Records"); record_store.h keeps them.
//
// Bytes from a disk are untrusted: whatever they are, they are refused with a reason or read within
// their bounds. Pure functions.
#ifndef SOUNDER_KV_NODE_STORE_RECORDS_H_
#define SOUNDER_KV_NODE_STORE_RECORDS_H_

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/memory/rows_view.h"
#include "common/wire/control_service.h"
#include "kv_node/store/segment_format.h"
#include "kv_node/store/segment_log.h"

namespace sounder::kv_node {

// Of all records of a store, and of the store.
inline constexpr uint16_t kRecordsVersion = 1;
inline constexpr int64_t kTokenBlock = 1024;  // positions of a TokenRecord
inline constexpr size_t kMaxSessionRecordBytes = size_t{1} << 20;

enum class RecordKind : uint8_t { kSession = 0, kSegment = 1, kTail = 2, kTokens = 3 };

// Names a record. Encoded keys sort by these fields in this order: all of a session is together.
struct RecordKey {
  base::SessionId session;
  RecordKind kind = RecordKind::kSession;
  uint32_t layer = 0;                 // of segments and tails; below base::kMaxLayers
  uint32_t kv_head = 0;               // likewise, of the model's; below base::kMaxKvHeads
  base::Position first_position = 0;  // of all but the session's own record; [0, kMaxPositions]

  friend bool operator==(const RecordKey&, const RecordKey&) = default;
};

// A session's manifest.
struct SessionRecord {
  // As it was opened, or as the fork that made it says; it names the session.
  wire::SessionSpec spec;
  uint64_t epoch = 0;  // that may write now
  uint64_t holder = 0;
  uint64_t applied_sequence = 0;
  base::Position committed_position = 0;  // rows before it are durable
  // Of a fork; else empty, -1, 0.
  base::SessionId parent;
  base::Position fork_position = -1;
  uint64_t fork_sequence = 0;
  // Nodes that hold a copy, and those whose copy has every acknowledged row.
  std::vector<std::string> replicas;
  std::vector<std::string> in_sync;
};

// XXH3-128, in its canonical (big-endian) form.
using ContentHash = std::array<std::byte, 16>;
// Of all key rows, then all value rows, packed, as they were appended.
ContentHash HashRows(const memory::RowsView& keys, const memory::RowsView& values);

struct SegmentRecord {
  uint32_t layer = 0;
  uint32_t kv_head = 0;
  StoredShape shape;
  SegmentPlace place;
  // The session's are the first so many rows; all of them, unless it was truncated since.
  int64_t rows_used = 0;  // in [1, shape.num_rows]
  bool indexed = false;   // attended through the index that is stored with it
  ContentHash content_hash{};
  // Where it was divided before it was merged: rows, ascending, in (0, shape.num_rows).
  std::vector<uint16_t> marks = {};

  LiveSegment live() const { return {place, SegmentLayout(shape).bytes()}; }
  friend bool operator==(const SegmentRecord&, const SegmentRecord&) = default;
};

// Rows behind the last segment of a (layer, kv head), or some of them: a tail is one record or
// several, in order of position.
struct TailRecord {
  uint32_t layer = 0;
  uint32_t kv_head = 0;
  base::Position first_position = 0;
  int64_t rows = 0;  // in [1, base::kMaxSegmentRows]
  int dim = 0;       // a multiple of 8, at most base::kMaxHeadDim
  base::DType dtype = base::DType::kF32;
  // rows x dim elements each, packed, at any address; borrowed.
  std::span<const std::byte> keys;
  std::span<const std::byte> values;

  size_t half_bytes() const {
    return static_cast<size_t>(rows) * static_cast<size_t>(dim) * base::SizeOf(dtype);
  }
};

// The token ids of positions [first_position, first_position + kTokenBlock), as far as known.
struct TokenRecord {
  base::Position first_position = 0;  // a multiple of kTokenBlock
  std::bitset<kTokenBlock> known;     // at least one
  std::array<int32_t, kTokenBlock> ids{};

  void Put(base::Position position, int32_t id) {
    const auto at = static_cast<size_t>(position - first_position);
    known.set(at);
    ids[at] = id;
  }
};

std::string EncodeKey(const RecordKey& key);
// DATA_LOSS if it is none.
absl::StatusOr<RecordKey> ParseKey(std::string_view bytes);

struct EncodedRecord {
  std::string key;
  std::string value;
};

// Values out of the ranges above are bugs.
EncodedRecord EncodeRecord(const SessionRecord& record);
EncodedRecord EncodeRecord(const base::SessionId& session, const SegmentRecord& record);
EncodedRecord EncodeRecord(const base::SessionId& session, const TailRecord& record);
EncodedRecord EncodeRecord(const base::SessionId& session, const TokenRecord& record);

// The value that lay under a key of that kind. DATA_LOSS if it is not what was written there;
// FAILED_PRECONDITION if it is of another version, naming both.
absl::StatusOr<SessionRecord> ParseSession(const RecordKey& key, std::string_view value);
absl::StatusOr<SegmentRecord> ParseSegment(const RecordKey& key, std::string_view value);
// Its spans point into `value`.
absl::StatusOr<TailRecord> ParseTail(const RecordKey& key, std::string_view value);
absl::StatusOr<TokenRecord> ParseTokens(const RecordKey& key, std::string_view value);

// What lies around each record's own bytes: the version before them, a checksum behind, which
// depends on the key. For session_record.cc and tests.
std::string SealRecord(const RecordKey& key, std::string_view body);
// The body, after its version and checksum were looked at.
absl::StatusOr<std::string_view> OpenRecord(const RecordKey& key, std::string_view value);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_RECORDS_H_
