#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "bench/store/row_store.h"
#include "common/base/check.h"
#include "kv_node/store/page_buffer.h"

namespace sounder::store_bench {
namespace {

using kv_node::kPageBytes;

// What a plain program would do: the yardstick.
class AppendStore final : public RowStore {
 public:
  AppendStore(const std::string& folder, const SegmentSize& size)
      : size_(size), buffer_(size.bytes()) {
    fd_ = open((folder + "/rows").c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0644);
    CHECK(fd_ >= 0) << folder << ": no O_DIRECT";
  }
  ~AppendStore() override { close(fd_); }

  void Write(size_t first, std::span<const std::span<const std::byte>> rows) override {
    for (size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(buffer_.data(), rows[i].data(), size_.bytes());
      CHECK(pwrite(fd_, buffer_.data(), size_.bytes(), Offset(first + i)) ==
            static_cast<ssize_t>(size_.bytes()));
    }
    CHECK(fdatasync(fd_) == 0);
  }

  void ReadRows(size_t segment, std::span<const uint16_t> rows,
                std::span<std::byte> into) override {
    for (size_t i = 0; i < rows.size(); ++i) {
      const size_t at = rows[i] * size_.row_bytes, inside = at % kPageBytes;
      CHECK(pread(fd_, buffer_.data(), kPageBytes,
                  Offset(segment) + static_cast<off_t>(at - inside)) == kPageBytes);
      std::memcpy(into.data() + i * size_.row_bytes, buffer_.data() + inside, size_.row_bytes);
    }
  }

  void ReadSegment(size_t segment, std::span<std::byte> into) override {
    CHECK(pread(fd_, buffer_.data(), size_.bytes(), Offset(segment)) ==
          static_cast<ssize_t>(size_.bytes()));
    std::memcpy(into.data(), buffer_.data(), size_.bytes());
  }

  // A plain file does not shrink in the middle.
  void Delete(size_t segment) override { CHECK(segment < size_t{1} << 40); }

 private:
  off_t Offset(size_t segment) const { return static_cast<off_t>(segment * size_.bytes()); }

  const SegmentSize size_;
  kv_node::PageBuffer buffer_;
  int fd_ = -1;
};

}  // namespace

std::unique_ptr<RowStore> NewAppendStore(const std::string& folder, const SegmentSize& size) {
  return std::make_unique<AppendStore>(folder, size);
}

}  // namespace sounder::store_bench
