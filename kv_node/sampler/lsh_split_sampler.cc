#include "kv_node/sampler/lsh_split_sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "kv_node/kernels/group_attention.h"
#include "kv_node/kernels/sampled_attention.h"
#include "kv_node/sampler/exact_sampler.h"

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

int64_t LshSplitSampler::SampleShared(const Segment& segment, const LshTablesIndex& index,
                                      const GroupQuery& query, int first, Scratch& scratch,
                                      AttendStats& stats) const {
  const lsh::LshParams& params = projection()->params();
  CHECK(query.signatures != nullptr) << "lsh_tables needs the queries' signatures";
  std::fill_n(scratch.seen(), kSeenWords, 0);
  const int heads = SharedBy(query, first);
  for (int head = 0; head < heads; ++head) {
    const BucketTables tables = index.tables().Slice(head * tables_per_head_, tables_per_head_);
    stats.ids_walked +=
        CountCollisions(tables, query.signatures + int64_t{first + head} * params.words(),
                        params.probe_distance, scratch.counts());
    stats.tables_walked += tables.num_tables * BucketsProbed(params);
    TakeCandidates(scratch.counts(), tables.rows, params.min_collisions, query.row_begin,
                   query.row_end, scratch.candidates(), scratch.seen());
  }
  const auto count = static_cast<size_t>(RowsOf(scratch.seen(), scratch.candidates()));
  stats.rows_read += static_cast<int64_t>(count) * heads;
  std::fill_n(scratch.probabilities(), count, 0.0f);
  for (int head = 0; head < heads; ++head) {
    SampledLogits({.query = query.queries + int64_t{first + head} * segment.dim(),
                   .keys = segment.keys(),
                   .rows = {scratch.candidates(), count},
                   .scale = query.scale,
                   .mean = index.mean().data(),
                   .norms = index.norms().data(),
                   .log_u = inclusion_per_head_.values(),
                   .schedule = scratch.schedule()},
                  scratch.logits(), scratch.log_u());
    UniteProbabilities(scratch.log_u(), count, scratch.probabilities());
  }
  return static_cast<int64_t>(count);
}

void LshSplitSampler::Attend(const Segment& segment, const GroupQuery& query, Scratch& scratch,
                             float* outputs, float* lse, ErrorTerms* errors,
                             AttendStats* stats) const {
  if (segment.index() == nullptr) {
    AttendExactly(segment, query, scratch, outputs, lse, errors, stats);
    return;
  }
  const auto& index = static_cast<const LshTablesIndex&>(*segment.index());
  AttendStats counted;
  std::array<uint64_t, kSeenWords> loaded = {};
  for (int first = 0; first < query.group; first += heads_) {
    const auto count =
        static_cast<size_t>(SampleShared(segment, index, query, first, scratch, counted));
    for (int64_t word = 0; word < kSeenWords; ++word) loaded[word] |= scratch.seen()[word];
    GroupAttention({.queries = query.queries + int64_t{first} * segment.dim(),
                    .num_queries = SharedBy(query, first),
                    .dim = segment.dim(),
                    .scale = query.scale,
                    .rows = {scratch.candidates(), count},
                    .probabilities = {scratch.probabilities(), count},
                    .schedule = scratch.schedule()},
                   segment.keys(), segment.values(),
                   scratch.workspace(GroupAttentionWorkspace(count)),
                   outputs + int64_t{first} * segment.dim(), lse + first,
                   errors == nullptr ? nullptr : &errors[first].a);
  }
  if (stats == nullptr) return;
  for (const uint64_t word : loaded) counted.rows_loaded += std::popcount(word);
  *stats = counted;
}

std::vector<Candidate> LshSplitSampler::Candidates(const Segment& segment, const GroupQuery& query,
                                                   int member, Scratch& scratch) const {
  if (segment.index() == nullptr) return AllVisibleRows(query);
  const auto& index = static_cast<const LshTablesIndex&>(*segment.index());
  AttendStats stats;
  const int first = member / heads_ * heads_;
  const int64_t count = SampleShared(segment, index, query, first, scratch, stats);
  std::vector<Candidate> candidates;
  for (int64_t i = 0; i < count; ++i) {
    candidates.push_back({.row = scratch.candidates()[i], .u = scratch.probabilities()[i]});
  }
  return candidates;
}

}  // namespace sounder::kv_node
