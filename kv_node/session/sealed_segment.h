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

#include "common/base/ids.h"
#include "kv_node/segment/segment.h"
#include "kv_node/session/memory_budget.h"
#include "kv_node/store/segment_reader.h"

namespace sounder::kv_node {

// What an attend needs of a segment, unchanged for whoever holds it.
struct SegmentView {
  std::shared_ptr<const Segment> segment;      // with its index
  std::shared_ptr<const SegmentRows> rows;     // null: to be read from the store
  std::shared_ptr<const SegmentReader> store;  // null: not stored (then there are rows)
};

// Thread safe.
class SealedSegment {
 public:
  // A hot segment. `index` is room for the index, which the segment has not got yet.
  SealedSegment(std::unique_ptr<Segment> segment, Reservation rows, Reservation index)
      : shape_(segment->shape()),
        segment_(std::move(segment)),
        rows_(std::move(rows)),
        index_(std::move(index)) {}

  const SegmentShape& shape() const { return shape_; }
  base::PositionRange range() const {
    return {shape_.first_position, shape_.first_position + shape_.num_rows};
  }
  SegmentView View() const;

  // The index has been built, or none is needed. Only then may segment().index() be looked at.
  bool ready() const { return ready_.load(std::memory_order_acquire); }
  // Once. Accounts the index (none: attended exactly) and its copies of rows: together within the
  // room there was. Calls those who wait.
  void SetReady(BuiltIndex built);
  // `done` will be called when the segment is ready; false, and it will not, if it is.
  bool Watch(std::function<void()> done);

  // The rows can be read from the store from now on.
  void SetStored(std::shared_ptr<const SegmentReader> store);
  // Takes the rows from memory, and gives back what they took of the budget; false if they are not
  // stored or not there. Who attends them holds them for that long.
  bool DropRows();

  uint64_t row_bytes() const;  // of the budget, with an index's copies of rows
  uint64_t index_bytes() const;

  // For a session that holds it alone and is about to let go of it: its share of the budget changes
  // hands, and back. An index that comes later is dropped.
  void GiveReservation(Reservation* to);
  void TakeReservation(Reservation* from);

  std::atomic<int> holders{0};

 private:
  const SegmentShape shape_;
  std::atomic<bool> ready_{false};
  mutable std::mutex mutex_;  // guards everything below
  const std::shared_ptr<Segment> segment_;
  std::shared_ptr<const SegmentReader> store_;
  Reservation rows_;
  Reservation index_;
  bool given_ = false;
  std::vector<std::function<void()>> watchers_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_SEALED_SEGMENT_H_
