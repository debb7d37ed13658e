// A whole file mapped read-only into memory.
#ifndef SOUNDER_COMMON_TENSOR_FILE_MAPPED_FILE_H_
#define SOUNDER_COMMON_TENSOR_FILE_MAPPED_FILE_H_

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace sounder::tensor_file {

// Move-only; the mapping lives as long as the object. Reading is thread safe. The file must not be
// shortened while it is mapped: the kernel answers a read past the new end with SIGBUS.
class MappedFile {
 public:
  // NOT_FOUND / PERMISSION_DENIED / ... name the file; a folder or a device is INVALID_ARGUMENT.
  // An empty file gives empty bytes().
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace sounder::tensor_file

#endif  // SOUNDER_COMMON_TENSOR_FILE_MAPPED_FILE_H_
