// Memory of large buffers in pages of 2 MiB, where the system gives such pages to those that ask.
// Scattered rows cost a page walk each in pages of 4 KiB; DESIGN.md has figures.
#ifndef SOUNDER_COMMON_MEMORY_HUGE_PAGES_H_
#define SOUNDER_COMMON_MEMORY_HUGE_PAGES_H_

#include <cstddef>
#include <map>
#include <mutex>

namespace sounder::memory {

// Blocks out of one range of addresses, reserved at the start and backed by memory as it is
// touched; neighbours share pages, so that blocks smaller than a page need no page of their own.
// Memory goes back to the system a page at a time. Thread safe.
class HugePages {
 public:
  static constexpr size_t kPageBytes = size_t{2} << 20;
  // Smaller ones are not worth it: a block that is left alone keeps its page.
  static constexpr size_t kMinBytes = size_t{256} << 10;

  // At most `address_bytes` (a multiple of kPageBytes) in use at once. Where that range cannot be
  // had, every Allocate returns null.
  explicit HugePages(size_t address_bytes);
  ~HugePages();
  HugePages(const HugePages&) = delete;
  HugePages& operator=(const HugePages&) = delete;

  // `bytes` a multiple of 64, at least kMinBytes; 64-byte aligned, not initialised. Null: no room.
  std::byte* Allocate(size_t bytes);
  // Whether `data` came from Allocate. Takes no lock.
  bool Owns(const std::byte* data) const { return data >= begin_ && data < begin_ + size_; }
  void Free(std::byte* data);

 private:
  size_t size_;
  std::byte* begin_ = nullptr;
  std::mutex mutex_;
  std::map<size_t, size_t> free_;  // offset -> bytes; no two adjacent. Guarded by mutex_
  std::map<size_t, size_t> used_;  // the same of blocks. Guarded by mutex_
};

}  // namespace sounder::memory

#endif  // SOUNDER_COMMON_MEMORY_HUGE_PAGES_H_
