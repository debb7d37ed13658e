// A bound on what the work in progress of a node holds at once. Whoever finds no room is told when
// there is, first come, first served.
#ifndef SOUNDER_KV_NODE_SERVER_BYTE_QUOTA_H_
#define SOUNDER_KV_NODE_SERVER_BYTE_QUOTA_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

namespace sounder::kv_node {

// Thread safe. Nobody overtakes who waits, so that what needs much gets its turn; who waits must
// hold nothing of the quota that it will not give back in the meantime. An amount above the limit
// is had alone.
class ByteQuota {
 public:
  // Called once, from whoever gives room back; the bytes are taken by then. Must not block.
  using Granted = std::function<void()>;

  explicit ByteQuota(uint64_t limit) : limit_(limit) {}

  // True, and the bytes are taken; or false, and `granted` is called, perhaps before Take returns.
  bool Take(uint64_t bytes, const Granted& granted);
  void Give(uint64_t bytes);
  // Of what was taken `taken` turned out to be `needed`: never waits, even if it is more.
  void Settle(uint64_t taken, uint64_t needed);

  uint64_t limit() const { return limit_; }
  uint64_t held() const;
  // Somebody waits, or so much is held.
  bool Busy(uint64_t bytes) const;

 private:
  struct Waiting {
    uint64_t bytes = 0;
    Granted granted;
  };
  bool Fits(uint64_t bytes) const { return held_ == 0 || held_ + bytes <= limit_; }

  const uint64_t limit_;
  mutable std::mutex mutex_;  // guards everything below
  uint64_t held_ = 0;
  std::deque<Waiting> waiting_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_BYTE_QUOTA_H_
