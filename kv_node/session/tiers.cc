#include "kv_node/session/tiers.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"

namespace sounder::kv_node {
namespace {

// Between two looks at all segments for those to drop.
constexpr base::Duration kBalancePause = std::chrono::milliseconds(10);
// A full disk is tried again.
constexpr base::Duration kWritePause = std::chrono::milliseconds(500);
// For room to open a segment.
constexpr base::Duration kRoomPause = std::chrono::milliseconds(2);
constexpr base::Duration kRoomPatience = std::chrono::seconds(1);

uint64_t Share(uint64_t bytes, double share) {
  return static_cast<uint64_t>(static_cast<double>(bytes) * share);
}

}  // namespace

Tiers::Tiers(const TierOptions& options, SegmentStore* store, MemoryBudget* budget)
    : options_(options),
      store_(store),
      budget_(budget),
      io_(store->io()),
      high_(Share(budget->limit(), options.high)),
      low_(Share(budget->limit(), options.low)),
      life_(std::make_shared<Life>()),
      target_(low_) {
  life_->tiers = this;
  CHECK(0 < options.low && options.low < options.high && options.high <= 1);
  budget_->SetReclaim([this](uint64_t bytes) { return Reclaim(bytes); });
}

Tiers::~Tiers() {
  {
    std::lock_guard lock(life_->mutex);
    life_->tiers = nullptr;
  }
  budget_->SetReclaim(nullptr);
}

void Tiers::RunAt(base::Time when, Task task) {
  io_->RunAt(when, [life = life_, task = std::move(task)] {
    std::shared_lock lock(life->mutex);
    if (life->tiers != nullptr) task(*life->tiers);
  });
}

void Tiers::Add(const std::shared_ptr<SealedSegment>& segment) {
  segment->Touch(io_->clock().Now());
  {
    std::lock_guard lock(mutex_);
    if (segments_.size() >= 2 * swept_size_) {
      std::erase_if(segments_, [](const auto& weak) { return weak.expired(); });
      swept_size_ = std::max<size_t>(64, segments_.size());
    }
    segments_.push_back(segment);
  }
  Check();
}

void Tiers::Check() {
  if (scarce()) StartBalance(low_);
}

void Tiers::StartBalance(uint64_t target) {
  base::Time when;
  {
    std::lock_guard lock(mutex_);
    target_ = std::min(target_, target);
    if (balancing_) return;
    balancing_ = true;
    when = std::max(next_balance_, io_->clock().Now());
  }
  RunAt(when, [](Tiers& tiers) { tiers.Balance(); });
}

void Tiers::WhenRelieved(std::function<void()> relieved) {
  Check();
  {
    std::lock_guard lock(mutex_);
    if (balancing_) {
      relieved_.push_back(std::move(relieved));
      return;
    }
  }
  relieved();
}

Tiers::Segments Tiers::All() const {
  Segments segments;
  std::lock_guard lock(mutex_);
  segments.reserve(segments_.size());
  for (const auto& weak : segments_) {
    if (auto segment = weak.lock()) segments.push_back(std::move(segment));
  }
  return segments;
}

Tiers::Segments Tiers::Victims(Residency residency) {
  Segments segments = All();
  const base::Time now = io_->clock().Now();
  // Attends go on meanwhile: an order of what was read once.
  std::vector<std::pair<base::Time, size_t>> order;
  for (size_t i = 0; i < segments.size(); ++i) {
    const SealedSegment& segment = *segments[i];
    if (segment.pinned(now) || !segment.ready() || segment.residency() != residency) continue;
    order.emplace_back(segment.last_use(), i);
  }
  std::sort(order.begin(), order.end());
  Segments victims;
  victims.reserve(order.size());
  for (const auto& [use, i] : order) victims.push_back(std::move(segments[i]));
  return victims;
}

// Called under locks of sessions, and of nothing of ours: what is stored is dropped at once.
uint64_t Tiers::Reclaim(uint64_t wanted) {
  const uint64_t used = budget_->used();
  uint64_t freed = DropStoredRows(std::max(wanted, used - std::min(used, low_)));
  if (freed < wanted) freed += DropStoredIndexes(wanted - freed);
  if (freed < wanted) StartBalance(budget_->limit() - std::min(budget_->limit(), wanted));
  return freed;
}

uint64_t Tiers::DropStoredRows(uint64_t target) {
  uint64_t freed = 0;
  uint64_t segments = 0;
  for (const auto& victim : Victims(Residency::kHot)) {
    if (freed >= target) break;
    const uint64_t bytes = victim->DropRows();
    freed += bytes;
    segments += bytes > 0;
  }
  std::lock_guard lock(mutex_);
  counts_.spilled_segments += segments;
  return freed;
}

uint64_t Tiers::DropStoredIndexes(uint64_t target) {
  uint64_t freed = 0;
  uint64_t segments = 0;
  for (const auto& victim : Victims(Residency::kWarm)) {
    if (freed >= target) break;
    const uint64_t bytes = victim->DropIndex();
    freed += bytes;
    segments += bytes > 0;
  }
  std::lock_guard lock(mutex_);
  counts_.evicted_indexes += segments;
  return freed;
}

// One segment, if it has to be written, in each call: in between the executor does other things.
void Tiers::Balance() {
  for (bool looked = false;;) {
    std::shared_ptr<SealedSegment> victim;
    {
      std::lock_guard lock(mutex_);
      if (budget_->used() <= target_) break;
      if (!victims_.empty()) {
        victim = std::move(victims_.back());
        victims_.pop_back();
      }
    }
    if (victim == nullptr) {
      if (looked) break;
      looked = true;
      Segments found = Victims(Residency::kHot);
      std::reverse(found.begin(), found.end());
      std::lock_guard lock(mutex_);
      victims_ = std::move(found);
      continue;
    }
    uint64_t written = 0;
    if (!DropOne(*victim, &written)) break;
    if (written == 0) continue;
    const auto nanos = static_cast<int64_t>(1e9 * static_cast<double>(written) /
                                            static_cast<double>(options_.write_bytes_per_second));
    RunAt(io_->clock().Now() + base::Duration(nanos), [](Tiers& tiers) { tiers.Balance(); });
    return;
  }
  DropIndexes();
  EndBalance();
}

// False if the store takes nothing now: then what it has already is dropped.
bool Tiers::DropOne(SealedSegment& victim, uint64_t* written) {
  if (victim.stored() == nullptr) {
    if (!victim.Write(store_).ok()) {
      {
        std::lock_guard lock(mutex_);
        ++counts_.failed_writes;
        next_balance_ = io_->clock().Now() + kWritePause;
        victims_.clear();
      }
      const uint64_t used = budget_->used();
      if (used > low_) DropStoredRows(used - low_);
      return false;
    }
    *written = victim.LoadBytes();
  }
  if (victim.DropRows() > 0) {
    std::lock_guard lock(mutex_);
    ++counts_.spilled_segments;
  }
  return true;
}

// Not for the low watermark's sake: an index that is gone costs an attend a round trip.
void Tiers::DropIndexes() {
  uint64_t target = high_;
  {
    std::lock_guard lock(mutex_);
    if (target_ < low_) target = target_;
  }
  const uint64_t used = budget_->used();
  if (used > target) DropStoredIndexes(used - target);
}

void Tiers::EndBalance() {
  std::vector<std::function<void()>> relieved;
  {
    std::lock_guard lock(mutex_);
    balancing_ = false;
    target_ = low_;
    victims_.clear();
    next_balance_ = std::max(next_balance_, io_->clock().Now() + kBalancePause);
    relieved.swap(relieved_);
  }
  for (const auto& done : relieved) done();
}

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

void Tiers::Spill(Segments segments, Done done) {
  auto shared = std::make_shared<Segments>(std::move(segments));
  Run([shared, done = std::move(done)](Tiers& tiers) {
    tiers.SpillNext(shared, absl::OkStatus(), done);
  });
}

void Tiers::SpillNext(std::shared_ptr<Segments> segments, absl::Status status, Done done) {
  if (segments->empty()) return done(std::move(status));
  const std::shared_ptr<SealedSegment> segment = std::move(segments->back());
  segments->pop_back();
  if (segment->residency() != Residency::kCold) status.Update(segment->Write(store_).status());
  const bool rows = segment->DropRows() > 0;
  const bool index = segment->DropIndex() > 0;
  {
    std::lock_guard lock(mutex_);
    counts_.spilled_segments += rows;
    counts_.evicted_indexes += index;
  }
  Run([segments = std::move(segments), status = std::move(status),
       done = std::move(done)](Tiers& tiers) { tiers.SpillNext(segments, status, done); });
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
    if ((*segment)->last_use() < since) break;
    if ((*segment)->loading()) continue;
    used += (*segment)->LoadBytes();
    if (used > most) break;
    Load(std::move(*segment), [](const absl::Status&) {});
  }
}

TierCounters Tiers::counters() const {
  std::lock_guard lock(mutex_);
  TierCounters counts = counts_;
  counts.loaded_segments = life_->loaded_segments;
  counts.failed_reads = life_->failed_reads;
  return counts;
}

TierCensus Tiers::census() const {
  TierCensus census;
  for (const auto& segment : All()) {
    switch (segment->residency()) {
      case Residency::kHot:
        ++census.hot_segments;
        break;
      case Residency::kWarm:
        ++census.warm_segments;
        break;
      case Residency::kCold:
        ++census.cold_segments;
        break;
    }
  }
  return census;
}

}  // namespace sounder::kv_node
