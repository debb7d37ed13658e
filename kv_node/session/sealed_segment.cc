#include "kv_node/session/sealed_segment.h"

#include <utility>

#include "common/base/check.h"

namespace sounder::kv_node {

SegmentView SealedSegment::View() const {
  std::lock_guard lock(mutex_);
  return {segment_, segment_->rows(), store_};
}

void SealedSegment::SetReady(BuiltIndex built) {
  std::vector<std::function<void()>> watchers;
  {
    std::lock_guard lock(mutex_);
    CHECK(!ready()) << "the index is set once";
    if (!given_) {
      const uint64_t bytes = built.bytes();
      CHECK(bytes <= index_.bytes()) << bytes << " > " << index_.bytes();
      CHECK(index_.Resize(bytes).ok());
      index_.Give(built.copies.allocated(), &rows_);
      segment_->SetIndex(std::move(built));
    }
    ready_.store(true, std::memory_order_release);
    watchers.swap(watchers_);
  }
  for (const std::function<void()>& done : watchers) done();
}

bool SealedSegment::Watch(std::function<void()> done) {
  std::lock_guard lock(mutex_);
  if (ready()) return false;
  watchers_.push_back(std::move(done));
  return true;
}

uint64_t SealedSegment::row_bytes() const {
  std::lock_guard lock(mutex_);
  return rows_.bytes();
}

uint64_t SealedSegment::index_bytes() const {
  std::lock_guard lock(mutex_);
  return index_.bytes();
}

void SealedSegment::GiveReservation(Reservation* to) {
  std::lock_guard lock(mutex_);
  given_ = true;
  rows_.Give(rows_.bytes(), to);
  index_.Give(index_.bytes(), to);
}

void SealedSegment::TakeReservation(Reservation* from) {
  std::lock_guard lock(mutex_);
  from->Give(from->bytes(), &rows_);
}

void SealedSegment::SetStored(std::shared_ptr<const SegmentReader> store) {
  std::lock_guard lock(mutex_);
  store_ = std::move(store);
}

bool SealedSegment::DropRows() {
  std::shared_ptr<const SegmentRows> rows;  // goes without the lock
  std::lock_guard lock(mutex_);
  rows = segment_->rows();
  if (store_ == nullptr || rows == nullptr || given_ || !ready()) return false;
  segment_->SetRows(nullptr);
  CHECK(rows_.Resize(rows_.bytes() - rows->bytes()).ok());
  return true;
}

}  // namespace sounder::kv_node
