#include "common/memory/aligned_buffer.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "common/memory/huge_pages.h"

namespace sounder::memory {

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kAddressBytes = 0;  // sanitizers watch what malloc gives
#else
constexpr size_t kAddressBytes = size_t{1} << 40;
#endif

// Never destroyed: buffers may outlive everything else.
HugePages& Pages() {
  static HugePages* const pages = new HugePages(kAddressBytes);
  return *pages;
}

}  // namespace

void AlignedBuffer::Free::operator()(std::byte* data) const {
  if (Pages().Owns(data)) {
    Pages().Free(data);
  } else {
    std::free(data);
  }
}

AlignedBuffer::AlignedBuffer(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  CHECK(bytes <= SIZE_MAX - kAlignment) << bytes;
  if (allocated() >= HugePages::kMinBytes) data_.reset(Pages().Allocate(allocated()));
  if (data_ == nullptr) {
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, allocated())));
  }
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
