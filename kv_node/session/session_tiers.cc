// A session whose segments are not all in memory.
#include <utility>

#include "common/base/check.h"
#include "kv_node/session/session.h"

namespace sounder::kv_node {

absl::StatusOr<bool> Session::AllOpen(uint32_t layer, uint32_t head_begin, uint32_t heads,
                                      base::PositionRange range) {
  if (tiers_ == nullptr) return true;
  const base::Time now = executor_->clock().Now();
  bool all = true;
  absl::Status status;
  for (uint32_t head = 0; head < heads; ++head) {
    Stream(layer, head_begin + head).VisitSegments(range, [&](const Held<SealedSegment>& held) {
      held->Touch(now);
      if (held->residency() != Residency::kCold) return;
      all = false;
      status.Update(held->TakeError());
      if (!status.ok() || opening_.contains(held.block().get())) return;
      if (!held->Watch([weak = weak_from_this(), watched = held.block().get()] {
            if (const auto self = weak.lock()) self->OnIndexed(watched);
          })) {
        return;  // it was just opened: the next look will find it
      }
      opening_.insert(held.block().get());
      // Not in the hold of the lock, which whoever is told of the end takes.
      executor_->Run([tiers = tiers_, segment = held.block()] { tiers->Open(segment); });
    });
  }
  if (!status.ok()) return status;
  return all;
}

bool Session::AnyGone(const std::vector<std::vector<Piece>>& pieces) {
  for (const std::vector<Piece>& of_head : pieces) {
    for (const Piece& piece : of_head) {
      if (piece.holder != nullptr && piece.segment == nullptr) return true;
    }
  }
  return false;
}

bool Session::HoldCuts(const wire::AppendItem& item) {
  if (loading_cuts_ > 0) return false;
  for (uint32_t head = 0; head < item.kv_head_count; ++head) {
    std::shared_ptr<SealedSegment> away = Stream(item.layer, item.kv_head_begin + head).HoldCut();
    if (away == nullptr) continue;
    CHECK(tiers_ != nullptr);
    ++loading_cuts_;
    executor_->Run([tiers = tiers_, away = std::move(away), weak = weak_from_this()]() mutable {
      tiers->Load(std::move(away), [weak](const absl::Status& status) {
        if (const auto self = weak.lock()) self->OnCutsLoaded(status);
      });
    });
  }
  return loading_cuts_ == 0;
}

// They may have been dropped again: then they are loaded again.
void Session::OnCutsLoaded(const absl::Status& status) {
  Calls calls;
  {
    std::lock_guard lock(mutex_);
    --loading_cuts_;
    if (!closed_.ok()) return;
    const bool waited_for = !queued_.empty() && queued_.begin()->first == applied_ + 1;
    if (!status.ok() && waited_for && failed_.ok()) failed_ = status;
    ApplyQueued(&calls);
  }
  for (const auto& call : calls) call();
}

void Session::WatchRoom() {
  tiers_->WhenRelieved([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->OnRelieved();
  });
}

// Not all that was tried may have made room: somebody else took it, or nothing could leave.
void Session::OnRelieved() {
  Calls calls;
  bool again = false;
  {
    std::lock_guard lock(mutex_);
    if (!closed_.ok()) return;
    WakeWaiters(&calls);
    again = !waiters_.empty() && tiers_->scarce();
  }
  for (const auto& call : calls) call();
  if (again) WatchRoom();
}

void Session::Pin(base::Duration duration) {
  const base::Time until = executor_->clock().Now() + duration;
  std::lock_guard lock(mutex_);
  pinned_until_ = until;
  for (const RowStream& stream : streams_) {
    for (const Held<SealedSegment>& segment : stream.segments()) segment->PinUntil(until);
  }
}

std::vector<std::shared_ptr<SealedSegment>> Session::Segments() const {
  std::vector<std::shared_ptr<SealedSegment>> segments;
  std::lock_guard lock(mutex_);
  for (const RowStream& stream : streams_) {
    for (const Held<SealedSegment>& segment : stream.segments()) {
      const bool built = segment->ready() || segment->residency() == Residency::kCold;
      if (built) segments.push_back(segment.block());
    }
  }
  return segments;
}

}  // namespace sounder::kv_node
