#include "common/memory/huge_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <iterator>

#include "common/base/check.h"

namespace sounder::memory {
namespace {

constexpr size_t RoundUp(size_t bytes) {
  return (bytes + HugePages::kPageBytes - 1) / HugePages::kPageBytes * HugePages::kPageBytes;
}
constexpr size_t RoundDown(size_t bytes) {
  return bytes / HugePages::kPageBytes * HugePages::kPageBytes;
}

}  // namespace

HugePages::HugePages(size_t address_bytes) : size_(address_bytes) {
  CHECK(address_bytes % kPageBytes == 0) << address_bytes;
  // One page more, to begin at a page.
  const size_t reserved = size_ + kPageBytes;
  void* const range = mmap(nullptr, reserved, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) {
    size_ = 0;
    return;
  }
  std::byte* const start = static_cast<std::byte*>(range);
  const size_t skip = RoundUp(reinterpret_cast<size_t>(start)) - reinterpret_cast<size_t>(start);
  begin_ = start + skip;
  if (skip > 0) munmap(start, skip);
  if (skip < kPageBytes) munmap(begin_ + size_, kPageBytes - skip);
  madvise(begin_, size_, MADV_HUGEPAGE);  // refused: small pages, which work as well
  free_.emplace(0, size_);
}

HugePages::~HugePages() {
  if (begin_ != nullptr) munmap(begin_, size_);
}

std::byte* HugePages::Allocate(size_t bytes) {
  CHECK(bytes >= kMinBytes && bytes % 64 == 0) << bytes;
  std::lock_guard lock(mutex_);
  // The first that fits, so that what is in use stays together.
  for (auto gap = free_.begin(); gap != free_.end(); ++gap) {
    const auto [offset, size] = *gap;
    if (size < bytes) continue;
    free_.erase(gap);
    if (size > bytes) free_.emplace(offset + bytes, size - bytes);
    used_.emplace(offset, bytes);
    return begin_ + offset;
  }
  return nullptr;
}

void HugePages::Free(std::byte* data) {
  CHECK(Owns(data));
  std::lock_guard lock(mutex_);
  const auto block = used_.find(static_cast<size_t>(data - begin_));
  CHECK(block != used_.end()) << "no block begins here";
  const auto [offset, bytes] = *block;
  used_.erase(block);
  size_t begin = offset;
  size_t end = offset + bytes;
  const auto after = free_.lower_bound(offset);
  if (after != free_.begin() && std::prev(after)->first + std::prev(after)->second == begin) {
    begin = std::prev(after)->first;
    free_.erase(begin);
  }
  if (after != free_.end() && after->first == end) {
    end += after->second;
    free_.erase(after);
  }
  free_.emplace(begin, end - begin);
  // Pages that the block shared with nobody who is left.
  const size_t first = RoundUp(std::max(begin, RoundDown(offset)));
  const size_t last = RoundDown(std::min(end, RoundUp(offset + bytes)));
  if (first < last) CHECK(madvise(begin_ + first, last - first, MADV_DONTNEED) == 0);
}

}  // namespace sounder::memory
