// Reads every visible row. See sampler.h for the contract.
#ifndef SOUNDER_KV_NODE_SAMPLER_EXACT_SAMPLER_H_
#define SOUNDER_KV_NODE_SAMPLER_EXACT_SAMPLER_H_

#include "kv_node/sampler/sampler.h"

namespace sounder::kv_node {

// The visible rows of a segment, attended exactly; what every sampler does without an index.
void AttendExactly(const Segment& segment, const GroupQuery& query, const Scratch& scratch,
                   float* outputs, float* lse, ErrorTerms* errors, AttendStats* stats);
std::vector<Candidate> AllVisibleRows(const GroupQuery& query);

class ExactSampler : public Sampler {
 public:
  std::string_view name() const override { return NameOf(SamplerKind::kExact); }
  absl::StatusOr<std::unique_ptr<SegmentIndex>> BuildIndex(const Segment& segment,
                                                           Scratch& scratch) const override;
  size_t IndexBytesBound(int64_t) const override { return 0; }
  void Attend(const Segment& segment, const GroupQuery& query, Scratch& scratch, float* outputs,
              float* lse, ErrorTerms* errors, AttendStats* stats) const override;
  std::vector<Candidate> Candidates(const Segment& segment, const GroupQuery& query, int member,
                                    Scratch& scratch) const override;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SAMPLER_EXACT_SAMPLER_H_
