#include "common/tensor_file/tensor_header.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace sounder::tensor_file {
namespace {

using nlohmann::json;

constexpr size_t kLengthBytes = 8;

absl::Status Refuse(const std::string& text) { return absl::InvalidArgumentError(text); }

// Bytes per element of every type with whole-byte elements; empty for the others.
std::optional<size_t> ElementBytes(std::string_view dtype) {
  static constexpr std::pair<std::string_view, size_t> kTypes[] = {
      {"F64", 8},  {"I64", 8},     {"U64", 8},     {"F32", 4}, {"I32", 4}, {"U32", 4},
      {"F16", 2},  {"BF16", 2},    {"I16", 2},     {"U16", 2}, {"I8", 1},  {"U8", 1},
      {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"C64", 8}};
  for (const auto& [name, bytes] : kTypes) {
    if (name == dtype) return bytes;
  }
  return std::nullopt;
}

// A JSON integer in [0, 2^63).
std::optional<uint64_t> NonNegative(const json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number > uint64_t{INT64_MAX}) return std::nullopt;
    return number;
  }
  const int64_t number = value.get<int64_t>();
  if (number < 0) return std::nullopt;
  return static_cast<uint64_t>(number);
}

absl::Status ReadShape(const json& entry, TensorInfo& info) {
  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array()) return Refuse("shape must be an array");
  if (shape->size() > kMaxTensorRank) {
    return Refuse(absl::StrCat("shape has ", shape->size(), " dimensions, at most ", kMaxTensorRank,
                               " are read"));
  }
  for (const json& dimension : *shape) {
    const auto number = NonNegative(dimension);
    if (!number) return Refuse("shape must hold integers from 0 to 2^63 - 1");
    info.shape.push_back(static_cast<int64_t>(*number));
  }
  return absl::OkStatus();
}

// One tensor's entry; `data_begin` and `data_bytes` are the data section of the file.
absl::Status ReadEntry(const json& entry, size_t data_begin, size_t data_bytes, TensorInfo& info) {
  if (!entry.is_object()) return Refuse("must be an object with dtype, shape and data_offsets");
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) return Refuse("dtype must be a string");
  info.dtype_name = dtype->get<std::string>();
  if (info.dtype_name == "F32" || info.dtype_name == "F16" || info.dtype_name == "BF16") {
    info.dtype = base::ParseDType(info.dtype_name);
  }
  RETURN_IF_ERROR(ReadShape(entry, info));
  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2) {
    return Refuse("data_offsets must be [begin, end]");
  }
  const auto begin = NonNegative((*offsets)[0]);
  const auto end = NonNegative((*offsets)[1]);
  if (!begin || !end) return Refuse("data_offsets must hold integers from 0 to 2^63 - 1");
  if (*begin > *end || *end > data_bytes) {
    return Refuse(absl::StrCat("data_offsets [", *begin, ", ", *end,
                               "] must lie, in order, within the ", data_bytes, " bytes of data"));
  }
  info.begin = data_begin + *begin;
  info.bytes = *end - *begin;
  const auto element_bytes = ElementBytes(info.dtype_name);
  if (!element_bytes) return absl::OkStatus();
  const auto elements = CountElements(info.shape);
  if (!elements || static_cast<uint64_t>(*elements) > data_bytes / *element_bytes ||
      static_cast<size_t>(*elements) * *element_bytes != info.bytes) {
    return Refuse(absl::StrCat("shape ", ShapeText(info.shape), " of ", info.dtype_name,
                               " does not match its ", info.bytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status ReadMetadata(const json& entry, std::map<std::string, std::string>& metadata) {
  if (!entry.is_object()) return Refuse("__metadata__ must be an object of strings");
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) return Refuse("__metadata__ must be an object of strings");
    metadata[key] = value.get<std::string>();
  }
  return absl::OkStatus();
}

// Tensors in file order must follow each other exactly from `begin` to `end`.
absl::Status CheckCoverage(const TensorHeader& header, size_t begin, size_t end) {
  std::vector<std::pair<std::string, const TensorInfo*>> order;
  for (const auto& [name, info] : header.tensors) order.emplace_back(name, &info);
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->bytes) <
           std::pair(b.second->begin, b.second->bytes);
  });
  size_t next = begin;
  for (const auto& [name, info] : order) {
    if (info->begin != next) {
      return Refuse(absl::StrCat(
          "tensor '", name,
          "': ", info->begin < next ? "overlaps the tensor before it" : "leaves a hole before it",
          " (starts at data byte ", info->begin - begin, ", expected ", next - begin, ")"));
    }
    next += info->bytes;
  }
  if (next != end) {
    return Refuse(absl::StrCat(end - next, " bytes after the last tensor belong to none"));
  }
  return absl::OkStatus();
}

// The header's JSON. A name given twice is refused: readers would disagree about which one counts.
absl::StatusOr<json> ParseJson(std::span<const std::byte> text) {
  std::set<std::string> names;
  std::string twice;
  const json::parser_callback_t watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::key && depth == 1 &&
        !names.insert(parsed.get<std::string>()).second) {
      twice = parsed.get<std::string>();
    }
    return true;
  };
  const char* begin = reinterpret_cast<const char*>(text.data());
  json parsed = json::parse(begin, begin + text.size(), watch, /*allow_exceptions=*/false);
  if (parsed.is_discarded() || !parsed.is_object()) return Refuse("header is not a JSON object");
  if (!twice.empty()) return Refuse(absl::StrCat("tensor '", twice, "' is listed twice"));
  return parsed;
}

}  // namespace

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

std::optional<int64_t> CountElements(const std::vector<int64_t>& shape) {
  constexpr int64_t kMost = int64_t{1} << 62;
  int64_t count = 1;  // without the zeros, so that no part of the product can overflow
  bool empty = false;
  for (const int64_t dimension : shape) {
    if (dimension < 0) return std::nullopt;
    empty = empty || dimension == 0;
    if (dimension > kMost / count) return std::nullopt;
    if (dimension > 0) count *= dimension;
  }
  return empty ? 0 : count;
}

absl::StatusOr<TensorHeader> ParseTensorHeader(std::span<const std::byte> file) {
  if (file.size() < kLengthBytes) {
    return Refuse(absl::StrCat("file has ", file.size(), " bytes, too short for a header"));
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i)
    length |= uint64_t{std::to_integer<uint8_t>(file[i])} << (8 * i);
  if (length > kMaxHeaderJsonBytes || length > file.size() - kLengthBytes) {
    return Refuse(absl::StrCat("header length ", length, " exceeds the file (",
                               file.size() - kLengthBytes, " bytes left) or the limit of ",
                               kMaxHeaderJsonBytes, " bytes"));
  }
  ASSIGN_OR_RETURN(const json parsed, ParseJson(file.subspan(kLengthBytes, length)));
  const size_t data_begin = kLengthBytes + length;
  TensorHeader header;
  for (const auto& [name, entry] : parsed.items()) {
    if (name == "__metadata__") {
      RETURN_IF_ERROR(ReadMetadata(entry, header.metadata));
      continue;
    }
    TensorInfo info;
    if (const absl::Status status = ReadEntry(entry, data_begin, file.size() - data_begin, info);
        !status.ok()) {
      return Refuse(absl::StrCat("tensor '", name, "': ", status.message()));
    }
    header.tensors.emplace(name, std::move(info));
  }
  RETURN_IF_ERROR(CheckCoverage(header, data_begin, file.size()));
  return header;
}

}  // namespace sounder::tensor_file
