// Keeps the records (records.h) of all sessions of a node in a RocksDB, in a folder of its own:
// what a restart finds. What belongs together is committed together: after any crash the records
// show every commit that was acknowledged, and of no commit only a part.
//
// The order that keeps segments (segment_log.h): Append, MakeDurable, then Commit of their records;
// at their end Commit of the records' removal, then Free.
#ifndef SOUNDER_KV_NODE_STORE_RECORD_STORE_H_
#define SOUNDER_KV_NODE_STORE_RECORD_STORE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "kv_node/store/records.h"

namespace rocksdb {
class WriteBatch;
}

namespace sounder::kv_node {

class UnsyncedFiles;

// Changes that are committed together; they take effect in the order of the calls. A Put replaces
// the record that has the same place. Not thread safe.
class RecordBatch {
 public:
  RecordBatch();
  ~RecordBatch();
  RecordBatch(RecordBatch&&) noexcept;
  RecordBatch& operator=(RecordBatch&&) noexcept;

  void PutSession(const SessionRecord& record);
  // Everything there is of it.
  void RemoveSession(const base::SessionId& session);

  void PutSegment(const base::SessionId& session, const SegmentRecord& record);
  void RemoveSegment(const base::SessionId& session, uint32_t layer, uint32_t kv_head,
                     base::Position first_position);

  // Copies the rows.
  void PutTail(const base::SessionId& session, const TailRecord& record);
  // The records of tails that begin at or after `position`. One that a cut goes through begins
  // before it: put that anew.
  void RemoveTails(const base::SessionId& session, uint32_t layer, uint32_t kv_head,
                   base::Position position);

  // All known ids of the block: it replaces what was known of it before.
  void PutTokens(const base::SessionId& session, const TokenRecord& record);
  // Of the blocks at and after `position`, a multiple of kTokenBlock. A block that a cut goes
  // through is to be put anew.
  void RemoveTokensFrom(const base::SessionId& session, base::Position position);

  bool empty() const;

 private:
  friend class RecordStore;
  void Put(const EncodedRecord& record);

  std::unique_ptr<rocksdb::WriteBatch> batch_;
};

// Is told what the records hold. A status that is not OK ends the visit with it. Must not call the
// store.
class RecordVisitor {
 public:
  virtual ~RecordVisitor() = default;
  virtual absl::Status OnSession(const SessionRecord& record) = 0;
  // Of the session that was told last, ascending by (layer, kv head, position): first all segments,
  // then all tails, then all token ids.
  virtual absl::Status OnSegment(const SegmentRecord& record) = 0;
  virtual absl::Status OnTail(const TailRecord& record) = 0;  // its rows: for the call
  virtual absl::Status OnTokens(const TokenRecord& record) = 0;
  // It was told whole.
  virtual absl::Status OnEnd(const base::SessionId& session) = 0;
  // Nothing more comes of it, and what came is to be forgotten.
  virtual absl::Status OnDamaged(const base::SessionId& session, const absl::Status& why) = 0;
};

struct VisitResult {
  uint64_t sessions = 0;  // told whole
  std::vector<std::pair<base::SessionId, absl::Status>> damaged;
  // Places that cannot be read, where nobody knows which sessions lay. Each names the session
  // before and the one behind.
  std::vector<absl::Status> unreadable;
};

struct RecordStoreOptions {
  // Commits are collected in memory up to so many bytes before they are sorted into a file; twice
  // as many are held at most. What is superseded or removed by then is never sorted.
  uint64_t buffer_bytes = uint64_t{8} << 20;
  // For tests: files that lose with the power what was not synced. Outlives the store.
  UnsyncedFiles* files = nullptr;
};

struct RecordStoreCounts {
  uint64_t reopens = 0;  // after errors, see Commit
};

// Thread safe; calls block on the disk. Statuses, unless a call says otherwise: RESOURCE_EXHAUSTED
// when the disk is full, DATA_LOSS when it failed or holds something else than was written.
// Messages name the folder. Beside it, FOLDER.new is the store's as well (Rewrite).
class RecordStore {
 public:
  // Makes the folder, durably, if it is not there (its parent must be: NOT_FOUND).
  // FAILED_PRECONDITION for a store of another version, naming both, for a database that is none of
  // ours, and for a folder that cannot be written to or is in use by another process or another
  // store of this one.
  static absl::StatusOr<std::unique_ptr<RecordStore>> Open(const std::string& folder,
                                                           RecordStoreOptions options = {});
  ~RecordStore();
  RecordStore(const RecordStore&) = delete;
  RecordStore& operator=(const RecordStore&) = delete;

  // Returns when the batch is durable; commits that wait together share a sync of the disk.
  // After an error it is in the records wholly or not at all, and a restart may find either. So the
  // next commit about these sessions says all that is true of them: RemoveSession, then everything.
  // (Segments that a failed batch names or removes stay in the log until then.) The store itself
  // recovers at the next commit, when the disk is well again.
  absl::Status Commit(const RecordBatch& batch);

  // Everything, session by session, in order of their ids, as of now; commits go on meanwhile. One
  // record is in memory at a time. Damage of one session does not hide others.
  absl::StatusOr<VisitResult> Visit(RecordVisitor& visitor);

  // Keeps what a visit tells whole and nothing else: records of damaged sessions, keys that no
  // record has and places that cannot be read are gone for good, and are returned. It is copied
  // into a database in FOLDER.new, which then takes this one's name in one step: after a crash
  // there is either. Needs the space of the copy; everybody else waits. After an error it is
  // one or the other. Not over UnsyncedFiles, which know one folder.
  absl::StatusOr<VisitResult> Rewrite();

  // Without looking at the disk.
  RecordStoreCounts counts() const { return {reopens_}; }

 private:
  class Database;

  RecordStore(std::string folder, RecordStoreOptions options);
  // mutex_ is held alone by these three.
  absl::Status OpenDatabase();
  absl::Status Reopen();
  absl::Status Swap(const std::string& other);
  // Holds off reopening while the lock is there; opens the database anew first, if it failed.
  absl::StatusOr<std::shared_lock<std::shared_mutex>> Use();

  const std::string folder_;
  const RecordStoreOptions options_;
  // Opening is exclusive, use is shared.
  std::shared_mutex mutex_;
  std::unique_ptr<Database> database_;  // null: it could not be opened again
  std::atomic<bool> failed_{false};
  std::atomic<bool> full_{false};  // what failed in the background had no space
  std::atomic<uint64_t> reopens_{0};
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_RECORD_STORE_H_
