// The session's record: JSON, every field by its name, in the one spelling that is written here.
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "kv_node/store/records.h"

namespace sounder::kv_node {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxNodes = 1024;  // of a list of replicas

// Texts are bytes from a peer, JSON is UTF-8: each byte is written as the character of its number.
std::string ToJsonText(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) {
    const auto code = static_cast<uint8_t>(byte);
    if (code < 0x80) {
      text += byte;
    } else {
      text += static_cast<char>(0xc0 | code >> 6);
      text += static_cast<char>(0x80 | (code & 0x3f));
    }
  }
  return text;
}

// Characters above 255 come out as something that is not written like that again.
std::string FromJsonText(std::string_view text) {
  std::string bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto code = static_cast<uint8_t>(text[i]);
    if (code >= 0xc0 && i + 1 < text.size()) {
      bytes += static_cast<char>(code << 6 | (static_cast<uint8_t>(text[++i]) & 0x3f));
    } else {
      bytes += text[i];
    }
  }
  return bytes;
}

// Both go over the same list of fields (Fields below).
class Writer {
 public:
  template <typename T>
  void Field(const char* name, const T& value) {
    json[name] = ToJson(value);
  }
  template <typename Enum>
  void Names(const char* name, const Enum& value, std::initializer_list<const char*> names) {
    const auto at = static_cast<size_t>(value);
    CHECK(at < names.size()) << name << " " << at;
    json[name] = names.begin()[at];
  }
  template <typename Members>
  void Object(const char* name, Members members) {
    Writer writer;
    members(writer);
    json[name] = std::move(writer.json);
  }

  Json json = Json::object();

 private:
  template <typename T>
  static Json ToJson(const T& value) {
    return value;  // numbers
  }
  static Json ToJson(const std::string& value) { return ToJsonText(value); }
  static Json ToJson(const base::SessionId& value) { return value.ToString(); }
  template <typename T>
  static Json ToJson(const std::vector<T>& values) {
    Json list = Json::array();
    for (const T& value : values) list.push_back(ToJson(value));
    return list;
  }
};

// Keeps the first thing that is wrong; fields after it are left as they were.
class Reader {
 public:
  Reader(const Json& json, std::string path) : json_(json), path_(std::move(path)) {}

  template <typename T>
  void Field(const char* name, T& value) {
    const Json* const found = Find(name);
    if (found != nullptr && !FromJson(*found, value)) Refuse(name, found->type_name());
  }
  template <typename Enum>
  void Names(const char* name, Enum& value, std::initializer_list<const char*> names) {
    const Json* const found = Find(name);
    if (found == nullptr) return;
    for (size_t at = 0; at < names.size(); ++at) {
      if (*found != names.begin()[at]) continue;
      value = static_cast<Enum>(at);
      return;
    }
    Refuse(name, "a name that this version does not know");
  }
  template <typename Members>
  void Object(const char* name, Members members) {
    const Json* const found = Find(name);
    if (found == nullptr) return;
    Reader reader(*found, absl::StrCat(path_, name, "."));
    members(reader);
    status = reader.status;
  }

  absl::Status status;

 private:
  const Json* Find(const char* name) {
    if (!status.ok()) return nullptr;
    const auto found = json_.is_object() ? json_.find(name) : json_.end();
    if (found != json_.end()) return &*found;
    status = absl::DataLossError(absl::StrCat("the session's record has no ", path_, name));
    return nullptr;
  }
  void Refuse(const char* name, const char* what) {
    status = absl::DataLossError(
        absl::StrCat("the session's record: ", path_, name, " is ", what, " or out of its range"));
  }
  template <typename T>
  static bool FromJson(const Json& json, T& value) {
    static_assert(std::is_integral_v<T>);
    if (!json.is_number_integer()) return false;
    if (json.is_number_unsigned()) {
      const auto number = json.get<uint64_t>();
      if (number > static_cast<uint64_t>(std::numeric_limits<T>::max())) return false;
      value = static_cast<T>(number);
      return true;
    }
    const auto number = json.get<int64_t>();
    if (std::is_unsigned_v<T>) return false;
    if (number < static_cast<int64_t>(std::numeric_limits<T>::min())) return false;
    value = static_cast<T>(number);
    return true;
  }
  static bool FromJson(const Json& json, std::string& value) {
    if (!json.is_string()) return false;
    value = FromJsonText(json.get_ref<const std::string&>());
    return true;
  }
  static bool FromJson(const Json& json, base::SessionId& value) {
    const auto id = json.is_string() ? base::SessionId::Parse(json.get_ref<const std::string&>())
                                     : std::nullopt;
    value = id.value_or(base::SessionId());
    return id.has_value();
  }
  template <typename T>
  static bool FromJson(const Json& json, std::vector<T>& values) {
    if (!json.is_array()) return false;
    values.clear();
    for (const Json& element : json) {
      if (!FromJson(element, values.emplace_back())) return false;
    }
    return true;
  }

  const Json& json_;
  const std::string path_;
};

template <typename Io, typename Spec>
void SpecFields(Io& io, Spec& spec) {
  io.Field("protocol_version", spec.protocol_version);
  io.Field("id", spec.session.id);
  io.Field("epoch", spec.session.epoch);
  io.Field("tenant", spec.tenant);
  io.Object("model", [&](auto& model) {
    model.Field("name", spec.model.name);
    model.Field("weights_digest", spec.model.weights_digest);
    model.Field("layers", spec.model.layers);
    model.Field("kv_heads", spec.model.kv_heads);
    model.Field("query_heads", spec.model.query_heads);
    model.Field("head_dim", spec.model.head_dim);
    model.Field("rope_digest", spec.model.rope_digest);
    model.Field("adapter", spec.model.adapter);
    model.Field("kv_layout", spec.model.kv_layout);
  });
  io.Names("dtype", spec.dtype, {"f32", "f16", "bf16"});
  io.Field("seal_rows", spec.seal_rows);
  io.Field("min_indexed_rows", spec.min_indexed_rows);
  io.Object("lsh", [&](auto& lsh) {
    lsh.Field("bits_per_table", spec.lsh.bits_per_table);
    lsh.Field("num_tables", spec.lsh.num_tables);
    lsh.Field("min_collisions", spec.lsh.min_collisions);
    lsh.Names("projection", spec.lsh.projection, {"hadamard", "gaussian"});
    lsh.Field("seed", spec.lsh.seed);
  });
  io.Object("sketch", [&](auto& sketch) {
    sketch.Field("bits", spec.sketch.bits);
    sketch.Field("seed", spec.sketch.seed);
  });
  io.Field("indexed_layers", spec.indexed_layers);
  io.Field("kv_head_begin", spec.kv_head_begin);
  io.Field("kv_head_count", spec.kv_head_count);
  io.Field("ttl_seconds", spec.ttl_seconds);
  io.Names("durability", spec.durability, {"memory", "disk"});
  io.Names("row_format", spec.row_format, {"as_appended", "int8"});
  io.Object("shards", [&](auto& shards) {
    shards.Field("id", spec.placement.id);
    shards.Field("shard_rows", spec.placement.shard_rows);
    shards.Field("head_shards", spec.placement.head_shards);
    shards.Field("nodes", spec.placement.nodes);
  });
}

template <typename Io, typename Record>
void Fields(Io& io, Record& record) {
  io.Object("spec", [&](auto& spec) { SpecFields(spec, record.spec); });
  io.Field("epoch", record.epoch);
  io.Field("holder", record.holder);
  io.Field("applied_sequence", record.applied_sequence);
  io.Field("committed_position", record.committed_position);
  io.Object("fork", [&](auto& fork) {
    fork.Field("parent", record.parent);
    fork.Field("position", record.fork_position);
    fork.Field("sequence", record.fork_sequence);
  });
  io.Field("replicas", record.replicas);
  io.Field("in_sync", record.in_sync);
}

std::string ToText(const SessionRecord& record) {
  Writer writer;
  Fields(writer, record);
  return writer.json.dump();
}

// What no field's type says.
absl::Status CheckSession(const SessionRecord& record) {
  RETURN_IF_ERROR(wire::CheckSpec(record.spec));
  const auto in_range = [](base::Position position, base::Position least) {
    return position >= least && position <= base::kMaxPositions;
  };
  if (!in_range(record.committed_position, 0) || !in_range(record.fork_position, -1)) {
    return absl::InvalidArgumentError(absl::StrCat("committed up to ", record.committed_position,
                                                   ", forked at ", record.fork_position,
                                                   ": expected positions up to 2^40"));
  }
  if (record.parent.empty() != (record.fork_position < 0)) {
    return absl::InvalidArgumentError("a parent without a fork's position, or the reverse");
  }
  if (record.replicas.size() > kMaxNodes || record.in_sync.size() > kMaxNodes) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxNodes, " replicas"));
  }
  return absl::OkStatus();
}

}  // namespace

EncodedRecord EncodeRecord(const SessionRecord& record) {
  CHECK(CheckSession(record).ok()) << CheckSession(record).ToString();
  const RecordKey key{record.spec.session.id, RecordKind::kSession};
  const std::string text = ToText(record);
  CHECK(text.size() <= kMaxSessionRecordBytes) << text.size();
  return {EncodeKey(key), SealRecord(key, text)};
}

absl::StatusOr<SessionRecord> ParseSession(const RecordKey& key, std::string_view value) {
  CHECK(key.kind == RecordKind::kSession);
  ASSIGN_OR_RETURN(const std::string_view text, OpenRecord(key, value));
  if (text.size() > kMaxSessionRecordBytes) {
    return absl::DataLossError(absl::StrCat("the session's record has ", text.size(),
                                            " bytes, expected at most ", kMaxSessionRecordBytes));
  }
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::DataLossError("the session's record is not JSON");
  SessionRecord record;
  Reader reader(json, "");
  Fields(reader, record);
  RETURN_IF_ERROR(reader.status);
  if (const absl::Status status = CheckSession(record); !status.ok()) {
    return absl::DataLossError(absl::StrCat("the session's record: ", status.message()));
  }
  if (record.spec.session.id != key.session) {
    return absl::DataLossError(
        absl::StrCat("the record of session ", record.spec.session.id.ToString(),
                     " lies where that of ", key.session.ToString(), " should"));
  }
  // What is left: fields of other names or twice, numbers and texts spelled in another way. It
  // could not be written back as it is.
  if (ToText(record) != text) {
    return absl::DataLossError("the session's record has fields that this version does not write");
  }
  return record;
}

}  // namespace sounder::kv_node
