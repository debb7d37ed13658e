#include "kv_node/server/unit_steps.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"

namespace sounder::kv_node {

void UnitSteps::Start(std::vector<Stored> stored, std::vector<uint32_t> in_memory, size_t runners) {
  std::lock_guard lock(mutex_);
  stored_.assign(stored.begin(), stored.end());
  ready_.assign(in_memory.begin(), in_memory.end());
  runners_ = runners;
}

UnitSteps::Step UnitSteps::Next(const ByteQuota::Granted& granted) {
  std::lock_guard lock(mutex_);
  if (!stored_.empty() && !waits_) {
    const Stored next = stored_.front();
    if (std::exchange(has_room_, false) || next.room == 0 || quota_->Take(next.room, granted)) {
      stored_.pop_front();
      return {Kind::kChoose, next.unit};
    }
    waits_ = true;
  }
  if (ready_.empty()) return {};
  const uint32_t unit = ready_.front();
  ready_.pop_front();
  return {Kind::kAttend, unit};
}

// A runner that is there looks again before it leaves.
bool UnitSteps::OnRoom() {
  std::lock_guard lock(mutex_);
  CHECK(waits_) << "nothing asked for room";
  waits_ = false;
  has_room_ = true;
  if (runners_ > 0) return false;
  ++runners_;
  return true;
}

void UnitSteps::Reads() {
  std::lock_guard lock(mutex_);
  ++reading_;
}

size_t UnitSteps::Arrived(std::span<const uint32_t> units, size_t most_runners) {
  std::lock_guard lock(mutex_);
  CHECK(reading_ >= units.size()) << reading_;
  reading_ -= units.size();
  ready_.insert(ready_.begin(), units.begin(), units.end());
  const size_t more = std::min(units.size(), most_runners - std::min(runners_, most_runners));
  runners_ += more;
  return more;
}

UnitSteps::Left UnitSteps::Leave() {
  std::lock_guard lock(mutex_);
  if (!ready_.empty() || (!stored_.empty() && !waits_)) return Left::kWork;
  CHECK(runners_ > 0);
  --runners_;
  return reading_ > 0 || waits_ ? Left::kWaits : Left::kOver;
}

}  // namespace sounder::kv_node
