// A sealed segment of the sessions that hold it (several, where one was forked from another): its
// rows and index while they are in memory, where they lie in the store, and its share of the memory
// budget. It is in one of three states:
//
//   hot   rows and index are in memory
//   warm  the index is; a step reads from the store the rows it samples
//   cold  neither is; it must be opened before it can be attended
//
// What is dropped from memory lies in the store first, so every state gives the same answers.
#ifndef SOUNDER_KV_NODE_SESSION_SEALED_SEGMENT_H_
#define SOUNDER_KV_NODE_SESSION_SEALED_SEGMENT_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "kv_node/sampler/sampler.h"
#include "kv_node/segment/segment.h"
#include "kv_node/session/memory_budget.h"
#include "kv_node/session/session_life.h"
#include "kv_node/store/records.h"
#include "kv_node/store/segment_store.h"

namespace sounder::kv_node {

// What an attend needs of a segment, unchanged for whoever holds it.
struct SegmentView {
  std::shared_ptr<const Segment> segment;      // with its index; null: cold
  std::shared_ptr<const SegmentRows> rows;     // null: to be read from the store
  std::shared_ptr<const SegmentReader> store;  // null: not stored (then there are rows)
  bool ready = false;                          // the segment's index may be asked for
};

enum class Residency : uint8_t { kHot, kWarm, kCold };

// What can be done with it: nothing sampled yet, anything, nothing until it is opened.
enum class SegmentPhase : uint8_t { kBuilding, kOpen, kCold };

// Thread safe. Owned by shared_ptr: sessions, plans in flight, and work of the store's.
class SealedSegment : public std::enable_shared_from_this<SealedSegment> {
 public:
  // A hot segment. `sampler` builds and reads its index; null: it gets none. `index` is room for
  // the index, which the segment has not got yet. `marks`: the ends of what it was merged from, but
  // for its own.
  SealedSegment(std::unique_ptr<Segment> segment, std::shared_ptr<const Sampler> sampler,
                Reservation rows, Reservation index, std::vector<base::Position> marks = {});
  // A cold one. `store` and `budget` outlive the segment.
  SealedSegment(const SegmentShape& shape, std::shared_ptr<const Sampler> sampler,
                std::shared_ptr<const StoredSegment> stored, const ContentHash& content_hash,
                SegmentStore* store, MemoryBudget* budget, std::vector<base::Position> marks = {});

  const SegmentShape& shape() const { return shape_; }
  base::PositionRange range() const {
    return {shape_.first_position, shape_.first_position + shape_.num_rows};
  }
  const std::vector<base::Position>& marks() const { return marks_; }
  SegmentView View() const;
  Residency residency() const;

  // The index has been built, or none is needed.
  bool built() const;
  // And is in memory: a segment that became cold is not ready until it is opened.
  bool ready() const { return ready_.load(std::memory_order_acquire); }
  // Once. Accounts the index (none: attended exactly) and its copies of rows: together within the
  // room there was. Calls those who wait.
  void SetReady(BuiltIndex built);
  // `done` will be called when the phase is over, or an opening failed; false, and it will not, if
  // the segment is in another phase.
  bool Watch(SegmentPhase phase, std::function<void()> done);
  // Why the last opening failed; OK from the next one's begin on.
  absl::Status open_error() const;
  // Its rows are being read back.
  bool loading() const { return loading_.load(); }

  // The clock of last use, and until when it is to stay in memory (in the node's clock).
  void Touch(base::Time now) { last_use_.store(now.time_since_epoch().count()); }
  base::Time last_use() const { return base::Time(base::Duration(last_use_.load())); }
  // `soft`: unless nothing else can leave it.
  void PinUntil(base::Time until, bool soft) {
    soft_pin_.store(soft);
    pinned_until_.store(until.time_since_epoch().count());
  }
  bool pinned(base::Time now) const {
    return now.time_since_epoch().count() < pinned_until_.load();
  }
  bool soft_pin() const { return soft_pin_.load(); }

  // A session that holds it, from now on.
  void AddLife(std::weak_ptr<const SessionLife> life);
  // All sessions that held it have ended by then, as far as is known.
  bool DiesBefore(base::Time when) const;

  // Writes rows and index to the store, unless they are there: where they are. Blocks on the disk;
  // one caller at a time, others wait. `store` outlives the segment. FAILED_PRECONDITION before the
  // index is built; the store's statuses.
  absl::StatusOr<std::shared_ptr<const StoredSegment>> Write(SegmentStore* store);
  // What was written to that place may never be durable (SegmentLog::MakeDurable): the next Write
  // writes anew. False, and nothing has changed, if the rows are not in memory to do so.
  bool ForgetStored(const std::shared_ptr<const StoredSegment>& place);
  // Null: not stored.
  std::shared_ptr<const StoredSegment> stored() const;
  // Of the rows, once they are stored.
  ContentHash content_hash() const;

  // Hot to warm, warm to cold: what is stored leaves the memory and the budget; returns the bytes
  // that came back, 0 if it is not stored, not in that state, or in use by an attend.
  uint64_t DropRows();
  uint64_t DropIndex();
  // Cold to warm: reads the index. `room`: OpenBytes(), of which the segment keeps what it needs.
  // Whoever watches is called, and `over` at last, when nothing of what was read is left but that.
  // False, and nothing is called, if it is not cold or is being opened.
  bool Open(Reservation room, std::function<void()> over);
  uint64_t OpenBytes() const;
  // Tells whoever watches a cold segment that it will not be opened, and why.
  void FailOpening(absl::Status why);
  // Warm to hot: reads the rows. `room`: LoadBytes(). `done` is called once, also inside the call,
  // with the store's statuses; a segment that is not warm is OK.
  using Loaded = std::function<void(absl::Status)>;
  void Load(Reservation room, Loaded done);
  uint64_t LoadBytes() const;

  uint64_t row_bytes() const;  // of the budget, with an index's copies of rows
  uint64_t index_bytes() const;

  // For a session that holds it alone and is about to let go of it: its share of the budget changes
  // hands, and back if it does not. An index that comes meanwhile, or after, is dropped.
  struct Share {
    uint64_t rows = 0;
    uint64_t index = 0;
  };
  Share GiveReservation(Reservation* to);
  void TakeReservation(const Share& share, Reservation* from);

  std::atomic<int> holders{0};

 private:
  SegmentPhase PhaseLocked() const;
  void OnOpened(absl::StatusOr<std::shared_ptr<SegmentReader>> opened, Reservation room);
  absl::StatusOr<std::shared_ptr<Segment>> SegmentOf(std::span<const std::byte> index) const;

  const SegmentShape shape_;
  const std::shared_ptr<const Sampler> sampler_;
  const std::vector<base::Position> marks_;
  std::atomic<bool> ready_{false};
  std::atomic<bool> loading_{false};
  std::atomic<int64_t> last_use_{0};
  std::atomic<int64_t> pinned_until_{0};
  std::atomic<bool> soft_pin_{false};
  std::mutex write_mutex_;            // of Write; before mutex_
  mutable std::mutex mutex_;          // guards everything below
  std::shared_ptr<Segment> segment_;  // null: cold
  std::shared_ptr<const StoredSegment> stored_;
  std::shared_ptr<const SegmentReader> reader_;
  SegmentStore* store_ = nullptr;
  ContentHash content_hash_{};
  bool opening_ = false;
  absl::Status open_error_;
  Reservation rows_;
  Reservation index_;  // with what the reader takes
  bool given_ = false;
  std::vector<std::function<void()>> watchers_;
  std::vector<std::weak_ptr<const SessionLife>> lives_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_SEALED_SEGMENT_H_
