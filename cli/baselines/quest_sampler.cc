#include "cli/baselines/quest_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "common/base/status_macros.h"

namespace sounder::cli {

using kv_node::GroupQuery;
using kv_node::Scratch;
using kv_node::Segment;

namespace {

int64_t PagesOf(int64_t rows) { return (rows + kQuestPageRows - 1) / kQuestPageRows; }

// Of every page from `first` to the one of the last visible row.
std::vector<double> PageShares(const QuestIndex& index, const GroupQuery& query, int dim,
                               int64_t first) {
  const auto pages = static_cast<size_t>(PagesOf(query.row_end) - first);
  std::vector<double> shares(pages);
  std::vector<double> bounds(pages);
  for (int q = 0; q < query.group; ++q) {
    for (size_t p = 0; p < pages; ++p) {
      bounds[p] = double{index.Bound(first + static_cast<int64_t>(p),
                                     query.queries + int64_t{q} * dim, query.scale)};
    }
    const double max = *std::max_element(bounds.begin(), bounds.end());
    double sum = 0;
    for (const double bound : bounds) sum += std::exp(bound - max);
    for (size_t p = 0; p < pages; ++p) {
      shares[p] = std::max(shares[p], std::exp(bounds[p] - max) / sum);
    }
  }
  return shares;
}

}  // namespace

QuestIndex::QuestIndex(const memory::RowsView& keys)
    : dim_(keys.dim), bounds_(PagesOf(keys.rows) * 2 * keys.dim * sizeof(float)) {
  for (int64_t row = 0; row < keys.rows; ++row) {
    float* least = bounds_.As<float>().data() + row / kQuestPageRows * 2 * dim_;
    float* largest = least + dim_;
    for (int c = 0; c < dim_; ++c) {
      const float x = keys.At(row, c);
      const bool first = row % kQuestPageRows == 0;
      least[c] = first ? x : std::min(least[c], x);
      largest[c] = first ? x : std::max(largest[c], x);
    }
  }
}

size_t QuestIndex::BytesFor(int64_t rows, int dim) {
  return sizeof(QuestIndex) +
         memory::AlignedBuffer::Allocated(PagesOf(rows) * 2 * dim * sizeof(float));
}

float QuestIndex::Bound(int64_t page, const float* query, float scale) const {
  const float* least = bounds_.As<float>().data() + page * 2 * dim_;
  const float* largest = least + dim_;
  float bound = 0;
  for (int c = 0; c < dim_; ++c) {
    const float q = query[c] * scale;
    bound += std::max(q * least[c], q * largest[c]);
  }
  return std::isfinite(bound) ? bound : std::numeric_limits<float>::max();
}

absl::StatusOr<kv_node::BuiltIndex> QuestSampler::BuildIndex(const kv_node::SegmentRows& rows,
                                                             Scratch& scratch) const {
  ASSIGN_OR_RETURN(kv_node::BuiltIndex built, BudgetedSampler::BuildIndex(rows, scratch));
  if (rows.shape().num_rows >= spec().min_indexed_rows) {
    built.index = std::make_unique<QuestIndex>(rows.keys());
  }
  return built;
}

size_t QuestSampler::IndexBytesBound(int64_t rows) const {
  return rows < spec().min_indexed_rows ? 0 : QuestIndex::BytesFor(rows, spec().dim);
}

int64_t QuestSampler::Choose(const Segment& segment, const kv_node::SegmentRows*,
                             const GroupQuery& query, double wanted, Scratch& scratch) const {
  const auto& index = static_cast<const QuestIndex&>(*segment.index());
  const int64_t first = query.row_begin / kQuestPageRows;
  const std::vector<double> shares = PageShares(index, query, segment.dim(), first);
  std::vector<uint32_t> order(shares.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&shares](uint32_t a, uint32_t b) { return shares[a] > shares[b]; });
  auto left = static_cast<int64_t>(std::ceil(wanted));
  std::vector<uint16_t> rows;
  for (const uint32_t page : order) {
    const int64_t start = (first + page) * kQuestPageRows;
    const int64_t end = std::min(start + kQuestPageRows, query.row_end);
    for (int64_t row = std::max(start, query.row_begin); row < end && left > 0; ++row, --left) {
      rows.push_back(static_cast<uint16_t>(row));
    }
    if (left == 0) break;
  }
  std::sort(rows.begin(), rows.end());
  std::copy(rows.begin(), rows.end(), scratch.candidates());
  std::fill_n(scratch.probabilities(), rows.size(), 1.0f);
  return static_cast<int64_t>(rows.size());
}

}  // namespace sounder::cli
