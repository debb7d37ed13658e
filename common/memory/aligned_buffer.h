// An owned block of bytes, 64-byte aligned and padded, the unit in which rows, tensors and payloads
// are held.
#ifndef SOUNDER_COMMON_MEMORY_ALIGNED_BUFFER_H_
#define SOUNDER_COMMON_MEMORY_ALIGNED_BUFFER_H_

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

#include "common/base/check.h"

namespace sounder::memory {

inline constexpr size_t kAlignment = 64;

// Move-only value; a buffer that was moved from is empty. Contents are not initialised unless
// asked. The allocation is rounded up to a multiple of 64 bytes, so that kernels may load whole
// vectors at the end; the padding is zero.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  explicit AlignedBuffer(size_t bytes);
  static AlignedBuffer Zeroed(size_t bytes);
  static AlignedBuffer CopyOf(std::span<const std::byte> bytes);

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // Bytes really allocated.
  size_t allocated() const { return Allocated(size_); }
  // Bytes a buffer of `bytes` allocates.
  static constexpr size_t Allocated(size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  std::span<std::byte> bytes() { return {data(), size_}; }
  std::span<const std::byte> bytes() const { return {data(), size_}; }

  // The buffer as elements of T; its size must be a multiple of sizeof(T).
  template <typename T>
  std::span<T> As() {
    static_assert(std::is_trivially_copyable_v<T>);
    CHECK(size_ % sizeof(T) == 0) << size_;
    return {reinterpret_cast<T*>(data()), size_ / sizeof(T)};
  }
  template <typename T>
  std::span<const T> As() const {
    static_assert(std::is_trivially_copyable_v<T>);
    CHECK(size_ % sizeof(T) == 0) << size_;
    return {reinterpret_cast<const T*>(data()), size_ / sizeof(T)};
  }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};

}  // namespace sounder::memory

#endif  // SOUNDER_COMMON_MEMORY_ALIGNED_BUFFER_H_
