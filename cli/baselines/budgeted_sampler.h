// What the samplers for comparison have in common: they read a share of the rows, chosen once for
// the whole group, and every query uses every chosen row with its exact logit. None of them is
// meant to be fast: they answer what error a choice of rows leads to, not how long it takes.
#ifndef SOUNDER_CLI_BASELINES_BUDGETED_SAMPLER_H_
#define SOUNDER_CLI_BASELINES_BUDGETED_SAMPLER_H_

#include <limits>

#include "kv_node/sampler/sampler.h"

namespace sounder::cli {

// Immutable, thread safe; see kv_node::Sampler.
class BudgetedSampler : public kv_node::Sampler {
 public:
  // Segments of fewer than spec.min_indexed_rows are attended exactly. The share of the rows is the
  // query's row_fraction or else spec.sketch.row_fraction, in (0, 1].
  BudgetedSampler(std::string_view name, const kv_node::SamplerSpec& spec)
      : name_(name), spec_(spec) {}

  std::string_view name() const override { return name_; }
  absl::StatusOr<kv_node::BuiltIndex> BuildIndex(const kv_node::SegmentRows& rows,
                                                 kv_node::Scratch& scratch) const override;
  size_t IndexBytesBound(int64_t) const override { return 0; }

 protected:
  // Chooses rows among the visible ones (there are some) into the scratch's candidates, ascending,
  // and probabilities, in (0, 1]; returns how many. wanted: how many to choose, in expectation
  // where they are drawn; above 0, at most all visible ones. rows: null only where
  // selects_without_rows().
  virtual int64_t Choose(const kv_node::Segment& segment, const kv_node::SegmentRows* rows,
                         const kv_node::GroupQuery& query, double wanted,
                         kv_node::Scratch& scratch) const = 0;

  bool ReadsAll(const kv_node::Segment& segment) const override {
    return segment.num_rows() < spec_.min_indexed_rows;
  }
  int shared_queries() const override { return std::numeric_limits<int>::max(); }
  void SelectQueries(const kv_node::Segment& segment, const kv_node::SegmentRows* rows,
                     const kv_node::GroupQuery& query, int first, int count,
                     kv_node::Scratch& scratch, kv_node::Selection* selection) const override;
  void AttendParts(const kv_node::SelectedWork& work, kv_node::Scratch& scratch, float* outputs,
                   float* lse, kv_node::ErrorTerms* errors) const override;

  const kv_node::SamplerSpec& spec() const { return spec_; }

 private:
  const std::string_view name_;
  const kv_node::SamplerSpec spec_;
};

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_BASELINES_BUDGETED_SAMPLER_H_
