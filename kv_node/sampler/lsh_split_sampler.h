// LSH whose candidates are shared by the query heads of a group. The tables are divided among the
// heads; a row is a candidate of the group when any head finds it, at min_collisions of its own
// tables. Heads look into different tables, so their finds are independent and the chance that a
// row is a candidate is 1 - prod(1 - u_h) (which it is not where heads share tables). Every head
// uses every candidate with its exact logit and the inverse of that chance. See DESIGN.md.
#ifndef SOUNDER_KV_NODE_SAMPLER_LSH_SPLIT_SAMPLER_H_
#define SOUNDER_KV_NODE_SAMPLER_LSH_SPLIT_SAMPLER_H_

#include <algorithm>

#include "kv_node/sampler/lsh_tables_sampler.h"

namespace sounder::kv_node {

// `heads` consecutive queries of a GroupQuery share their candidates; the last ones may be fewer.
class LshSplitSampler : public LshTablesSampler {
 public:
  // 1 <= heads <= num_tables / min_collisions. Tables that are left over are not looked into.
  LshSplitSampler(lsh::Projection projection, int heads, int64_t min_indexed_rows);

 protected:
  int shared_queries() const override { return heads_; }
  void SelectQueries(const Segment& segment, const SegmentRows* rows, const GroupQuery& query,
                     int first, int count, Scratch& scratch, Selection* selection) const override;
  void AttendParts(const SelectedWork& work, Scratch& scratch, float* outputs, float* lse,
                   ErrorTerms* errors) const override;
  void InclusionProbabilities(const SelectedWork& work, const SelectedPart& part, Scratch& scratch,
                              std::vector<double>* u) const override;

 private:
  // Candidates of the part's queries, first_query being a multiple of heads: into scratch's
  // candidates, and as bits in `seen`, which is overwritten; how many.
  int64_t FindShared(const BucketTables& tables, const GroupQuery& query, int first, int count,
                     uint64_t* seen, Scratch& scratch, AttendStats& stats) const;
  // The probabilities of a part's rows into scratch.
  void UniteHeads(const SelectedWork& work, const SelectedPart& part, const float* norms,
                  Scratch& scratch) const;

  const int heads_;
  const int tables_per_head_;
  const lsh::InclusionTable inclusion_per_head_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SAMPLER_LSH_SPLIT_SAMPLER_H_
