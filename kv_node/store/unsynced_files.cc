#include "kv_node/store/unsynced_files.h"

#include <rocksdb/file_system.h>

#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kv_node/store/unsynced_folder.h"

namespace sounder::kv_node {
namespace {

using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

class SequentialFile final : public rocksdb::FSSequentialFile {
 public:
  SequentialFile(std::shared_ptr<UnsyncedFolder> folder, UnsyncedFolder::NodePtr node)
      : folder_(std::move(folder)), node_(std::move(node)) {}
  IOStatus Read(size_t n, const IOOptions&, Slice* result, char* scratch,
                IODebugContext*) override {
    const IOStatus status = folder_->Read(*node_, at_, n, result, scratch);
    if (status.ok()) at_ += result->size();
    return status;
  }
  IOStatus Skip(uint64_t n) override {
    at_ += n;
    return IOStatus::OK();
  }

 private:
  const std::shared_ptr<UnsyncedFolder> folder_;
  const UnsyncedFolder::NodePtr node_;
  uint64_t at_ = 0;
};

class RandomAccessFile final : public rocksdb::FSRandomAccessFile {
 public:
  RandomAccessFile(std::shared_ptr<UnsyncedFolder> folder, UnsyncedFolder::NodePtr node)
      : folder_(std::move(folder)), node_(std::move(node)) {}
  IOStatus Read(uint64_t offset, size_t n, const IOOptions&, Slice* result, char* scratch,
                IODebugContext*) const override {
    return folder_->Read(*node_, offset, n, result, scratch);
  }

 private:
  const std::shared_ptr<UnsyncedFolder> folder_;
  const UnsyncedFolder::NodePtr node_;
};

class WritableFile final : public rocksdb::FSWritableFile {
 public:
  WritableFile(std::string name, std::shared_ptr<UnsyncedFolder> folder,
               UnsyncedFolder::NodePtr node)
      : name_(std::move(name)), folder_(std::move(folder)), node_(std::move(node)) {}
  using rocksdb::FSWritableFile::Append;
  IOStatus Append(const Slice& data, const IOOptions&, IODebugContext*) override {
    return folder_->Append(*node_, name_, data);
  }
  IOStatus Append(const Slice& data, const IOOptions&, const rocksdb::DataVerificationInfo&,
                  IODebugContext*) override {
    return folder_->Append(*node_, name_, data);
  }
  IOStatus Close(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
  IOStatus Flush(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
  IOStatus Sync(const IOOptions&, IODebugContext*) override { return folder_->Sync(*node_, name_); }
  bool IsSyncThreadSafe() const override { return true; }
  uint64_t GetFileSize(const IOOptions&, IODebugContext*) override {
    return folder_->SizeOf(*node_);
  }

 private:
  const std::string name_;
  const std::shared_ptr<UnsyncedFolder> folder_;
  const UnsyncedFolder::NodePtr node_;
};

class Directory final : public rocksdb::FSDirectory {
 public:
  explicit Directory(std::shared_ptr<UnsyncedFolder> folder) : folder_(std::move(folder)) {}
  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return folder_->SyncNames(); }
  IOStatus Close(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }

 private:
  const std::shared_ptr<UnsyncedFolder> folder_;
};

class FolderFiles final : public rocksdb::FileSystemWrapper {
 public:
  explicit FolderFiles(std::shared_ptr<UnsyncedFolder> folder)
      : rocksdb::FileSystemWrapper(rocksdb::FileSystem::Default()), folder_(std::move(folder)) {}

  static const char* kClassName() { return "UnsyncedFiles"; }
  const char* Name() const override { return kClassName(); }

  IOStatus NewSequentialFile(const std::string& path, const FileOptions& options,
                             std::unique_ptr<rocksdb::FSSequentialFile>* result,
                             IODebugContext* dbg) override {
    const auto name = NameOf(path);
    if (!name.has_value()) return target()->NewSequentialFile(path, options, result, dbg);
    UnsyncedFolder::NodePtr node;
    if (IOStatus status = folder_->Find(*name, &node); !status.ok()) return status;
    *result = std::make_unique<SequentialFile>(folder_, std::move(node));
    return IOStatus::OK();
  }

  IOStatus NewRandomAccessFile(const std::string& path, const FileOptions& options,
                               std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
                               IODebugContext* dbg) override {
    const auto name = NameOf(path);
    if (!name.has_value()) return target()->NewRandomAccessFile(path, options, result, dbg);
    UnsyncedFolder::NodePtr node;
    if (IOStatus status = folder_->Find(*name, &node); !status.ok()) return status;
    *result = std::make_unique<RandomAccessFile>(folder_, std::move(node));
    return IOStatus::OK();
  }

  IOStatus NewWritableFile(const std::string& path, const FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* result,
                           IODebugContext* dbg) override {
    const auto name = NameOf(path);
    if (!name.has_value()) return target()->NewWritableFile(path, options, result, dbg);
    UnsyncedFolder::NodePtr node;
    if (IOStatus status = folder_->Create(*name, &node); !status.ok()) return status;
    *result = std::make_unique<WritableFile>(*name, folder_, std::move(node));
    return IOStatus::OK();
  }

  IOStatus NewDirectory(const std::string& path, const IOOptions& options,
                        std::unique_ptr<rocksdb::FSDirectory>* result,
                        IODebugContext* dbg) override {
    if (!IsFolder(path)) return target()->NewDirectory(path, options, result, dbg);
    *result = std::make_unique<Directory>(folder_);
    return IOStatus::OK();
  }

  IOStatus FileExists(const std::string& path, const IOOptions& options,
                      IODebugContext* dbg) override {
    const auto name = NameOf(path);
    if (!name.has_value()) return target()->FileExists(path, options, dbg);
    UnsyncedFolder::NodePtr node;
    return folder_->Find(*name, &node);
  }

  IOStatus GetChildren(const std::string& path, const IOOptions& options,
                       std::vector<std::string>* result, IODebugContext* dbg) override {
    if (!IsFolder(path)) return target()->GetChildren(path, options, result, dbg);
    std::vector<std::pair<std::string, uint64_t>> files;
    if (IOStatus status = folder_->List(&files); !status.ok()) return status;
    result->clear();
    for (const auto& [name, size] : files) result->push_back(name);
    return IOStatus::OK();
  }

  IOStatus GetChildrenFileAttributes(const std::string& path, const IOOptions& options,
                                     std::vector<rocksdb::FileAttributes>* result,
                                     IODebugContext* dbg) override {
    if (!IsFolder(path)) return target()->GetChildrenFileAttributes(path, options, result, dbg);
    std::vector<std::pair<std::string, uint64_t>> files;
    if (IOStatus status = folder_->List(&files); !status.ok()) return status;
    result->clear();
    for (const auto& [name, size] : files) result->push_back({name, size});
    return IOStatus::OK();
  }

  IOStatus DeleteFile(const std::string& path, const IOOptions& options,
                      IODebugContext* dbg) override {
    const auto name = NameOf(path);
    if (!name.has_value()) return target()->DeleteFile(path, options, dbg);
    return folder_->Remove(*name);
  }

  IOStatus GetFileSize(const std::string& path, const IOOptions& options, uint64_t* size,
                       IODebugContext* dbg) override {
    const auto name = NameOf(path);
    if (!name.has_value()) return target()->GetFileSize(path, options, size, dbg);
    UnsyncedFolder::NodePtr node;
    if (IOStatus status = folder_->Find(*name, &node); !status.ok()) return status;
    *size = folder_->SizeOf(*node);
    return IOStatus::OK();
  }

  IOStatus GetFileModificationTime(const std::string& path, const IOOptions& options,
                                   uint64_t* time, IODebugContext* dbg) override {
    const auto name = NameOf(path);
    if (!name.has_value()) return target()->GetFileModificationTime(path, options, time, dbg);
    *time = 0;
    UnsyncedFolder::NodePtr node;
    return folder_->Find(*name, &node);
  }

  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                      IODebugContext* dbg) override {
    const auto old_name = NameOf(from), new_name = NameOf(to);
    if (!old_name.has_value()) return target()->RenameFile(from, to, options, dbg);
    CHECK(new_name.has_value()) << from << " to " << to;
    return folder_->Rename(*old_name, *new_name);
  }

  // What the store's options never ask for.
  IOStatus ReopenWritableFile(const std::string& path, const FileOptions&,
                              std::unique_ptr<rocksdb::FSWritableFile>*, IODebugContext*) override {
    return IOStatus::NotSupported(path);
  }
  IOStatus ReuseWritableFile(const std::string& path, const std::string&, const FileOptions&,
                             std::unique_ptr<rocksdb::FSWritableFile>*, IODebugContext*) override {
    return IOStatus::NotSupported(path);
  }
  IOStatus NewRandomRWFile(const std::string& path, const FileOptions&,
                           std::unique_ptr<rocksdb::FSRandomRWFile>*, IODebugContext*) override {
    return IOStatus::NotSupported(path);
  }
  IOStatus Truncate(const std::string& path, size_t, const IOOptions&, IODebugContext*) override {
    return IOStatus::NotSupported(path);
  }
  IOStatus LinkFile(const std::string& path, const std::string&, const IOOptions&,
                    IODebugContext*) override {
    return IOStatus::NotSupported(path);
  }

 private:
  // The name of a file of the folder; none for the folder itself and for what lies elsewhere.
  // RocksDB spells paths with and without doubled slashes.
  std::optional<std::string> NameOf(const std::string& path) const {
    const std::filesystem::path normal = std::filesystem::path(path).lexically_normal();
    if (normal.parent_path() != folder_->path() || !normal.has_filename()) return std::nullopt;
    if (normal.filename() == "LOCK") return std::nullopt;
    return normal.filename();
  }
  bool IsFolder(const std::string& path) const {
    const std::filesystem::path normal = std::filesystem::path(path).lexically_normal();
    return normal == folder_->path() ||
           (!normal.has_filename() && normal.parent_path() == folder_->path());
  }

  const std::shared_ptr<UnsyncedFolder> folder_;
};

}  // namespace

UnsyncedFiles::UnsyncedFiles(std::shared_ptr<UnsyncedFolder> folder)
    : folder_(std::move(folder)), file_system_(std::make_shared<FolderFiles>(folder_)) {}
UnsyncedFiles::~UnsyncedFiles() = default;

absl::StatusOr<std::unique_ptr<UnsyncedFiles>> UnsyncedFiles::Start(
    const std::string& folder, uint64_t seed, const DiskFaultProbabilities& probability) {
  auto unsynced = std::make_shared<UnsyncedFolder>(
      std::filesystem::path(folder + "/").lexically_normal().parent_path(), seed, probability);
  RETURN_IF_ERROR(unsynced->Load());
  return std::unique_ptr<UnsyncedFiles>(new UnsyncedFiles(std::move(unsynced)));
}

void UnsyncedFiles::SetCapacity(uint64_t bytes, bool quota) { folder_->SetCapacity(bytes, quota); }
void UnsyncedFiles::Arm(DiskFault fault, uint64_t nth) { folder_->Arm(fault, nth); }
uint64_t UnsyncedFiles::Bytes() const { return folder_->Bytes(); }
void UnsyncedFiles::Crash() { folder_->Crash(); }
void UnsyncedFiles::CrashAt(uint64_t nth) { folder_->CrashAt(nth); }
}  // namespace sounder::kv_node
