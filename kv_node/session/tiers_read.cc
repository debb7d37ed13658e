// What comes back to memory: indexes for those who wait for them, rows of what is attended.
#include <algorithm>
#include <utility>

#include "kv_node/session/tiers.h"

namespace sounder::kv_node {
namespace {

// For room to open a segment.
constexpr base::Duration kRoomPause = std::chrono::milliseconds(2);
constexpr base::Duration kRoomPatience = std::chrono::seconds(1);

}  // namespace

void Tiers::Open(std::shared_ptr<SealedSegment> segment) {
  {
    std::lock_guard lock(mutex_);
    opening_.push_back({std::move(segment)});
  }
  OpenNext();
}

// What is read takes memory beside the budget until it has been decoded: not much of it at once.
void Tiers::OpenNext() {
  const uint64_t most = std::min(options_.open_bytes, budget_->limit() / 16);
  for (;;) {
    Opening next;
    uint64_t bytes = 0;
    {
      std::lock_guard lock(mutex_);
      if (opening_.empty() || open_soon_) return;
      bytes = opening_.front().segment->OpenBytes();
      if (opening_bytes_ > 0 && opening_bytes_ + bytes > most) return;
      next = std::move(opening_.front());
      opening_.pop_front();
      opening_bytes_ += bytes;
    }
    // Not in the hold of the lock: others may have to leave memory for it.
    Reservation room(budget_);
    if (absl::Status status = room.Resize(bytes); !status.ok()) {
      if (!OpenLater(std::move(next), bytes, status)) return;
      continue;
    }
    const bool opens = next.segment->Open(std::move(room), [life = life_, bytes] {
      std::shared_lock lock(life->mutex);
      if (life->tiers != nullptr) life->tiers->OnOpened(bytes);
    });
    std::lock_guard lock(mutex_);
    counts_.opened_segments += opens;
    if (!opens) opening_bytes_ -= bytes;  // whoever does tells those who wait
  }
}

void Tiers::OnOpened(uint64_t bytes) {
  {
    std::lock_guard lock(mutex_);
    opening_bytes_ -= bytes;
  }
  OpenNext();
}

// True if it was given up: the next one's turn.
bool Tiers::OpenLater(Opening opening, uint64_t bytes, const absl::Status& why) {
  const base::Time now = io_->clock().Now();
  if (opening.give_up == base::kNever) opening.give_up = now + kRoomPatience;
  const bool fails = now >= opening.give_up;
  {
    std::lock_guard lock(mutex_);
    opening_bytes_ -= bytes;
    open_soon_ = !fails;
    if (!fails) opening_.push_front(opening);
  }
  if (fails) {
    opening.segment->FailOpening(why);
    return true;
  }
  RunAt(now + kRoomPause, [](Tiers& tiers) {
    {
      std::lock_guard lock(tiers.mutex_);
      tiers.open_soon_ = false;
    }
    tiers.OpenNext();
  });
  return false;
}

void Tiers::Load(std::shared_ptr<SealedSegment> segment, Done done) {
  if (segment->residency() != Residency::kCold) return LoadRows(*segment, std::move(done));
  const bool waits = segment->Watch(SegmentPhase::kCold, [life = life_, io = io_, segment, done] {
    io->Run([life, segment, done] {
      absl::Status status = segment->open_error();
      if (!status.ok()) return done(std::move(status));
      std::shared_lock lock(life->mutex);
      if (life->tiers != nullptr) life->tiers->LoadRows(*segment, done);
    });
  });
  if (!waits) return LoadRows(*segment, std::move(done));
  Open(std::move(segment));
}

void Tiers::LoadRows(SealedSegment& segment, Done done) {
  Reservation room(budget_);
  if (absl::Status status = room.Resize(segment.LoadBytes()); !status.ok()) {
    return done(std::move(status));
  }
  segment.Load(std::move(room), [life = life_, done = std::move(done)](absl::Status status) {
    ++(status.ok() ? life->loaded_segments : life->failed_reads);
    done(std::move(status));
  });
}

void Tiers::Start() {
  RunAt(io_->clock().Now() + options_.interval, [](Tiers& tiers) {
    tiers.BringBack();
    tiers.Start();
  });
}

// What was attended last comes first. Reading takes as much memory again, beside the budget.
void Tiers::BringBack() {
  uint64_t used = budget_->used();
  if (used >= low_) return;
  const base::Time since = io_->clock().Now() - options_.recent;
  const uint64_t some = std::min(options_.load_bytes, budget_->limit() / 16);
  const uint64_t most = std::min(low_, used + some);
  Segments warm = Victims(Residency::kWarm);
  for (auto segment = warm.rbegin(); segment != warm.rend(); ++segment) {
    if ((*segment)->last_use() < since || (*segment)->loading()) continue;
    used += (*segment)->LoadBytes();
    if (used > most) break;
    Load(std::move(*segment), [](const absl::Status&) {});
  }
}

}  // namespace sounder::kv_node
