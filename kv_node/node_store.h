// A node's disk: options, and what is started on it, in order.
#ifndef SOUNDER_KV_NODE_NODE_STORE_H_
#define SOUNDER_KV_NODE_NODE_STORE_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/thread_executor.h"
#include "common/config/option_set.h"
#include "kv_node/session/session_map.h"
#include "kv_node/store/linux_disk.h"
#include "kv_node/store/record_store.h"
#include "kv_node/store/row_cache.h"
#include "kv_node/store/row_source.h"
#include "kv_node/store/segment_log.h"
#include "kv_node/store/segment_store.h"

namespace sounder::kv_node {

struct StoreOptions {
  std::string folder;                       // empty: no disk
  int64_t row_cache_percent = 25;           // of --memory
  int64_t spill_rate = int64_t{512} << 20;  // bytes a second
  bool page_cache = false;
  bool io_uring = true;
  bool discard_damaged = false;
  JournalOptions journal;
};

void DeclareStore(config::OptionSet& set, StoreOptions* options);
// Bytes of `memory` for sessions: all but what a disk's rows that recur have, if there is a disk.
uint64_t SessionBytes(const StoreOptions& options, uint64_t memory);

// The folder's segments/ and records/ and what reads and writes them. It outlives the sessions;
// thread safe.
class NodeStore {
 public:
  // Makes the folder if it is not there (its parent must be, or NOT_FOUND); null if none is named.
  // `memory`: the node's. FAILED_PRECONDITION for a store of another version and one in use;
  // DATA_LOSS for damage, unless it is to be discarded.
  static absl::StatusOr<std::unique_ptr<NodeStore>> Open(const StoreOptions& options,
                                                         uint64_t memory);
  ~NodeStore();

  // Opens the sessions that the last run left, saying how far it is, and lets what is attended come
  // to memory from now on. Their rows stay on disk until they are needed. Statuses as of Open.
  absl::Status Restore(SessionMap* sessions);

  SessionStores stores() { return {segments_.get(), records_.get(), &budget_}; }
  RowSource* rows() { return &rows_; }
  // "FOLDER: ext4, io_uring, direct".
  const std::string& description() const { return description_; }

 private:
  NodeStore(const StoreOptions& options, uint64_t memory, std::unique_ptr<LinuxDisk> disk)
      : discard_damaged_(options.discard_damaged),
        disk_(std::move(disk)),
        budget_(SessionBytes(options, memory)),
        cache_(memory - SessionBytes(options, memory)),
        rows_(disk_.get(), &cache_) {}

  const bool discard_damaged_;
  const std::unique_ptr<LinuxDisk> disk_;
  std::unique_ptr<RecordStore> records_;
  std::unique_ptr<SegmentLog> log_;
  MemoryBudget budget_;                       // what work in flight holds goes with its end
  std::unique_ptr<base::ThreadExecutor> io_;  // ends before what its work needs
  std::unique_ptr<SegmentStore> segments_;
  RowCache cache_;
  RowSource rows_;
  std::string description_;
};

// Before the end: writes what is not durable yet of durable sessions, and waits for it until
// `until`; what it could not is logged. Begins once the indexes of what was appended are built,
// without which it cannot be, at the latest at `latest`.
void MakeDurable(SessionMap& sessions, base::Executor& executor, base::Time latest,
                 base::Time until);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_NODE_STORE_H_
