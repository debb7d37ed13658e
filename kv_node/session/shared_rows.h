// Memory that several sessions may hold, because one was forked from another: tails, and sealed
// segments (sealed_segment.h). Who holds them holds their share of the budget, so shared bytes are
// accounted once, and go with the last holder.
#ifndef SOUNDER_KV_NODE_SESSION_SHARED_ROWS_H_
#define SOUNDER_KV_NODE_SESSION_SHARED_ROWS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "common/memory/aligned_buffer.h"
#include "kv_node/session/memory_budget.h"

namespace sounder::kv_node {

// One session's hold on a block. Copies are further holds; T counts them in `holders`. A session's
// lock guards its holds. What reads a block (a plan, an index build) shares it without a hold.
template <typename T>
class Held {
 public:
  Held() = default;
  explicit Held(std::shared_ptr<T> block) : block_(std::move(block)) { Count(1); }
  Held(const Held& other) : block_(other.block_) { Count(1); }
  Held(Held&& other) noexcept : block_(std::move(other.block_)) {}
  Held& operator=(Held other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~Held() { Count(-1); }

  explicit operator bool() const { return block_ != nullptr; }
  T* operator->() const { return block_.get(); }
  const std::shared_ptr<T>& block() const { return block_; }
  // No other session holds the block. It stays so: only a holder can give it to another. What
  // former holders did to it has happened before.
  bool Alone() const { return block_->holders.load(std::memory_order_acquire) == 1; }

 private:
  void Count(int change) {
    if (block_ != nullptr) block_->holders.fetch_add(change, std::memory_order_acq_rel);
  }
  std::shared_ptr<T> block_;
};

// Memory of a tail. Every row is written once; who holds or reads the tail looks only at rows that
// existed when it got hold of it. One session can write behind the last row that was written;
// another that wants to, as after a fork, copies first.
struct TailRows {
  explicit TailRows(Reservation reserved) : reservation(std::move(reserved)) {}

  // Whether rows [held, rows) may be written by a session that holds `held` of them. `alone`: no
  // other session holds the tail; then rows that were cut off are written anew, once nobody reads.
  bool Claim(int64_t held, int64_t rows, bool alone) {
    if (alone && readers.load(std::memory_order_acquire) == 0) {
      written.store(rows, std::memory_order_relaxed);
      return true;
    }
    return written.compare_exchange_strong(held, rows, std::memory_order_acq_rel);
  }

  memory::AlignedBuffer keys;
  memory::AlignedBuffer values;
  int64_t capacity = 0;                 // rows
  Reservation reservation;              // changed by a session that holds it alone
  std::atomic<int64_t> written{0};      // rows
  mutable std::atomic<int> readers{0};  // plans in flight
  std::atomic<int> holders{0};
};

// Shares a tail with a reader for as long as the result lives.
std::shared_ptr<const TailRows> ReadTail(std::shared_ptr<const TailRows> tail);

// Blocks that several sessions hold and that were counted already.
using SharedBlocks = absl::flat_hash_set<const void*>;

// Bytes of the budget that a session holds.
struct HeldBytes {
  uint64_t rows = 0;
  uint64_t index = 0;
  uint64_t other = 0;   // token ids, room for indexes to come
  uint64_t shared = 0;  // of all these, in blocks that other sessions hold too

  // Whether a block is to be counted. Counts each shared one once if `once` is given.
  template <typename T>
  static bool Counts(const Held<T>& block, SharedBlocks* once) {
    return once == nullptr || block.Alone() || once->insert(block.block().get()).second;
  }
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_SHARED_ROWS_H_
