// A folder that goes with the object, and pages to write into its files.
#ifndef SOUNDER_TESTS_KV_NODE_STORE_SCRATCH_FOLDER_H_
#define SOUNDER_TESTS_KV_NODE_STORE_SCRATCH_FOLDER_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "common/base/check.h"
#include "common/base/philox.h"
#include "kv_node/store/disk.h"

namespace sounder::kv_node {

class ScratchFolder {
 public:
  explicit ScratchFolder(const std::string& parent = testing::TempDir())
      : path_(parent + "/sounder_store.XXXXXX") {
    CHECK(mkdtemp(path_.data()) != nullptr) << path_;
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Random bytes that tell which pages they are: equal (seed, pages) give equal bytes.
inline PageBuffer RandomPages(uint64_t seed, size_t pages) {
  base::PhiloxStream random(seed, 77);
  PageBuffer buffer(pages * kPageBytes);
  for (size_t at = 0; at < buffer.size(); at += 8) {
    const uint64_t word = random.Next64();
    std::memcpy(buffer.data() + at, &word, sizeof word);
  }
  return buffer;
}

inline bool SameBytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

// All of a file, read at once.
inline PageBuffer ReadFile(Disk& disk, const std::shared_ptr<DiskFile>& file) {
  PageBuffer buffer(file->size());
  if (buffer.size() == 0) return buffer;
  for (const absl::Status& status : ReadAndWait(disk, {{file, 0, buffer.bytes()}})) {
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  return buffer;
}

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_STORE_SCRATCH_FOLDER_H_
