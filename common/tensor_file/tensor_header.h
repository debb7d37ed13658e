// The header of the safetensors format: 8 bytes little-endian length, then that many bytes of JSON
// {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
//  "__metadata__": {"key": "text"}}, then the data. Format:
// https://github.com/huggingface/safetensors#format
#ifndef SOUNDER_COMMON_TENSOR_FILE_TENSOR_HEADER_H_
#define SOUNDER_COMMON_TENSOR_FILE_TENSOR_HEADER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/dtype.h"

namespace sounder::tensor_file {

inline constexpr size_t kMaxHeaderJsonBytes = size_t{100} << 20;
inline constexpr size_t kMaxTensorRank = 16;

struct TensorInfo {
  std::string dtype_name;            // as in the file
  std::optional<base::DType> dtype;  // empty: a type we list but do not read
  std::vector<int64_t> shape;        // may be empty (a scalar); every dimension >= 0
  size_t begin = 0;                  // first byte, in the file
  size_t bytes = 0;
};

struct TensorHeader {
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
};

// Checks everything a reader relies on: lengths, JSON, no name twice, offsets inside the file,
// shape x dtype = bytes without overflow, tensors that neither overlap nor leave holes.
// INVALID_ARGUMENT says which tensor and what was expected. Any bytes are safe. Pure.
absl::StatusOr<TensorHeader> ParseTensorHeader(std::span<const std::byte> file);

// "[2, 3]".
std::string ShapeText(const std::vector<int64_t>& shape);

// The product of the dimensions; empty if one is negative or the product of those that are not zero
// exceeds 2^62, so that no partial product overflows either.
std::optional<int64_t> CountElements(const std::vector<int64_t>& shape);

}  // namespace sounder::tensor_file

#endif  // SOUNDER_COMMON_TENSOR_FILE_TENSOR_HEADER_H_
