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
    const absl::StatusOr<Look> split =
        wanted.indexed ? SplitFor(wanted, gathering) : Look::kComplete;
    if (split.ok() && *split == Look::kWaits) return false;
    absl::StatusOr<Pieces> pieces = split.ok() ? Collect(wanted) : split.status();
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

// A merged block, as laid out before its end, is its parts; those that are gone are made anew, once
// the block's rows are in memory.
absl::StatusOr<Session::Look> Session::SplitFor(const Wanted& wanted, Gathering* gathering) {
  const base::Position position = wanted.layout_position;
  std::vector<size_t> streams;
  for (uint32_t head = 0; head < wanted.kv_head_count; ++head) {
    RowStream& stream = Stream(wanted.layer, wanted.kv_head_begin + head);
    if (stream.WantsSplit(wanted.range, position)) {
      streams.push_back(static_cast<size_t>(&stream - streams_.data()));
    }
  }
  if (streams.empty()) return Look::kComplete;
  if (gathering->loads) RETURN_IF_ERROR(load_error_);
  const bool busy = loading_ > 0;
  for (const size_t i : streams) {
    if (!busy) LoadCopied(streams_[i].HoldSplit(position));
  }
  if (loading_ > 0) {
    gathering->loads = true;
    return Look::kWaits;
  }
  for (const size_t i : streams) RETURN_IF_ERROR(SplitStream(i, position));
  return Look::kComplete;
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

bool Session::HoldCopied(const Operation& operation) {
  if (operation.truncate_to.has_value()) return HoldSplits(*operation.truncate_to);
  if (loading_ > 0) return false;
  const wire::AppendItem& item = operation.item;
  for (uint32_t head = 0; head < item.kv_head_count; ++head) {
    LoadCopied(Stream(item.layer, item.kv_head_begin + head).HoldCopied(item.range()));
  }
  return loading_ == 0;
}

bool Session::HoldSplits(base::Position position) {
  if (loading_ > 0) return false;
  for (RowStream& stream : streams_) LoadCopied(stream.HoldSplit(position));
  return loading_ == 0;
}

void Session::LoadCopied(std::shared_ptr<SealedSegment> away) {
  if (away == nullptr) return;
  CHECK(tiers_ != nullptr);
  ++loading_;
  load_error_ = absl::OkStatus();
  executor_->Run([tiers = tiers_, away = std::move(away), weak = weak_from_this()]() mutable {
    tiers->Load(std::move(away), [weak](const absl::Status& status) {
      if (const auto self = weak.lock()) self->OnCopiedLoaded(status);
    });
  });
}

void Session::ReleaseCopied(const Operation& operation) {
  if (operation.truncate_to.has_value()) {
    for (RowStream& stream : streams_) stream.ReleaseCopied();
  }
  const wire::AppendItem& item = operation.item;
  for (uint32_t head = 0; head < item.kv_head_count; ++head) {
    Stream(item.layer, item.kv_head_begin + head).ReleaseCopied();
  }
}

// They may have been dropped again: then they are loaded again.
void Session::OnCopiedLoaded(const absl::Status& status) {
  Calls calls;
  {
    std::lock_guard lock(mutex_);
    --loading_;
    load_error_.Update(status);
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
      if (segment->built()) segments.push_back(segment.block());
    }
  }
  return segments;
}

}  // namespace sounder::kv_node
