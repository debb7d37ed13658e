// Puts the messages of a connection back into the order in which they were sent, one order per
// SendMode. Rendezvous transfers run side by side and end in any order; the promise is order.
#ifndef SOUNDER_COMMON_TRANSPORT_ORDERED_LANES_H_
#define SOUNDER_COMMON_TRANSPORT_ORDERED_LANES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "common/transport/transport.h"

namespace sounder::transport {

inline constexpr size_t kLanes = 3;  // one per SendMode

// Messages of each lane, counted from the start of the connection.
using LaneCounts = std::array<uint64_t, kLanes>;

// Value type, not thread safe.
class OrderedLanes {
 public:
  // False (and the message is dropped) for a sequence number that this lane has had before.
  bool Put(size_t lane, uint64_t sequence, Message message) {
    Lane& queue = lanes_[lane];
    if (sequence < queue.next) return false;
    const size_t bytes = message.payload.size();
    if (!queue.waiting.emplace(sequence, std::move(message)).second) return false;
    ++waiting_;
    waiting_bytes_ += bytes;
    return true;
  }

  // Appends what may be delivered now to `out`, in order.
  void TakeReady(std::vector<Message>& out) {
    for (Lane& queue : lanes_) {
      auto first = queue.waiting.begin();
      while (first != queue.waiting.end() && first->first == queue.next) {
        --waiting_;
        waiting_bytes_ -= first->second.payload.size();
        out.push_back(std::move(first->second));
        first = queue.waiting.erase(first);
        ++queue.next;
      }
    }
  }

  // Messages that were put and not taken, and the bytes of their payloads.
  size_t waiting() const { return waiting_; }
  size_t waiting_bytes() const { return waiting_bytes_; }

  // True once everything before `counts` has been taken.
  bool TakenUpTo(const LaneCounts& counts) const {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      if (lanes_[lane].next < counts[lane]) return false;
    }
    return true;
  }

 private:
  struct Lane {
    uint64_t next = 0;
    std::map<uint64_t, Message> waiting;
  };
  std::array<Lane, kLanes> lanes_;
  size_t waiting_ = 0;
  size_t waiting_bytes_ = 0;
};

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_ORDERED_LANES_H_
