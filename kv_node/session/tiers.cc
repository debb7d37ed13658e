#include "kv_node/session/tiers.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "common/base/check.h"

namespace sounder::kv_node {
namespace {

// Between two looks at all segments for those to drop.
constexpr base::Duration kBalancePause = std::chrono::milliseconds(10);
// Of sessions that end so soon nothing is written.
constexpr base::Duration kAboutToDie = std::chrono::seconds(5);
// A full disk is tried again.
constexpr base::Duration kWritePause = std::chrono::milliseconds(500);

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
  std::vector<std::tuple<bool, base::Time, size_t>> order;
  for (size_t i = 0; i < segments.size(); ++i) {
    const SealedSegment& segment = *segments[i];
    const bool pinned = segment.pinned(now);
    if ((pinned && !segment.soft_pin()) || !segment.ready()) continue;
    if (segment.residency() == residency) order.emplace_back(pinned, segment.last_use(), i);
  }
  std::sort(order.begin(), order.end());
  Segments victims;
  victims.reserve(order.size());
  for (const auto& [pinned, use, i] : order) victims.push_back(std::move(segments[i]));
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
  return DropStored(Residency::kHot, &SealedSegment::DropRows, target,
                    &TierCounters::spilled_segments);
}

uint64_t Tiers::DropStoredIndexes(uint64_t target) {
  return DropStored(Residency::kWarm, &SealedSegment::DropIndex, target,
                    &TierCounters::evicted_indexes);
}

uint64_t Tiers::DropStored(Residency of, uint64_t (SealedSegment::*drop)(), uint64_t target,
                           uint64_t TierCounters::*counter) {
  uint64_t freed = 0;
  uint64_t segments = 0;
  for (const auto& victim : Victims(of)) {
    if (freed >= target) break;
    const uint64_t bytes = (victim.get()->*drop)();
    freed += bytes;
    segments += bytes > 0;
  }
  std::lock_guard lock(mutex_);
  counts_.*counter += segments;
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
    if (victim.DiesBefore(io_->clock().Now() + kAboutToDie)) return true;  // and then it is free
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
