// One kv head as the product would hold it: sinks and window exact, the rows between them in sealed
// segments, attended one decode step at a time through the product's sampler and merge.
#ifndef SOUNDER_CLI_EVAL_HEAD_H_
#define SOUNDER_CLI_EVAL_HEAD_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/eval_input.h"
#include "common/memory/aligned_buffer.h"
#include "common/memory/rows_view.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::cli {

// Static rows are [0, dynamic_begin) and [dynamic_end, n): at most `sinks` and `window` of them.
struct RowCut {
  RowCut(int64_t n, int64_t sinks, int64_t window);
  int64_t dynamic() const { return dynamic_end - dynamic_begin; }

  int64_t dynamic_begin;
  int64_t dynamic_end;
};

// Rows copied out of the input, packed and aligned as workers and nodes keep them. Move-only.
class PackedRows {
 public:
  PackedRows(const memory::RowsView& keys, const memory::RowsView& values);
  memory::RowsView keys() const { return ViewOf(keys_); }
  memory::RowsView values() const { return ViewOf(values_); }
  int64_t rows() const { return shape_.rows; }

 private:
  memory::RowsView ViewOf(const memory::AlignedBuffer& buffer) const;

  memory::AlignedBuffer keys_;
  memory::AlignedBuffer values_;
  memory::RowsView shape_;
};

// Not thread safe. Borrows sampler and scratch.
class EvalHead {
 public:
  // Copies the rows and builds the indexes.
  static absl::StatusOr<std::unique_ptr<EvalHead>> Create(const EvalInput& input, int kv_head,
                                                          const RowCut& cut,
                                                          const kv_node::Sampler& sampler,
                                                          kv_node::Scratch& scratch);

  // One decode step of the group, queries [group][dim], which are signed here; adds to `stats`.
  // sample_key and step decide the draws of samplers that draw.
  void Attend(const float* queries, uint64_t sample_key, int64_t step, kv_node::AttendStats& stats);

  // Of the last Attend: the output over all rows, [dim], and the lse over the dynamic ones.
  const float* output(int member) const { return outputs_.data() + member * dim_; }
  float dynamic_lse(int member) const { return dynamic_lse_[member]; }

  // Rows of segments attended exactly, summed over queries and all calls of Attend.
  int64_t rows_exact() const { return rows_exact_; }

  // Memory of the segments.
  size_t index_bytes() const;
  size_t bytes() const;

 private:
  EvalHead(const EvalInput& input, int kv_head, const RowCut& cut, const kv_node::Sampler& sampler,
           std::vector<std::unique_ptr<kv_node::Segment>> segments, kv_node::Scratch& scratch);
  void AttendExactly(const float* queries, const PackedRows& rows);
  void MergePart();

  const kv_node::Sampler& sampler_;
  kv_node::Scratch& scratch_;
  const std::vector<std::unique_ptr<kv_node::Segment>> segments_;
  const PackedRows sinks_;
  const PackedRows window_;
  const int kv_head_;
  const int group_;
  const int dim_;
  const float scale_;
  int64_t rows_exact_ = 0;
  std::vector<uint64_t> signatures_;
  std::vector<float> outputs_;
  std::vector<float> lse_;
  std::vector<float> dynamic_lse_;
  std::vector<float> part_;  // of one segment or run of static rows
  std::vector<float> part_lse_;
};

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_EVAL_HEAD_H_
