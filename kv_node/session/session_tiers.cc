// A session whose segments are not all in memory.
#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kv_node/session/session.h"

namespace sounder::kv_node {

bool Session::Gather(const Wanted& wanted, Gathering* gathering) {
  // Every segment that was opened wakes it: not worth a look as long as others are missing.
  for (; !gathering->awaited.empty(); gathering->awaited.pop_back()) {
    if (opening_.contains(gathering->awaited.back())) return false;
  }
  for (;;) {
    absl::StatusOr<Pieces> pieces = Collect(wanted);
    if (pieces.ok()) {
      const absl::StatusOr<Look> look = LookAt(*pieces, wanted.indexed, gathering);
      if (look.ok() && *look == Look::kAgain) continue;
      if (look.ok() && *look == Look::kWaits) return false;
      if (!look.ok()) pieces = look.status();
    }
    gathering->pieces = std::move(pieces);
    gathering->held.clear();
    return true;
  }
}

absl::StatusOr<Session::Look> Session::LookAt(const Pieces& pieces, bool indexed,
                                              Gathering* gathering) {
  const base::Time now = executor_->clock().Now();
  Look look = Look::kComplete;
  gathering->awaited.clear();
  for (const std::vector<Piece>& of_head : pieces) {
    for (const Piece& piece : of_head) {
      if (piece.holder == nullptr) continue;
      piece.holder->Touch(now);
      Look here = Look::kComplete;
      if (piece.segment == nullptr) {
        ASSIGN_OR_RETURN(here, AwaitOpen(piece.holder, gathering));
        if (here == Look::kWaits) gathering->awaited.push_back(piece.holder.get());
      } else if (indexed && piece.sealed && !piece.ready) {
        here = Look::kWaits;
      }
      look = std::max(look, here);
    }
  }
  if (look != Look::kWaits) return look;
  std::vector<std::shared_ptr<const Segment>> held;
  for (const std::vector<Piece>& of_head : pieces) {
    for (const Piece& piece : of_head) {
      if (piece.segment != nullptr) held.push_back(piece.segment);
    }
  }
  gathering->held = std::move(held);
  return look;
}

// Whoever asked is told of an error; whoever comes later tries again.
absl::StatusOr<Session::Look> Session::AwaitOpen(const std::shared_ptr<SealedSegment>& segment,
                                                 Gathering* gathering) {
  const bool asked = !gathering->asked.insert(segment.get()).second;
  if (opening_.contains(segment.get())) return Look::kWaits;
  if (asked) RETURN_IF_ERROR(segment->open_error());
  if (!segment->Watch(SegmentPhase::kCold, [weak = weak_from_this(), watched = segment.get()] {
        if (const auto self = weak.lock()) self->OnIndexed(watched);
      })) {
    return Look::kAgain;  // it was just opened
  }
  opening_.insert(segment.get());
  // Not in the hold of the lock, which whoever is told of the end takes.
  executor_->Run([tiers = tiers_, segment] { tiers->Open(segment); });
  return Look::kWaits;
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

void Session::ReleaseCuts(const wire::AppendItem& item) {
  for (uint32_t head = 0; head < item.kv_head_count; ++head) {
    Stream(item.layer, item.kv_head_begin + head).ReleaseCut();
  }
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

void Session::LoadForJournal(const std::shared_ptr<SealedSegment>& segment) {
  std::lock_guard lock(mutex_);
  if (!closed_.ok() || tiers_ == nullptr) return;
  executor_->Run([tiers = tiers_, segment] { tiers->Load(segment, [](const absl::Status&) {}); });
}

// With the lock held: one watch at a time, however many wait.
void Session::PushWatch(Calls* calls) {
  if (!no_room_ || watching_room_) return;
  watching_room_ = true;
  calls->push_back([self = shared_from_this()] { self->WatchRoom(); });
}

void Session::WatchRoom() {
  tiers_->WhenRelieved([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->OnRelieved();
  });
}

// Not all that was tried may have made room: somebody else took it, or nothing could leave.
void Session::OnRelieved() {
  Calls calls;
  {
    std::lock_guard lock(mutex_);
    watching_room_ = false;
    if (!closed_.ok()) return;
    WakeWaiters(&calls);
  }
  for (const auto& call : calls) call();
}

void Session::Pin(base::Duration duration, bool soft) {
  const base::Time until = executor_->clock().Now() + duration;
  std::lock_guard lock(mutex_);
  pinned_until_ = until;
  soft_pin_ = soft;
  for (const RowStream& stream : streams_) {
    for (const Held<SealedSegment>& segment : stream.segments()) segment->PinUntil(until, soft);
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
