// Quest (arXiv 2406.10774): pages of 16 rows with the least and the largest of every key dimension.
// No key of a page has a larger logit than sum_i max(q_i min_i, q_i max_i); the pages with the
// largest bounds are attended, unweighted. Biased by design.
//
// Quest chooses pages per query head. Here, as everywhere, the heads of a group read the same rows:
// a page counts by its largest share, over the heads, of exp(bound) summed over the visible pages.
#ifndef SOUNDER_CLI_BASELINES_QUEST_SAMPLER_H_
#define SOUNDER_CLI_BASELINES_QUEST_SAMPLER_H_

#include "cli/baselines/budgeted_sampler.h"

namespace sounder::cli {

inline constexpr int64_t kQuestPageRows = 16;

// The bounds of a segment's pages: f32[pages, 2, dim], least and largest.
class QuestIndex : public kv_node::SegmentIndex {
 public:
  explicit QuestIndex(const memory::RowsView& keys);
  size_t bytes() const override { return sizeof(QuestIndex) + bounds_.allocated(); }
  static size_t BytesFor(int64_t rows, int dim);
  // The largest logit, scale * (q . k), a row of the page may have.
  float Bound(int64_t page, const float* query, float scale) const;

 private:
  const int dim_;
  memory::AlignedBuffer bounds_;
};

class QuestSampler : public BudgetedSampler {
 public:
  using BudgetedSampler::BudgetedSampler;

  absl::StatusOr<kv_node::BuiltIndex> BuildIndex(const kv_node::SegmentRows& rows,
                                                 kv_node::Scratch& scratch) const override;
  size_t IndexBytesBound(int64_t rows) const override;

 protected:
  // Whole pages, but the last one chosen is cut to the rows wanted.
  int64_t Choose(const kv_node::Segment& segment, const kv_node::SegmentRows* rows,
                 const kv_node::GroupQuery& query, double wanted,
                 kv_node::Scratch& scratch) const override;
};

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_BASELINES_QUEST_SAMPLER_H_
