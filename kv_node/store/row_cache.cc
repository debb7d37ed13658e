#include "kv_node/store/row_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/check.h"

namespace sounder::kv_node {
namespace {

// What an allocation takes beside its bytes, and a segment beside its rows (its place in two
// lists, the one of which doubles as it grows).
constexpr uint64_t kPerAllocation = 16;
constexpr uint64_t kPerSegment = 160;
constexpr uint8_t kMostRounds = 3;

}  // namespace

bool RowCache::Before(const Entry& entry, uint32_t row) { return entry.row < row; }

uint64_t RowCache::EntryBytes(size_t row_bytes) {
  return row_bytes + sizeof(Entry) + kPerAllocation;
}

// An address may have been another segment's before: whoever asks holds his own.
RowCache::Shared RowCache::Of(const std::shared_ptr<const SegmentReader>& segment) const {
  const auto found = segments_.find(segment.get());
  return found == segments_.end() || found->second->owner.expired() ? nullptr : found->second;
}

void RowCache::Find(const std::shared_ptr<const SegmentReader>& segment,
                    std::span<const uint16_t> rows, std::span<std::byte> keys,
                    std::span<std::byte> values, std::vector<uint32_t>* missing) {
  Shared kept;
  if (capacity_ > 0) {
    std::lock_guard lock(mutex_);
    kept = Of(segment);
  }
  const size_t before = missing->size();
  const size_t half = segment->shape().row_bytes() / 2;
  CHECK(keys.size() >= rows.size() * half && values.size() >= rows.size() * half);
  std::unique_lock<std::mutex> lock;
  std::span<Entry> left;
  if (kept != nullptr) {
    lock = std::unique_lock(kept->mutex);
    left = kept->entries;
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto at = std::lower_bound(left.begin(), left.end(), rows[i], Before);
    left = left.subspan(static_cast<size_t>(at - left.begin()));
    if (left.empty() || left.front().row != rows[i]) {
      missing->push_back(static_cast<uint32_t>(i));
      continue;
    }
    left.front().stays = std::min<uint8_t>(left.front().stays + 1, kMostRounds);
    std::memcpy(keys.data() + i * half, left.front().bytes.get(), half);
    std::memcpy(values.data() + i * half, left.front().bytes.get() + half, half);
  }
  const size_t missed = missing->size() - before;
  misses_.fetch_add(missed, std::memory_order_relaxed);
  hits_.fetch_add(rows.size() - missed, std::memory_order_relaxed);
}

void RowCache::Keep(const std::shared_ptr<const SegmentReader>& segment,
                    std::span<const uint16_t> rows, std::span<const std::byte> keys,
                    std::span<const std::byte> values, std::span<const uint32_t> places) {
  if (places.empty() || capacity_ == 0) return;
  const uint64_t each = EntryBytes(segment->shape().row_bytes());
  const uint64_t reserved = each * places.size();
  Shared kept;
  {
    std::lock_guard lock(mutex_);
    if (!MakeRoom(reserved + sizeof(SegmentRows) + kPerSegment)) return;
    kept = Of(segment);
    if (kept == nullptr) {
      if (segments_.contains(segment.get())) {
        const auto stale = std::find(ring_.begin(), ring_.end(), segment.get());
        Drop(static_cast<size_t>(stale - ring_.begin()));
      }
      kept = segments_[segment.get()] = std::make_shared<SegmentRows>(segment);
      ring_.push_back(segment.get());
      bytes_ += sizeof(SegmentRows) + kPerSegment;
      // For each that comes two are looked at: those let go of never add up.
      for (int i = 0; i < 2; ++i) {
        swept_ = (swept_ + 1) % ring_.size();
        if (segments_.at(ring_[swept_])->owner.expired()) Drop(swept_);
      }
    }
    bytes_ += reserved;
  }
  std::lock_guard lock(kept->mutex);
  size_t added = 0;
  if (!kept->dropped) {
    const size_t half = kept->row_bytes / 2;
    std::vector<Entry>& entries = kept->entries;
    std::vector<Entry> merged;
    merged.reserve(entries.size() + places.size());
    auto old = entries.begin();
    for (const uint32_t place : places) {
      const uint16_t row = rows[place];
      while (old != entries.end() && old->row < row) merged.push_back(std::move(*old++));
      if (old != entries.end() && old->row == row) continue;  // another thread was faster
      auto bytes = std::make_unique_for_overwrite<std::byte[]>(2 * half);
      std::memcpy(bytes.get(), keys.data() + place * half, half);
      std::memcpy(bytes.get() + half, values.data() + place * half, half);
      merged.push_back({std::move(bytes), row});
      ++added;
    }
    std::move(old, entries.end(), std::back_inserter(merged));
    entries = std::move(merged);
    if (added < places.size()) entries.shrink_to_fit();
  }
  bytes_ -= reserved - each * added;
}

bool RowCache::MakeRoom(uint64_t bytes) {
  if (bytes > capacity_) return false;
  size_t rounds = (kMostRounds + 2) * ring_.size() + 1;  // the first may have begun half way
  while (bytes_ + bytes > capacity_) {
    if (ring_.empty() || rounds == 0) return false;  // the rest is being put in just now
    hand_ %= ring_.size();
    SegmentRows& rows = *segments_.at(ring_[hand_]);
    uint64_t freed = 0;
    bool round = true;
    if (!rows.owner.expired()) {
      round = Evict(rows, bytes_ + bytes - capacity_, &freed);
      bytes_ -= freed;
    }
    bool empty;
    {
      std::lock_guard lock(rows.mutex);
      empty = rows.entries.empty();
    }
    if (empty || rows.owner.expired()) {
      Drop(hand_);
    } else if (round) {
      ++hand_;
    }
    if (round) --rounds;
  }
  return true;
}

bool RowCache::Evict(SegmentRows& rows, uint64_t wanted, uint64_t* freed) {
  std::lock_guard lock(rows.mutex);
  const uint64_t each = EntryBytes(rows.row_bytes);
  std::vector<Entry>& entries = rows.entries;
  auto out = static_cast<size_t>(
      std::lower_bound(entries.begin(), entries.end(), rows.hand, Before) - entries.begin());
  size_t in = out;
  for (; in < entries.size() && *freed < wanted; ++in) {
    if (entries[in].stays > 0) {
      --entries[in].stays;
      if (out != in) entries[out] = std::move(entries[in]);
      ++out;
    } else {
      *freed += each;
      evicted_.fetch_add(1, std::memory_order_relaxed);
    }
  }
  const bool round = in == entries.size();
  entries.erase(entries.begin() + static_cast<ptrdiff_t>(out),
                entries.begin() + static_cast<ptrdiff_t>(in));
  entries.shrink_to_fit();
  rows.hand = round ? 0 : entries[out].row;
  return round;
}

void RowCache::Drop(size_t place) {
  const auto found = segments_.find(ring_[place]);
  {
    std::lock_guard lock(found->second->mutex);
    SegmentRows& rows = *found->second;
    rows.dropped = true;
    bytes_ -= EntryBytes(rows.row_bytes) * rows.entries.size() + sizeof(SegmentRows) + kPerSegment;
    rows.entries = std::vector<Entry>();
  }
  segments_.erase(found);
  ring_[place] = ring_.back();
  ring_.pop_back();
  if (ring_.empty()) swept_ = 0;
  if (!ring_.empty()) swept_ %= ring_.size();
}

RowCacheCounts RowCache::counts() const {
  return {hits_.load(std::memory_order_relaxed), misses_.load(std::memory_order_relaxed),
          evicted_.load(std::memory_order_relaxed)};
}

}  // namespace sounder::kv_node
