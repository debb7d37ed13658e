// Between the two steps of an attend: which rows of a segment are to be read. A selection is made
// from the segment's index alone; the rows may be elsewhere, and come later.
#ifndef SOUNDER_KV_NODE_SAMPLER_SELECTION_H_
#define SOUNDER_KV_NODE_SAMPLER_SELECTION_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/memory/rows_view.h"
#include "kv_node/segment/segment_rows.h"

namespace sounder::kv_node {

struct AttendStats {
  int64_t rows_read = 0;      // rows attended, summed over the queries of the group
  int64_t rows_loaded = 0;    // distinct rows read from memory
  int64_t ids_walked = 0;     // entries of hash tables visited
  int64_t tables_walked = 0;  // buckets visited
  bool exact = false;         // every visible row was read
  // Sum over the visible rows of their sizes (GroupQuery::mean_size_hint), of samplers that
  // estimate them; meaningful with lse_hints. A block
  // that is sampled in parts has the sum over them.
  double mass = 0;

  // Sums; exact only if both are.
  void Add(const AttendStats& other);
};

// Consecutive queries of a group that share their rows.
struct SelectedPart {
  int first_query = 0;
  int num_queries = 0;
  size_t begin = 0;  // its rows are [begin, begin + count) of Selection::rows
  size_t count = 0;
};

// A value; reused from call to call it allocates nothing.
struct Selection {
  // Every visible row is attended, exactly; then there are no parts.
  bool all_visible = false;
  // The rows are read from the segment's copies of them, otherwise as they were appended.
  bool from_copies = false;
  int64_t row_begin = 0;  // the visible rows
  int64_t row_end = 0;
  std::vector<SelectedPart> parts;   // in order of their queries
  std::vector<uint16_t> rows;        // ids in the segment, ascending within a part
  std::vector<float> probabilities;  // of `rows`, where they follow from the draw; else empty
  AttendStats stats;                 // of the whole attend

  void Clear();
  // Appends a part. Probabilities may be null.
  void AddPart(int first_query, int num_queries, const uint16_t* part_rows,
               const float* part_probabilities, int64_t count);
  // The rows to read, each once, ascending.
  std::vector<uint16_t> DistinctRows() const;
  // Memory held beyond the object.
  size_t bytes() const {
    return parts.capacity() * sizeof(SelectedPart) + rows.capacity() * sizeof(uint16_t) +
           probabilities.capacity() * sizeof(float);
  }
};

// Where the second step finds the rows: in the segment, or gathered. Non-owning.
struct SelectedRows {
  memory::RowsView keys;              // unless from_copies
  memory::RowsView values;            // the same rows; its own stride
  const std::byte* copies = nullptr;  // if from_copies: packed records
  // Gathered: row i above is row ids[i] of the segment. Ascending; the selection's DistinctRows, or
  // more rows of which those are some. Null: row i above is row i of the segment.
  const std::vector<uint16_t>* ids = nullptr;

  static SelectedRows Of(const SegmentRows& rows) {
    return {rows.keys(), rows.values(), rows.copies().data(), nullptr};
  }
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SAMPLER_SELECTION_H_
