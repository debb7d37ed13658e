// How many bytes of appends a session's writer may have in flight to a node.
#ifndef SOUNDER_COMMON_POLICY_APPEND_CREDIT_H_
#define SOUNDER_COMMON_POLICY_APPEND_CREDIT_H_

#include <cstdint>

namespace sounder::policy {

// So little that it harms nobody, and so much that a message is worth its header.
inline constexpr uint64_t kMinAppendCredit = uint64_t{1} << 20;
inline constexpr uint64_t kMaxAppendCredit = uint64_t{64} << 20;
// What a writer takes before a node has granted it anything.
inline constexpr uint64_t kFirstAppendCredit = uint64_t{4} << 20;

// What a node knows when it grants credit.
struct AppendPressure {
  int64_t backlog_rows = 0;        // that wait for their index
  int64_t backlog_bound = 0;       // beyond which acknowledgements are withheld; 0: none may wait
  uint64_t memory_free = 0;        // bytes of the node's cap that nobody holds
  uint64_t message_bytes_max = 0;  // bytes of messages the node holds at most
  uint64_t writers = 1;            // sessions that append much at this time, this one included
};

// Between the two constants. The writers share half of the room for messages (the other half is for
// attends and answers) and half of the free memory (indexes take the rest), less the share of the
// backlog's bound that is used up. Safety does not rest on it: bounded queues and the memory cap
// refuse whoever takes no notice.
uint64_t GrantAppendCredit(const AppendPressure& pressure);

// The writer's side: whether it may send `bytes` more. With nothing in flight always, so that
// writing goes on whatever the credit.
inline bool MaySend(uint64_t in_flight, uint64_t bytes, uint64_t credit) {
  return in_flight == 0 || (bytes <= credit && in_flight <= credit - bytes);
}

}  // namespace sounder::policy

#endif  // SOUNDER_COMMON_POLICY_APPEND_CREDIT_H_
