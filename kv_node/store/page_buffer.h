// Memory that files are read into and written from: direct I/O wants address, offset and length in
// whole pages.
#ifndef SOUNDER_KV_NODE_STORE_PAGE_BUFFER_H_
#define SOUNDER_KV_NODE_STORE_PAGE_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/memory/aligned_buffer.h"

namespace sounder::kv_node {

inline constexpr size_t kPageBytes = 4096;

// `bytes` rounded up to whole pages.
constexpr uint64_t WholePages(uint64_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

// Move-only value. Begins at a page's boundary; its size is a multiple of kPageBytes. Contents are
// not initialised.
class PageBuffer {
 public:
  PageBuffer() = default;
  // Room for `bytes`, rounded up.
  explicit PageBuffer(size_t bytes)
      : memory_(WholePages(bytes) + kPageBytes - memory::kAlignment), size_(WholePages(bytes)) {}

  std::byte* data() {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    return memory_.data() + (WholePages(address) - address);
  }
  size_t size() const { return size_; }
  std::span<std::byte> bytes() { return {data(), size_}; }

 private:
  memory::AlignedBuffer memory_;
  size_t size_ = 0;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_PAGE_BUFFER_H_
