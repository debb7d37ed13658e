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
  RETURN_IF_ERROR(CheckCuts(wanted.sequence, wanted.range.end));
  bool complete = true;
  for (uint32_t head = 0; head < wanted.kv_head_count; ++head) {
    RowStream& stream = Stream(wanted.layer, wanted.kv_head_begin + head);
    if (!stream.WantsSplit(wanted.range, wanted.layout_position)) continue;
    const auto i = static_cast<size_t>(&stream - streams_.data());
    ASSIGN_OR_RETURN(const bool split, Split(i, i + 1, wanted.layout_position, *gathering->load));
    complete &= split;
  }
  return complete ? Look::kComplete : Look::kWaits;
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
        here = Await(*piece.holder) ? Look::kWaits : Look::kAgain;
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

absl::StatusOr<bool> Session::HoldCopied(const Operation& operation) {
  if (const std::optional<base::Position>& position = operation.truncate_to) {
    if (!CheckEnd(*position).ok()) return true;  // it will be refused
    return Split(0, streams_.size(), *position, *load_);
  }
  RETURN_IF_ERROR(load_->error);
  const wire::AppendItem& item = operation.item;
  for (uint32_t head = 0; head < item.kv_head_count; ++head) {
    LoadCopied(Stream(item.layer, item.kv_head_begin + head).HoldCopied(item.range()), *load_);
  }
  return load_->segments.empty();
}

absl::StatusOr<bool> Session::Split(size_t first, size_t last, base::Position position,
                                    Load& load) {
  RETURN_IF_ERROR(load.error);
  for (size_t i = first; i < last; ++i) {
    std::shared_ptr<SealedSegment> away;
    ASSIGN_OR_RETURN(const auto parts, streams_[i].Split(position, &away));
    for (const auto& part : parts) {
      StartSegment(static_cast<uint32_t>(i) / spec_.kv_head_count, part);
    }
    LoadCopied(std::move(away), load);
  }
  return load.segments.empty();
}

// What was loaded may have been dropped again when it is looked at: then it is loaded again.
void Session::LoadCopied(std::shared_ptr<SealedSegment> away, Load& load) {
  if (away == nullptr || !load.segments.insert(away.get()).second) return;
  CHECK(tiers_ != nullptr);
  executor_->Run([tiers = tiers_, away = std::move(away), weak = weak_from_this(),
                  shared = load.shared_from_this()]() mutable {
    const SealedSegment* const segment = away.get();
    tiers->Load(std::move(away), [weak, shared, segment](const absl::Status& status) {
      if (const auto self = weak.lock()) self->OnCopiedLoaded(*shared, segment, status);
    });
  });
}

void Session::ReleaseCopied(const Operation& operation) {
  const wire::AppendItem& item = operation.item;
  for (uint32_t head = 0; head < item.kv_head_count; ++head) {
    Stream(item.layer, item.kv_head_begin + head).ReleaseCopied();
  }
  // What is still being loaded for it is of no concern to the next one.
  if (!load_->segments.empty() || !load_->error.ok()) load_ = std::make_shared<Load>();
}

void Session::OnCopiedLoaded(Load& load, const SealedSegment* segment, const absl::Status& status) {
  Calls calls;
  {
    std::lock_guard lock(mutex_);
    load.segments.erase(segment);
    load.error.Update(status);
    if (!closed_.ok()) return;
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
