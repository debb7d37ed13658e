// Records of sessions (kv_node/store/records.h).
#include <string>

#include "kv_node/store/records.h"
#include "tests/fuzz/mutations.h"
#include "tests/fuzz/target.h"

namespace sounder::fuzz {
namespace {

using kv_node::EncodedRecord;
using kv_node::RecordKey;
using kv_node::RecordKind;

const std::initializer_list<absl::StatusCode> kRefusals = {absl::StatusCode::kDataLoss,
                                                           absl::StatusCode::kFailedPrecondition};

absl::StatusOr<EncodedRecord> Rewritten(const RecordKey& key, std::string_view value) {
  const auto encoded = [&](const auto& record) -> absl::StatusOr<EncodedRecord> {
    if (!record.ok()) return record.status();
    return kv_node::EncodeRecord(key.session, *record);
  };
  switch (key.kind) {
    case RecordKind::kSession: {
      const auto record = kv_node::ParseSession(key, value);
      if (!record.ok()) return record.status();
      return kv_node::EncodeRecord(*record);
    }
    case RecordKind::kSegment:
      return encoded(kv_node::ParseSegment(key, value));
    case RecordKind::kTail:
      return encoded(kv_node::ParseTail(key, value));
    case RecordKind::kTokens:
      return encoded(kv_node::ParseTokens(key, value));
  }
  CHECK(false) << "a key of no kind";
  return absl::InternalError("");
}

}  // namespace

// One letter, one byte n, a key of n bytes, then a value. Random bytes do not get past a checksum:
// after 's' the value is sealed here. Any other letter: the value as it is, with its version and
// checksum. Folded, so that JSON nests deep.
bool RunTarget(std::span<const std::byte> input) {
  if (input.size() < 2) return false;
  const bool seal = input[0] == std::byte{'s'};
  const auto key_bytes = std::min(std::to_integer<size_t>(input[1]), input.size() - 2);
  const std::string_view text = AsText(input.subspan(2));
  const std::string key_text(text.substr(0, key_bytes));
  const auto key = kv_node::ParseKey(key_text);
  if (!key.ok()) {
    CheckRefusal(key.status(), kRefusals);
    return false;
  }
  CHECK(kv_node::EncodeKey(*key) == key_text);
  // Values of numbers hold bytes of every kind: only JSON is folded.
  const std::string_view rest = text.substr(key_bytes);
  const std::string body = key->kind == RecordKind::kSession ? Unfold(rest) : std::string(rest);
  const std::string value = seal ? kv_node::SealRecord(*key, body) : body;
  const auto again = Rewritten(*key, value);
  if (!again.ok()) {
    CheckRefusal(again.status(), kRefusals);
    return false;
  }
  // What was accepted is what would be written.
  CHECK(again->key == key_text);
  CHECK(again->value == value);
  return true;
}

}  // namespace sounder::fuzz
