// What a session says of itself.
#include <algorithm>

#include "common/base/limits.h"
#include "kv_node/session/session.h"

namespace sounder::kv_node {

wire::SessionInfo Session::Info() const {
  wire::SessionInfo info;
  info.spec = spec_;
  const SessionCounts counts = Counts();
  info.rows = counts.rows;
  info.segments = counts.segments;
  info.row_bytes = counts.row_bytes;
  info.index_bytes = counts.index_bytes;
  info.shared_bytes = counts.shared_bytes;
  for (const auto& segment : Segments()) {
    const Residency residency = segment->residency();
    info.warm_segments += residency == Residency::kWarm;
    info.cold_segments += residency == Residency::kCold;
    if (const auto stored = segment->stored()) info.stored_bytes += stored->live().bytes;
  }
  std::lock_guard lock(mutex_);
  if (journal_ != nullptr) {
    info.durable_position = std::min(journal_->durable_position(), unchanged_before_);
  }
  info.spec.session.epoch = epoch_;
  const base::Duration pinned = pinned_until_ - executor_->clock().Now();
  info.pinned_seconds = static_cast<uint32_t>(
      std::chrono::ceil<std::chrono::seconds>(std::max(pinned, base::Duration(0))).count());
  info.pinned_softly = soft_pin_ && info.pinned_seconds > 0;
  info.applied_sequence = applied_;
  info.tokens = tokens_.count();
  info.parent = parent_;
  info.fork_position = fork_position_;
  if (spec_.ttl_seconds > 0) {
    const base::Duration left = life_->end() - executor_->clock().Now();
    info.ttl_remaining_seconds = static_cast<uint32_t>(
        std::chrono::ceil<std::chrono::seconds>(std::max(left, base::Duration(0))).count());
  }
  if (streams_.empty()) return info;  // closed
  info.first_position = streams_.front().first_position();
  info.end_position = streams_.front().end_position();
  info.head_ends.assign(spec_.kv_head_count, base::kMaxPositions);
  for (size_t i = 0; i < streams_.size(); ++i) {
    const base::Position end = streams_[i].end_position();
    info.first_position = std::min(info.first_position, streams_[i].first_position());
    info.end_position = std::min(info.end_position, end);
    base::Position& head_end = info.head_ends[i % spec_.kv_head_count];
    head_end = std::min(head_end, end);
  }
  return info;
}

SessionCounts Session::Counts(SharedBlocks* once) const {
  SessionCounts counts;
  HeldBytes bytes;
  std::lock_guard lock(mutex_);
  for (const RowStream& stream : streams_) {
    counts.rows += static_cast<uint64_t>(stream.rows());
    counts.segments += stream.num_segments();
    stream.Count(&bytes, once);
  }
  tokens_.Count(&bytes, once);
  counts.row_bytes = bytes.rows;
  counts.index_bytes = bytes.index;
  counts.shared_bytes = bytes.shared;
  counts.reserved_bytes = bytes.rows + bytes.index + bytes.other + fixed_.bytes();
  for (const auto& [sequence, operation] : queued_) {
    counts.reserved_bytes += operation.reservation.bytes();
  }
  return counts;
}

}  // namespace sounder::kv_node
