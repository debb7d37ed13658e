#include "kv_node/sampler/lsh_split_sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "kv_node/kernels/group_attention.h"
#include "kv_node/kernels/sampled_attention.h"

namespace sounder::kv_node {
namespace {

constexpr int64_t kSeenWords = base::kMaxSegmentRows / 64;

// The rows whose bits are set, ascending; how many.
int64_t RowsOf(const uint64_t* seen, uint16_t* rows) {
  int64_t count = 0;
  for (int64_t word = 0; word < kSeenWords; ++word) {
    for (uint64_t bits = seen[word]; bits != 0; bits &= bits - 1) {
      rows[count++] = static_cast<uint16_t>(64 * word + std::countr_zero(bits));
    }
  }
  return count;
}

}  // namespace

LshSplitSampler::LshSplitSampler(lsh::Projection projection, int heads, int64_t min_indexed_rows)
    : LshTablesSampler(std::move(projection), min_indexed_rows),
      heads_(heads),
      tables_per_head_(this->projection()->params().num_tables / heads),
      inclusion_per_head_(*this->projection(), tables_per_head_) {
  CHECK(tables_per_head_ >= this->projection()->params().min_collisions) << tables_per_head_;
}

int64_t LshSplitSampler::FindShared(const BucketTables& all, const GroupQuery& query, int first,
                                    int count, uint64_t* seen, Scratch& scratch,
                                    AttendStats& stats) const {
  const lsh::LshParams& params = projection()->params();
  std::fill_n(seen, kSeenWords, 0);
  for (int head = 0; head < count; ++head) {
    const BucketTables tables = all.Slice(head * tables_per_head_, tables_per_head_);
    stats.ids_walked +=
        CountCollisions(tables, query.signatures + int64_t{first + head} * params.words(),
                        params.probe_distance, scratch.counts());
    stats.tables_walked += tables.num_tables * BucketsProbed(params);
    TakeCandidates(scratch.counts(), tables.rows, params.min_collisions, query.row_begin,
                   query.row_end, scratch.candidates(), seen);
  }
  return RowsOf(seen, scratch.candidates());
}

void LshSplitSampler::SelectQueries(const Segment& segment, const SegmentRows*,
                                    const GroupQuery& query, int first, int count, Scratch& scratch,
                                    Selection* selection) const {
  CHECK(query.signatures != nullptr) << "lsh_tables needs the queries' signatures";
  const BucketTables tables = static_cast<const LshTablesIndex&>(*segment.index()).tables();
  AttendStats& stats = selection->stats;
  std::array<uint64_t, kSeenWords> seen;
  const int64_t before = first == 0 ? 0 : RowsSeen(scratch);
  for (int begin = first; begin < first + count; begin += heads_) {
    const int queries = std::min(heads_, first + count - begin);
    const int64_t found = FindShared(tables, query, begin, queries, seen.data(), scratch, stats);
    for (int64_t word = 0; word < kSeenWords; ++word) scratch.seen()[word] |= seen[word];
    selection->AddPart(begin, queries, scratch.candidates(), nullptr, found);
    stats.rows_read += found * queries;
  }
  stats.rows_loaded += RowsSeen(scratch) - before;
}

void LshSplitSampler::UniteHeads(const SelectedWork& work, const SelectedPart& part,
                                 const float* norms, Scratch& scratch) const {
  const auto& index = static_cast<const LshTablesIndex&>(*work.segment.index());
  std::fill_n(scratch.probabilities(), part.count, 0.0f);
  for (int head = 0; head < part.num_queries; ++head) {
    SampledLogits(
        {.query = work.query.queries + int64_t{part.first_query + head} * work.segment.dim(),
         .keys = work.source.keys,
         .rows = work.RowsOf(part),
         .scale = work.query.scale,
         .mean = index.mean().data(),
         .norms = norms,
         .log_u = inclusion_per_head_.values(),
         .schedule = scratch.schedule()},
        scratch.logits(), scratch.log_u());
    UniteProbabilities(scratch.log_u(), part.count, scratch.probabilities());
  }
}

void LshSplitSampler::AttendParts(const SelectedWork& work, Scratch& scratch, float* outputs,
                                  float* lse, ErrorTerms* errors) const {
  const float* norms = NormsOf(work, scratch);
  for (const SelectedPart& part : work.selection.parts) {
    UniteHeads(work, part, norms, scratch);
    const int64_t at = int64_t{part.first_query} * work.segment.dim();
    GroupAttention({.queries = work.query.queries + at,
                    .num_queries = part.num_queries,
                    .dim = work.segment.dim(),
                    .scale = work.query.scale,
                    .rows = work.RowsOf(part),
                    .probabilities = {scratch.probabilities(), part.count},
                    .schedule = scratch.schedule()},
                   work.source.keys, work.source.values,
                   scratch.workspace(GroupAttentionWorkspace(part.count)), outputs + at,
                   lse + part.first_query,
                   errors == nullptr ? nullptr : &errors[part.first_query].a);
  }
}

void LshSplitSampler::InclusionProbabilities(const SelectedWork& work, const SelectedPart& part,
                                             Scratch& scratch, std::vector<double>* u) const {
  UniteHeads(work, part, NormsOf(work, scratch), scratch);
  u->assign(scratch.probabilities(), scratch.probabilities() + part.count);
}

}  // namespace sounder::kv_node
