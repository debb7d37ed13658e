// A bounded resource of which no flow can take so much that nothing is left for the others.
#ifndef SOUNDER_COMMON_POLICY_SHARED_QUOTA_H_
#define SOUNDER_COMMON_POLICY_SHARED_QUOTA_H_

#include <cstdint>
#include <unordered_map>

namespace sounder::policy {

using FlowId = uint64_t;  // whoever competes with others: a connection

// Dynamic thresholds (Choudhury and Hahne, 1998): a flow may hold no more than what is still free.
// Alone it may take half of the limit in small amounts (or all of it at once); beside n flows that
// take what they can get, each gets 1 / (n + 2) of it. Whoever comes later always finds room.
// Amounts have no unit here. Not thread safe.
class SharedQuota {
 public:
  explicit SharedQuota(uint64_t limit) : limit_(limit) {}

  // True, and the amount is held, if the flow's share allows it.
  bool Take(FlowId flow, uint64_t amount);
  bool Allows(FlowId flow, uint64_t amount) const;  // whether Take would
  // Gives back what was taken: CHECKs that the flow holds it.
  void Give(FlowId flow, uint64_t amount);

  uint64_t limit() const { return limit_; }
  uint64_t held() const { return held_; }
  uint64_t held_by(FlowId flow) const;

 private:
  const uint64_t limit_;
  uint64_t held_ = 0;
  std::unordered_map<FlowId, uint64_t> by_flow_;  // none of them 0
};

}  // namespace sounder::policy

#endif  // SOUNDER_COMMON_POLICY_SHARED_QUOTA_H_
