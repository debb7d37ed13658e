#include "kv_node/store/record_store.h"

#include <fcntl.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <rocksdb/listener.h>
#include <rocksdb/options.h>
#include <rocksdb/snapshot.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "kv_node/store/disk.h"
#include "kv_node/store/record_walk.h"
#include "kv_node/store/unsynced_files.h"

namespace sounder::kv_node {
namespace {

// Beside the records, whose keys begin with another letter.
constexpr std::string_view kVersionKey = "V";
constexpr std::string_view kBegin = "S", kEnd = "T";  // of records

rocksdb::Slice SliceOf(std::string_view text) { return {text.data(), text.size()}; }

void CheckBatch(const rocksdb::Status& status) { CHECK(status.ok()) << status.ToString(); }

// A disk, or a quota of it, for which RocksDB has no code.
bool IsFull(const rocksdb::Status& status) {
  return status.IsNoSpace() ||
         (status.IsIOError() && status.ToString().find(std::strerror(EDQUOT)) != std::string::npos);
}

absl::Status FromRocks(const std::string& folder, const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string what = absl::StrCat(folder, ": ", status.ToString());
  if (IsFull(status)) return absl::ResourceExhaustedError(what);
  if (status.IsIOError() || status.IsCorruption() || status.IsNotFound()) {
    return absl::DataLossError(what);
  }
  return absl::InternalError(what);
}

class NoLog final : public rocksdb::Logger {
 public:
  NoLog() : rocksdb::Logger(rocksdb::InfoLogLevel::FATAL_LEVEL) {}
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

// After an error in the background RocksDB waits a second for better times, and closing waits for
// that. Here the next commit opens anew instead.
class StoreEnv final : public rocksdb::EnvWrapper {
 public:
  explicit StoreEnv(const std::shared_ptr<rocksdb::FileSystem>& files)
      : rocksdb::EnvWrapper(rocksdb::NewCompositeEnv(files)) {
    file_system_ = files;
  }
  void SleepForMicroseconds(int us) override {
    rocksdb::EnvWrapper::SleepForMicroseconds(std::min(us, 10'000));
  }
};

// A flush or compaction that failed stops all that comes after it.
class FailureListener final : public rocksdb::EventListener {
 public:
  FailureListener(std::atomic<bool>* failed, std::atomic<bool>* full)
      : failed_(failed), full_(full) {}
  void OnBackgroundError(rocksdb::BackgroundErrorReason, rocksdb::Status* error) override {
    full_->store(IsFull(*error));
    failed_->store(true);
  }

 private:
  std::atomic<bool>* const failed_;
  std::atomic<bool>* const full_;
};

rocksdb::Options OptionsOf(const RecordStoreOptions& options, rocksdb::Env* env,
                           const std::shared_ptr<FailureListener>& listener) {
  rocksdb::BlockBasedTableOptions table;
  table.checksum = rocksdb::kXXH3;  // the build's CRC32C is software
  table.no_block_cache = true;      // read once, at the start
  rocksdb::Options result;
  result.env = env;
  result.create_if_missing = true;
  result.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  result.compression = rocksdb::kNoCompression;
  result.write_buffer_size = options.buffer_bytes;
  result.max_write_buffer_number = 2;
  result.max_bytes_for_level_base = 4 * options.buffer_bytes;
  result.target_file_size_base = options.buffer_bytes;
  result.manifest_preallocation_size = 64 << 10;
  result.max_open_files = 64;
  result.max_background_jobs = 2;
  result.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  result.max_bgerror_resume_count = 0;  // errors end in one way: opening anew
  result.stats_dump_period_sec = 0;
  result.stats_persist_period_sec = 0;
  result.info_log = std::make_shared<NoLog>();
  result.listeners.push_back(listener);
  return result;
}

// The file by which RocksDB keeps others out of a folder.
class FolderLock {
 public:
  static absl::StatusOr<std::unique_ptr<FolderLock>> Take(rocksdb::FileSystem* files,
                                                          const std::string& folder) {
    rocksdb::FileLock* lock = nullptr;
    const rocksdb::IOStatus status = files->LockFile(folder + "/LOCK", {}, &lock, nullptr);
    if (status.ok()) return std::unique_ptr<FolderLock>(new FolderLock(files, lock));
    if (IsFull(status)) return FromRocks(folder, status);
    const std::string text = status.ToString();
    // RocksDB has no code for it.
    const bool is_held = text.find("lock hold by current process") != text.npos ||
                         text.find(std::strerror(EAGAIN)) != text.npos;
    if (!is_held) {
      return absl::FailedPreconditionError(absl::StrCat(folder, ": cannot be locked (", text, ")"));
    }
    return absl::FailedPreconditionError(
        absl::StrCat(folder, ": in use by another process, or twice by this one (", text, ")"));
  }
  ~FolderLock() { files_->UnlockFile(lock_, {}, nullptr).PermitUncheckedError(); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  FolderLock(rocksdb::FileSystem* files, rocksdb::FileLock* lock) : files_(files), lock_(lock) {}

  rocksdb::FileSystem* const files_;
  rocksdb::FileLock* const lock_;
};

// One spelling of a folder: by it a process knows its own lock.
std::string WithoutSlash(std::string folder) {
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return folder;
}

// Where a rewritten store is made.
std::string OtherFolderOf(const std::string& folder) { return folder + ".new"; }

absl::Status RemoveFolder(const std::string& folder) {
  std::error_code error;
  std::filesystem::remove_all(folder, error);
  if (!error) return absl::OkStatus();
  return DiskError(error.value(), folder + ": cannot remove");
}

}  // namespace

class RecordStore::Database {
 public:
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& folder,
                                                        const RecordStoreOptions& options,
                                                        std::atomic<bool>* failed,
                                                        std::atomic<bool>* full) {
    const std::shared_ptr<rocksdb::FileSystem> files =
        options.files != nullptr ? options.files->file_system() : rocksdb::FileSystem::Default();
    // RocksDB reports a lock as any other error.
    RETURN_IF_ERROR(FolderLock::Take(files.get(), folder).status());
    std::unique_ptr<Database> database(new Database(files));
    rocksdb::DB* db = nullptr;
    RETURN_IF_ERROR(FromRocks(
        folder, rocksdb::DB::Open(OptionsOf(options, &database->env_,
                                            std::make_shared<FailureListener>(failed, full)),
                                  folder, &db)));
    database->db_.reset(db);
    RETURN_IF_ERROR(database->CheckVersion(folder));
    return database;
  }

  rocksdb::DB& db() { return *db_; }

  std::unique_ptr<rocksdb::Iterator> NewIterator(const rocksdb::Snapshot* snapshot = nullptr) {
    rocksdb::ReadOptions options;
    options.snapshot = snapshot;
    options.iterate_lower_bound = &begin_;
    options.iterate_upper_bound = &end_;
    return std::unique_ptr<rocksdb::Iterator>(db_->NewIterator(options));
  }

 private:
  explicit Database(const std::shared_ptr<rocksdb::FileSystem>& files) : env_(files) {}

  absl::Status CheckVersion(const std::string& folder) {
    std::string value;
    const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), SliceOf(kVersionKey), &value);
    if (status.ok()) {
      const std::string version = absl::StrCat(kRecordsVersion);
      if (value == version) return absl::OkStatus();
      return absl::FailedPreconditionError(absl::StrCat(
          folder, ": a store of format version ", value, "; this program reads version ", version));
    }
    if (!status.IsNotFound()) return FromRocks(folder, status);
    const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions()));
    it->SeekToFirst();
    RETURN_IF_ERROR(FromRocks(folder, it->status()));
    if (it->Valid()) {
      return absl::FailedPreconditionError(
          absl::StrCat(folder, ": a database, but not one of records: it names no version"));
    }
    rocksdb::WriteOptions write;
    write.sync = true;
    return FromRocks(folder, db_->Put(write, SliceOf(kVersionKey), absl::StrCat(kRecordsVersion)));
  }

  const rocksdb::Slice begin_ = SliceOf(kBegin), end_ = SliceOf(kEnd);
  StoreEnv env_;
  std::unique_ptr<rocksdb::DB> db_;
};

RecordBatch::RecordBatch() : batch_(std::make_unique<rocksdb::WriteBatch>()) {}
RecordBatch::~RecordBatch() = default;
RecordBatch::RecordBatch(RecordBatch&&) noexcept = default;
RecordBatch& RecordBatch::operator=(RecordBatch&&) noexcept = default;

void RecordBatch::Put(const EncodedRecord& record) {
  CheckBatch(batch_->Put(record.key, record.value));
}

void RecordBatch::PutSession(const SessionRecord& record) { Put(EncodeRecord(record)); }

void RecordBatch::RemoveSession(const base::SessionId& session) {
  CheckBatch(batch_->DeleteRange(BeginOfSession(session), EndOfSession(session)));
}

void RecordBatch::PutSegment(const base::SessionId& session, const SegmentRecord& record) {
  Put(EncodeRecord(session, record));
}

void RecordBatch::RemoveSegment(const base::SessionId& session, uint32_t layer, uint32_t kv_head,
                                base::Position first_position) {
  CheckBatch(
      batch_->Delete(EncodeKey({session, RecordKind::kSegment, layer, kv_head, first_position})));
}

void RecordBatch::PutTail(const base::SessionId& session, const TailRecord& record) {
  Put(EncodeRecord(session, record));
}

void RecordBatch::RemoveTails(const base::SessionId& session, uint32_t layer, uint32_t kv_head,
                              base::Position position) {
  const RecordKey begin{session, RecordKind::kTail, layer, kv_head, position};
  RecordKey last = begin;
  last.first_position = base::kMaxPositions;
  CheckBatch(batch_->DeleteRange(EncodeKey(begin), EncodeKey(last) + '\0'));
}

void RecordBatch::PutTokens(const base::SessionId& session, const TokenRecord& record) {
  Put(EncodeRecord(session, record));
}

void RecordBatch::RemoveTokensFrom(const base::SessionId& session, base::Position position) {
  CHECK(position % kTokenBlock == 0) << position;
  CheckBatch(batch_->DeleteRange(EncodeKey({session, RecordKind::kTokens, 0, 0, position}),
                                 EndOfSession(session)));
}

bool RecordBatch::empty() const { return batch_->Count() == 0; }

RecordStore::RecordStore(std::string folder, RecordStoreOptions options)
    : folder_(WithoutSlash(std::move(folder))), options_(options) {}
RecordStore::~RecordStore() = default;

absl::StatusOr<std::unique_ptr<RecordStore>> RecordStore::Open(const std::string& folder,
                                                               RecordStoreOptions options) {
  std::unique_ptr<RecordStore> store(new RecordStore(folder, options));
  RETURN_IF_ERROR(MakeDurableFolder(folder));
  RETURN_IF_ERROR(store->OpenDatabase());
  // What a crash left of Rewrite: not finished, or of before. Only who has the folder may.
  RETURN_IF_ERROR(RemoveFolder(OtherFolderOf(store->folder_)));
  return store;
}

absl::Status RecordStore::OpenDatabase() {
  database_.reset();
  failed_ = false;  // from here on the new one's
  auto database = Database::Open(folder_, options_, &failed_, &full_);
  if (!database.ok()) {
    failed_ = true;
    return database.status();
  }
  database_ = *std::move(database);
  return absl::OkStatus();
}

absl::Status RecordStore::Reopen() {
  RETURN_IF_ERROR(OpenDatabase());
  ++reopens_;
  return absl::OkStatus();
}

absl::StatusOr<std::shared_lock<std::shared_mutex>> RecordStore::Use() {
  while (true) {
    std::shared_lock lock(mutex_);
    if (!failed_) return lock;
    lock.unlock();
    const std::unique_lock alone(mutex_);
    if (!failed_) continue;  // somebody else did it
    RETURN_IF_ERROR(Reopen());
  }
}

absl::Status RecordStore::Commit(const RecordBatch& batch) {
  if (batch.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const auto lock, Use());
  rocksdb::WriteOptions options;
  options.sync = true;
  const rocksdb::Status status = database_->db().Write(options, batch.batch_.get());
  if (!status.ok()) failed_ = true;
  if (status.IsIncomplete()) {  // did not wait for what failed in the background
    return absl::Status(full_ ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kDataLoss,
                        absl::StrCat(folder_, ": ", status.ToString()));
  }
  return FromRocks(folder_, status);
}

absl::StatusOr<VisitResult> RecordStore::Visit(RecordVisitor& visitor) {
  ASSIGN_OR_RETURN(const auto lock, Use());
  rocksdb::ManagedSnapshot now(&database_->db());
  return WalkRecords([&] { return database_->NewIterator(now.snapshot()); }, visitor);
}

absl::StatusOr<VisitResult> RecordStore::Rewrite() {
  CHECK(options_.files == nullptr);
  const std::unique_lock alone(mutex_);
  if (failed_) RETURN_IF_ERROR(Reopen());
  const std::string other = OtherFolderOf(folder_);
  RETURN_IF_ERROR(RemoveFolder(other));
  VisitResult result;
  {
    ASSIGN_OR_RETURN(const std::unique_ptr<RecordStore> copy, Open(other, options_));
    ASSIGN_OR_RETURN(result, CopyRecords([this] { return database_->NewIterator(); }, copy.get()));
  }
  database_.reset();
  failed_ = true;  // until it is open again
  RETURN_IF_ERROR(Swap(other));
  RETURN_IF_ERROR(OpenDatabase());
  RemoveFolder(other).IgnoreError();  // else the next Open does
  return result;
}

absl::Status RecordStore::Swap(const std::string& other) {
  // The database is closed: others are still to be kept out.
  const std::shared_ptr<rocksdb::FileSystem> files = rocksdb::FileSystem::Default();
  ASSIGN_OR_RETURN(const auto lock, FolderLock::Take(files.get(), folder_));
  if (renameat2(AT_FDCWD, folder_.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE) != 0) {
    return DiskError(errno, absl::StrCat(folder_, ": swapping with ", other));
  }
  return MakeDurableFolder(folder_);  // it is there: this syncs its name
}

}  // namespace sounder::kv_node
