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

  void Attend(const Segment& segment, const GroupQuery& query, Scratch& scratch, float* outputs,
              float* lse, ErrorTerms* errors, AttendStats* stats) const override;
  std::vector<Candidate> Candidates(const Segment& segment, const GroupQuery& query, int member,
                                    Scratch& scratch) const override;

 private:
  // Candidates of the queries that share with query `first` of the group, into scratch: rows (also
  // as bits in seen) and probabilities; how many. `first` is a multiple of heads.
  int64_t SampleShared(const Segment& segment, const LshTablesIndex& index, const GroupQuery& query,
                       int first, Scratch& scratch, AttendStats& stats) const;
  int SharedBy(const GroupQuery& query, int first) const {
    return std::min(heads_, query.group - first);
  }

  const int heads_;
  const int tables_per_head_;
  const lsh::InclusionTable inclusion_per_head_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SAMPLER_LSH_SPLIT_SAMPLER_H_
