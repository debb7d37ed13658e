// The node's hard memory cap: bytes are reserved before they are allocated.
#ifndef SOUNDER_KV_NODE_SESSION_MEMORY_BUDGET_H_
#define SOUNDER_KV_NODE_SESSION_MEMORY_BUDGET_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "common/base/check.h"

namespace sounder::kv_node {

// Thread safe. Counts rows, tails and indexes of every session.
class MemoryBudget {
 public:
  explicit MemoryBudget(uint64_t limit_bytes) : limit_(limit_bytes) {}

  // Gives back at least so many bytes, if it can at once; returns how many.
  using Reclaim = std::function<uint64_t(uint64_t bytes)>;
  // Whom to ask for room before a reservation fails: before others use the budget, or null.
  void SetReclaim(Reclaim reclaim) { reclaim_ = std::move(reclaim); }

  // RESOURCE_EXHAUSTED, naming the numbers, when the cap would be passed; then nothing changed.
  absl::Status Reserve(uint64_t bytes);
  void Release(uint64_t bytes);

  uint64_t used() const { return used_.load(std::memory_order_relaxed); }
  uint64_t limit() const { return limit_; }

 private:
  bool TryReserve(uint64_t bytes);

  const uint64_t limit_;
  Reclaim reclaim_;
  std::atomic<uint64_t> used_{0};
};

// Reserved bytes that return to the budget with this object. Move-only; not thread safe.
class Reservation {
 public:
  explicit Reservation(MemoryBudget* budget) : budget_(budget) {}
  ~Reservation() {
    if (budget_ != nullptr) budget_->Release(bytes_);
  }
  Reservation(Reservation&& other) noexcept
      : budget_(other.budget_), bytes_(std::exchange(other.bytes_, 0)) {}
  Reservation& operator=(Reservation&& other) noexcept {
    std::swap(budget_, other.budget_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  // Makes the reservation `bytes` large. Growing may fail, and then changes nothing.
  absl::Status Resize(uint64_t bytes);
  // Hands `bytes` of it, at most all, to another one of the same budget.
  void Give(uint64_t bytes, Reservation* other) {
    CHECK(bytes <= bytes_ && other->budget_ == budget_);
    bytes_ -= bytes;
    other->bytes_ += bytes;
  }
  uint64_t bytes() const { return bytes_; }

 private:
  MemoryBudget* budget_;
  uint64_t bytes_ = 0;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_MEMORY_BUDGET_H_
