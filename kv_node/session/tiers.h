// Keeps a node's memory below its cap by what the store can hold: segments that have not been
// attended for longest leave memory first, rows before indexes; what is attended comes back.
//
// Between two watermarks of the memory cap: above the high one segments are written to the store,
// no faster than a rate, and dropped, until the low one; below the low one rows of segments that
// are being attended are brought back. So what fits stays, and nothing goes back and forth.
#ifndef SOUNDER_KV_NODE_SESSION_TIERS_H_
#define SOUNDER_KV_NODE_SESSION_TIERS_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "common/base/executor.h"
#include "kv_node/session/memory_budget.h"
#include "kv_node/session/sealed_segment.h"
#include "kv_node/store/segment_store.h"

namespace sounder::kv_node {

struct TierOptions {
  double high = .92;  // of the memory cap
  double low = .84;
  uint64_t write_bytes_per_second = uint64_t{512} << 20;     // to make room
  base::Duration interval = std::chrono::milliseconds(200);  // of looking for rows to bring back
  // Rows come back that were attended within this time.
  base::Duration recent = std::chrono::seconds(2);
  // Of rows brought back in an interval: no more than a sixteenth of the memory cap.
  uint64_t load_bytes = uint64_t{64} << 20;

  // Of indexes that are being read: more wait. At most a sixteenth of the memory cap, or one.
  uint64_t open_bytes = uint64_t{64} << 20;
};

struct TierCensus {
  uint64_t hot_segments = 0;
  uint64_t warm_segments = 0;
  uint64_t cold_segments = 0;
};

struct TierCounters {
  uint64_t spilled_segments = 0;  // rows dropped from memory, ever
  uint64_t evicted_indexes = 0;   // indexes
  uint64_t opened_segments = 0;
  uint64_t loaded_segments = 0;
  uint64_t failed_writes = 0;
  uint64_t failed_reads = 0;
};

// Thread safe. Its work runs on the store's io executor; what has not run when it is destroyed will
// not run. Segments and their opening go on without it.
class Tiers {
 public:
  using Done = std::function<void(absl::Status)>;

  // All outlive it. Becomes what the budget asks for room.
  Tiers(const TierOptions& options, SegmentStore* store, MemoryBudget* budget);
  ~Tiers();

  // From now on the segment may leave memory, once it is ready.
  void Add(const std::shared_ptr<SealedSegment>& segment);
  // To be called when memory was taken: makes room in the background if it is scarce.
  void Check();
  // Memory is above the high watermark: writers should wait, until `relieved` is called: once, when
  // what could be done about it has been done.
  bool scarce() const { return budget_->used() > high_; }
  void WhenRelieved(std::function<void()> relieved);

  // Opens a cold segment when its turn has come and there is room for its index. Whoever watches it
  // is told, also when there is none after a second.
  void Open(std::shared_ptr<SealedSegment> segment);
  // Opens it, if need be, and brings its rows to memory. RESOURCE_EXHAUSTED if there is no room,
  // otherwise the store's statuses.
  void Load(std::shared_ptr<SealedSegment> segment, Done done);
  // Writes the segments, if need be, and takes them from memory altogether, those that no attend is
  // using. The first error of the store's; what could be is out of memory nevertheless.
  void Spill(std::vector<std::shared_ptr<SealedSegment>> segments, Done done);

  // Brings rows back every interval from now on, as long as the object lives. Once.
  void Start();

  SegmentStore* store() const { return store_; }
  TierCounters counters() const;
  TierCensus census() const;  // looks at every segment

 private:
  using Segments = std::vector<std::shared_ptr<SealedSegment>>;
  // Shared with work on the executor and on the disk.
  struct Life {
    std::shared_mutex mutex;  // shared while work runs; alone to end it
    Tiers* tiers;             // null: it is gone
    std::atomic<uint64_t> loaded_segments{0};
    std::atomic<uint64_t> failed_reads{0};
  };
  using Task = std::function<void(Tiers&)>;
  void RunAt(base::Time when, Task task);
  void Run(Task task) { RunAt(io_->clock().Now(), std::move(task)); }
  // Those of that residency that are not pinned, the least recently used first; behind them those
  // that are pinned softly.
  Segments Victims(Residency residency);
  Segments All() const;
  uint64_t Reclaim(uint64_t wanted);
  uint64_t DropStoredRows(uint64_t target);
  uint64_t DropStoredIndexes(uint64_t target);
  uint64_t DropStored(Residency of, uint64_t (SealedSegment::*drop)(), uint64_t target,
                      uint64_t TierCounters::*counter);
  void LoadRows(SealedSegment& segment, Done done);
  void StartBalance(uint64_t target);
  void Balance();
  bool DropOne(SealedSegment& victim, uint64_t* written);
  void DropIndexes();
  void EndBalance();
  struct Opening {
    std::shared_ptr<SealedSegment> segment;
    base::Time give_up = base::kNever;  // once there was no room for it
  };
  void OpenNext();
  void OnOpened(uint64_t bytes);
  bool OpenLater(Opening opening, uint64_t bytes, const absl::Status& why);
  void SpillNext(std::shared_ptr<Segments> segments, absl::Status status, Done done);
  void BringBack();

  const TierOptions options_;
  SegmentStore* const store_;
  MemoryBudget* const budget_;
  base::Executor* const io_;
  const uint64_t high_;
  const uint64_t low_;
  const std::shared_ptr<Life> life_;

  mutable std::mutex mutex_;  // guards everything below
  std::vector<std::weak_ptr<SealedSegment>> segments_;
  size_t swept_size_ = 64;  // of segments_, after those that are gone were taken out
  bool balancing_ = false;
  uint64_t target_;  // of the balance: the low watermark, or less if more room was asked for
  base::Time next_balance_{};
  Segments victims_;  // of the balance that goes on; the next one last
  std::vector<std::function<void()>> relieved_;
  std::deque<Opening> opening_;  // those that wait for their turn, or for room
  uint64_t opening_bytes_ = 0;   // of those that do not any more
  bool open_soon_ = false;       // the first one will be tried again
  TierCounters counts_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_TIERS_H_
