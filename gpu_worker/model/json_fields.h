// Typed, range-checked access to the fields of an untrusted JSON object. Messages name the field,
// what was found and what was expected. Private to gpu_worker/model.
#ifndef SOUNDER_GPU_WORKER_MODEL_JSON_FIELDS_H_
#define SOUNDER_GPU_WORKER_MODEL_JSON_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sounder::gpu_worker {

// A whole file as text. RESOURCE_EXHAUSTED above `max_bytes`.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

// INVALID_ARGUMENT unless `text` is one JSON object.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text);

// Borrows the object. A field whose value is null counts as absent, as in Hugging Face's files.
class JsonFields {
 public:
  // `where` prefixes field names in messages ("rope_scaling.").
  explicit JsonFields(const nlohmann::json& object, std::string where = "")
      : object_(object), where_(std::move(where)) {}

  // The field, or nullptr if it is absent or null.
  const nlohmann::json* Find(const char* key) const;

  // Absent: `fallback`, or an error if there is none.
  absl::StatusOr<int64_t> Integer(const char* key, int64_t least, int64_t most,
                                  std::optional<int64_t> fallback = std::nullopt) const;
  absl::StatusOr<double> Number(const char* key, double least, double most,
                                std::optional<double> fallback = std::nullopt) const;
  absl::StatusOr<bool> Bool(const char* key, bool fallback) const;
  absl::StatusOr<std::string> Text(const char* key,
                                   std::optional<std::string> fallback = std::nullopt) const;

  // INVALID_ARGUMENT "<field> is <value>, expected <expected>".
  absl::Status Wrong(const char* key, const std::string& expected) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
};

// The value as an int64 if it is an integer from least to most.
std::optional<int64_t> IntegerOf(const nlohmann::json& value, int64_t least, int64_t most);

// A JSON value for a message, cut to a few dozen characters.
std::string Show(const nlohmann::json& value);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_MODEL_JSON_FIELDS_H_
