#include "kv_node/server/unit_steps.h"

#include <algorithm>

#include "common/base/check.h"

namespace sounder::kv_node {

void UnitSteps::Start(std::vector<uint32_t> stored, std::vector<uint32_t> in_memory,
                      size_t runners) {
  std::lock_guard lock(mutex_);
  stored_.assign(stored.begin(), stored.end());
  ready_.assign(in_memory.begin(), in_memory.end());
  runners_ = runners;
}

UnitSteps::Step UnitSteps::NextLocked() {
  if (!held_back_.empty()) {
    if (HasRoom(held_back_.front().second)) return {Kind::kRead, held_back_.front().first};
  } else if (!stored_.empty() && bytes_ < most_bytes_) {
    return {Kind::kChoose, stored_.front()};
  }
  return ready_.empty() ? Step() : Step{Kind::kAttend, ready_.front()};
}

UnitSteps::Step UnitSteps::Next() {
  std::lock_guard lock(mutex_);
  const Step step = NextLocked();
  switch (step.kind) {
    case Kind::kNone:
      break;
    case Kind::kChoose:
      stored_.pop_front();
      break;
    case Kind::kRead:
      bytes_ += held_back_.front().second;
      ++reading_;
      held_back_.pop_front();
      break;
    case Kind::kAttend:
      ready_.pop_front();
      break;
  }
  return step;
}

bool UnitSteps::TakeRoom(uint32_t unit, uint64_t bytes) {
  CHECK(bytes > 0) << "a unit that reads nothing";
  std::lock_guard lock(mutex_);
  if (!held_back_.empty() || !HasRoom(bytes)) {
    held_back_.emplace_back(unit, bytes);
    return false;
  }
  bytes_ += bytes;
  ++reading_;
  return true;
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

void UnitSteps::GiveRoom(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  CHECK(bytes_ >= bytes) << bytes_ << " < " << bytes;
  bytes_ -= bytes;
}

UnitSteps::Left UnitSteps::Leave() {
  std::lock_guard lock(mutex_);
  if (NextLocked().kind != Kind::kNone) return Left::kWork;
  CHECK(runners_ > 0);
  --runners_;
  return reading_ > 0 ? Left::kWaits : Left::kOver;
}

}  // namespace sounder::kv_node
