// Rows drawn alike, without a look at queries or keys: what any estimate of the logits has to beat.
#ifndef SOUNDER_CLI_BASELINES_UNIFORM_SAMPLER_H_
#define SOUNDER_CLI_BASELINES_UNIFORM_SAMPLER_H_

#include "cli/baselines/budgeted_sampler.h"

namespace sounder::cli {

// One systematic sample; unbiased.
class UniformSampler : public BudgetedSampler {
 public:
  using BudgetedSampler::BudgetedSampler;

 protected:
  int64_t Choose(const kv_node::Segment& segment, const kv_node::SegmentRows* rows,
                 const kv_node::GroupQuery& query, double wanted,
                 kv_node::Scratch& scratch) const override;
};

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_BASELINES_UNIFORM_SAMPLER_H_
