// Two ways of choosing rows from their exact logits, which no service could afford to compute.
#ifndef SOUNDER_CLI_BASELINES_EXACT_LOGIT_SAMPLERS_H_
#define SOUNDER_CLI_BASELINES_EXACT_LOGIT_SAMPLERS_H_

#include "cli/baselines/budgeted_sampler.h"

namespace sounder::cli {

// The rows with the largest share of any query's attention, unweighted: the best any index for
// finding large logits can do. Biased by design: what is left out counts for nothing.
class TopKSampler : public BudgetedSampler {
 public:
  using BudgetedSampler::BudgetedSampler;
  bool selects_without_rows() const override { return false; }

 protected:
  int64_t Choose(const kv_node::Segment& segment, const kv_node::SegmentRows* rows,
                 const kv_node::GroupQuery& query, double wanted,
                 kv_node::Scratch& scratch) const override;
};

// The sample that `sketch` would draw if its estimates were perfect: the same sizes, floor and
// systematic draw. Knows no hints: every segment reads the same share of its rows. Unbiased.
class OracleSampler : public BudgetedSampler {
 public:
  using BudgetedSampler::BudgetedSampler;
  bool selects_without_rows() const override { return false; }

 protected:
  int64_t Choose(const kv_node::Segment& segment, const kv_node::SegmentRows* rows,
                 const kv_node::GroupQuery& query, double wanted,
                 kv_node::Scratch& scratch) const override;
};

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_BASELINES_EXACT_LOGIT_SAMPLERS_H_
