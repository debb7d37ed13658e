// Reads safetensors files (the format of Hugging Face weights), mapped, without copying.
//
//   ASSIGN_OR_RETURN(auto file, TensorFile::Open("model.safetensors"));
//   ASSIGN_OR_RETURN(TensorView norm, file->Find("model.norm.weight"));
//
// Files are untrusted: every field is checked in Open and no byte sequence crashes the reader.
#ifndef SOUNDER_COMMON_TENSOR_FILE_TENSOR_FILE_H_
#define SOUNDER_COMMON_TENSOR_FILE_TENSOR_FILE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "common/tensor_file/mapped_file.h"
#include "common/tensor_file/tensor_header.h"

namespace sounder::tensor_file {

// A row-major tensor that someone else owns. `data` may be unaligned.
struct TensorView {
  base::DType dtype = base::DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;

  int64_t elements() const { return static_cast<int64_t>(data.size() / base::SizeOf(dtype)); }
};

// All elements as f32 (exact: f16 and bf16 are subsets). out.size() must be view.elements().
void CopyToF32(const TensorView& view, std::span<float> out);

// Immutable after Open, so thread safe. Views live as long as the file object.
class TensorFile {
 public:
  // Error messages start with the path. See MappedFile::Open and ParseTensorHeader.
  static absl::StatusOr<std::unique_ptr<TensorFile>> Open(const std::string& path);
  // The same over bytes in memory, which must outlive the object; `name` is used in messages.
  static absl::StatusOr<std::unique_ptr<TensorFile>> FromBytes(const std::string& name,
                                                               std::span<const std::byte> bytes);

  TensorFile(const TensorFile&) = delete;
  TensorFile& operator=(const TensorFile&) = delete;

  // NOT_FOUND if there is none; UNIMPLEMENTED if it is not F32, F16 or BF16.
  absl::StatusOr<TensorView> Find(std::string_view name) const;
  // As above; INVALID_ARGUMENT if the shape is not `shape`.
  absl::StatusOr<TensorView> Find(std::string_view name, const std::vector<int64_t>& shape) const;

  // Sorted; of any type.
  std::vector<std::string> names() const;
  const std::map<std::string, TensorInfo>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const std::string& path() const { return path_; }

 private:
  TensorFile() = default;

  std::string path_;
  MappedFile file_;
  std::span<const std::byte> bytes_;  // file_'s, or the caller's
  TensorHeader header_;
};

}  // namespace sounder::tensor_file

#endif  // SOUNDER_COMMON_TENSOR_FILE_TENSOR_FILE_H_
