#include "gpu_worker/model/json_fields.h"

#include <cerrno>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/tensor_file/mapped_file.h"

namespace sounder::gpu_worker {

using nlohmann::json;

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  ASSIGN_OR_RETURN(const tensor_file::MappedFile file, tensor_file::MappedFile::Open(path));
  const std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": has ", bytes.size(), " bytes, at most ", max_bytes, " are read"));
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

absl::StatusOr<json> ParseJsonObject(std::string_view text) {
  json parsed = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) return absl::InvalidArgumentError("not valid JSON");
  if (!parsed.is_object()) return absl::InvalidArgumentError("not a JSON object");
  return parsed;
}

std::optional<int64_t> IntegerOf(const json& value, int64_t least, int64_t most) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX}) {
    return std::nullopt;
  }
  const int64_t number = value.get<int64_t>();
  if (number < least || number > most) return std::nullopt;
  return number;
}

std::string Show(const json& value) {
  constexpr size_t kMost = 60;
  // Containers by name: writing out a huge one only to cut it is a waste.
  if (value.is_object()) return "an object";
  if (value.is_array()) return absl::StrCat("an array of ", value.size());
  const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() <= kMost ? text : text.substr(0, kMost) + "...";
}

const json* JsonFields::Find(const char* key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

absl::Status JsonFields::Wrong(const char* key, const std::string& expected) const {
  const json* value = Find(key);
  return absl::InvalidArgumentError(absl::StrCat(
      where_, key, value == nullptr ? " is missing" : absl::StrCat(" is ", Show(*value)),
      ", expected ", expected));
}

absl::StatusOr<int64_t> JsonFields::Integer(const char* key, int64_t least, int64_t most,
                                            std::optional<int64_t> fallback) const {
  const json* value = Find(key);
  if (value == nullptr && fallback) return *fallback;
  const auto number = value == nullptr ? std::nullopt : IntegerOf(*value, least, most);
  if (!number) return Wrong(key, absl::StrCat("an integer from ", least, " to ", most));
  return *number;
}

absl::StatusOr<double> JsonFields::Number(const char* key, double least, double most,
                                          std::optional<double> fallback) const {
  const json* value = Find(key);
  if (value == nullptr && fallback) return *fallback;
  if (value == nullptr || !value->is_number() || !(value->get<double>() >= least) ||
      !(value->get<double>() <= most)) {
    return Wrong(key, absl::StrCat("a number from ", least, " to ", most));
  }
  return value->get<double>();
}

absl::StatusOr<bool> JsonFields::Bool(const char* key, bool fallback) const {
  const json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return Wrong(key, "true or false");
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonFields::Text(const char* key,
                                             std::optional<std::string> fallback) const {
  const json* value = Find(key);
  if (value == nullptr && fallback) return *fallback;
  if (value == nullptr || !value->is_string()) return Wrong(key, "a string");
  return value->get<std::string>();
}

}  // namespace sounder::gpu_worker
