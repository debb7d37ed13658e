// Reads every visible row. See sampler.h for the contract.
#ifndef SOUNDER_KV_NODE_SAMPLER_EXACT_SAMPLER_H_
#define SOUNDER_KV_NODE_SAMPLER_EXACT_SAMPLER_H_

#include "kv_node/sampler/sampler.h"

namespace sounder::kv_node {

// The visible rows of a segment, attended exactly; what every sampler does without an index. As
// Sampler::AttendSelected; the selection is all_visible.
void AttendExactly(const GroupQuery& query, const Selection& selection, const SelectedRows& rows,
                   const Scratch& scratch, float* outputs, float* lse, ErrorTerms* errors);

class ExactSampler : public Sampler {
 public:
  std::string_view name() const override { return NameOf(SamplerKind::kExact); }
  absl::StatusOr<BuiltIndex> BuildIndex(const SegmentRows&, Scratch&) const override {
    return BuiltIndex();
  }
  size_t IndexBytesBound(int64_t) const override { return 0; }

 protected:
  bool ReadsAll(const Segment&) const override { return true; }
  void SelectQueries(const Segment& segment, const SegmentRows* rows, const GroupQuery& query,
                     int first, int count, Scratch& scratch, Selection* selection) const override;
  void AttendParts(const SelectedWork& work, Scratch& scratch, float* outputs, float* lse,
                   ErrorTerms* errors) const override;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SAMPLER_EXACT_SAMPLER_H_
