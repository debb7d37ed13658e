#include "common/memory/aligned_buffer.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace sounder::memory {

void AlignedBuffer::Free::operator()(std::byte* data) const { std::free(data); }

AlignedBuffer::AlignedBuffer(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  CHECK(bytes <= SIZE_MAX - kAlignment) << bytes;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, allocated())));
  CHECK(data_ != nullptr) << "out of memory for " << bytes << " bytes";
  std::memset(data_.get() + size_, 0, allocated() - size_);
}

AlignedBuffer AlignedBuffer::Zeroed(size_t bytes) {
  AlignedBuffer buffer(bytes);
  if (bytes > 0) std::memset(buffer.data(), 0, bytes);
  return buffer;
}

AlignedBuffer AlignedBuffer::CopyOf(std::span<const std::byte> bytes) {
  AlignedBuffer buffer(bytes.size());
  if (!bytes.empty()) std::memcpy(buffer.data(), bytes.data(), bytes.size());
  return buffer;
}

}  // namespace sounder::memory
