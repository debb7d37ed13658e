// Writes safetensors files that TensorFile and the Hugging Face libraries read.
#ifndef SOUNDER_COMMON_TENSOR_FILE_TENSOR_WRITER_H_
#define SOUNDER_COMMON_TENSOR_FILE_TENSOR_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/dtype.h"

namespace sounder::tensor_file {

// One tensor to write, row-major; `data` is borrowed for the call.
struct NamedTensor {
  std::string name;
  base::DType dtype = base::DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
};

// `values` rounded to `dtype`, as the bytes of NamedTensor::data.
std::vector<std::byte> EncodeAs(base::DType dtype, std::span<const float> values);

// Replaces the file in one step (a temporary file beside it, then rename). INVALID_ARGUMENT for a
// name that is empty, "__metadata__", given twice or not UTF-8, and for data that does not fit the
// shape; otherwise the status of the failing system call. The same input gives the same bytes.
absl::Status WriteTensorFile(const std::string& path, std::span<const NamedTensor> tensors,
                             const std::map<std::string, std::string>& metadata = {});

}  // namespace sounder::tensor_file

#endif  // SOUNDER_COMMON_TENSOR_FILE_TENSOR_WRITER_H_
