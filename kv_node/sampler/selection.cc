#include "kv_node/sampler/selection.h"

#include <bit>
#include <numeric>

#include "common/base/limits.h"

namespace sounder::kv_node {

void AttendStats::Add(const AttendStats& other) {
  rows_read += other.rows_read;
  rows_loaded += other.rows_loaded;
  ids_walked += other.ids_walked;
  tables_walked += other.tables_walked;
  exact = exact && other.exact;
  mass += other.mass;
}

void Selection::Clear() {
  all_visible = from_copies = false;
  row_begin = row_end = 0;
  parts.clear();
  rows.clear();
  probabilities.clear();
  stats = {};
}

void Selection::AddPart(int first_query, int num_queries, const uint16_t* part_rows,
                        const float* part_probabilities, int64_t count) {
  parts.push_back({first_query, num_queries, rows.size(), static_cast<size_t>(count)});
  rows.insert(rows.end(), part_rows, part_rows + count);
  if (part_probabilities == nullptr) return;
  probabilities.insert(probabilities.end(), part_probabilities, part_probabilities + count);
}

std::vector<uint16_t> Selection::DistinctRows() const {
  if (all_visible) {
    std::vector<uint16_t> all(static_cast<size_t>(row_end - row_begin));
    std::iota(all.begin(), all.end(), static_cast<uint16_t>(row_begin));
    return all;
  }
  if (parts.size() == 1) return rows;
  std::vector<uint64_t> seen(base::kMaxSegmentRows / 64);
  for (const uint16_t row : rows) seen[row / 64] |= uint64_t{1} << (row % 64);
  std::vector<uint16_t> distinct;
  for (size_t word = 0; word < seen.size(); ++word) {
    for (uint64_t bits = seen[word]; bits != 0; bits &= bits - 1) {
      distinct.push_back(static_cast<uint16_t>(64 * word + std::countr_zero(bits)));
    }
  }
  return distinct;
}

}  // namespace sounder::kv_node
