// The sketch sampler: every logit is estimated from a sketch of its key, one systematic sample is
// drawn for the whole group with probabilities proportional to the largest estimated share of any
// query's attention, and every query uses every sampled row with its exact logit. The probabilities
// are chosen, not inferred, so the estimate is right on average whatever the sketches are worth.
// See DESIGN.md; kernels/sketch.h, sketch_scan.h, pps_sample.h, group_attention.h for the steps.
#ifndef SOUNDER_KV_NODE_SAMPLER_SKETCH_SAMPLER_H_
#define SOUNDER_KV_NODE_SAMPLER_SKETCH_SAMPLER_H_

#include <array>

#include "common/base/limits.h"
#include "kv_node/kernels/group_attention.h"
#include "kv_node/kernels/int8_rows.h"
#include "kv_node/kernels/pps_sample.h"
#include "kv_node/kernels/sketch.h"
#include "kv_node/sampler/index_bytes.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::kv_node {

// The sketches of a segment's keys.
class SketchIndex : public SegmentIndex {
 public:
  SketchIndex(const SketchRotation& rotation, const memory::RowsView& keys);
  // Of arrays that were stored: mean, blocks, factors, of the sizes ArrayBytes says.
  SketchIndex(int64_t rows, int bits, IndexArrays stored);
  static std::array<size_t, 3> ArrayBytes(const SketchRotation& rotation, int64_t rows);
  std::array<std::span<const std::byte>, 3> Arrays() const;
  size_t bytes() const override;
  // What bytes() will be of `rows` rows.
  static size_t BytesFor(const SketchRotation& rotation, int64_t rows);

  SketchView sketches() const;
  std::span<const float> mean() const { return mean_.As<float>(); }

 private:
  const int64_t rows_;
  const int bits_;
  memory::AlignedBuffer mean_;
  memory::AlignedBuffer blocks_;
  memory::AlignedBuffer factors_;
  int factor_exponent_ = 0;
};

// Queries that share one sample. Blocks of more are sampled in parts of so many, one after the
// other: what a part needs of working memory is bounded, whatever a request asks for.
inline constexpr int kSketchSharedQueries = base::kMaxGroup;

class SketchSampler : public Sampler {
 public:
  SketchSampler(const SketchParams& params, int dim, int64_t min_indexed_rows);

  std::string_view name() const override { return NameOf(SamplerKind::kSketch); }
  // With copies of the rows in eight bits, where asked for.
  absl::StatusOr<BuiltIndex> BuildIndex(const SegmentRows& rows, Scratch& scratch) const override;
  size_t IndexBytesBound(int64_t rows) const override;
  memory::AlignedBuffer EncodeIndex(const SegmentIndex& index) const override;
  absl::StatusOr<std::unique_ptr<SegmentIndex>> DecodeIndex(
      const SegmentShape& shape, std::span<const std::byte> bytes) const override;
  size_t copy_bytes(const SegmentShape& shape) const override;
  std::unique_ptr<PreparedQueries> Prepare(const float* queries, int group,
                                           float scale) const override;

 protected:
  int shared_queries() const override { return kSketchSharedQueries; }
  void SelectQueries(const Segment& segment, const SegmentRows* rows, const GroupQuery& query,
                     int first, int count, Scratch& scratch, Selection* selection) const override;
  void AttendParts(const SelectedWork& work, Scratch& scratch, float* outputs, float* lse,
                   ErrorTerms* errors) const override;

 private:
  IndexIdentity IdentityOf(int64_t rows) const;
  // The sample of a part, at most kSketchSharedQueries queries, into scratch: rows and
  // probabilities; how many. mass: AttendStats::mass.
  int64_t Sample(const Segment& segment, const SegmentRows* rows, const GroupQuery& query,
                 Scratch& scratch, double* mass) const;
  // Sizes of the rows from `first` to the last visible one.
  GroupSizes Measure(const SketchIndex& index, const GroupQuery& query, int64_t first,
                     Scratch& scratch) const;

  const SketchParams params_;
  const SketchRotation rotation_;
  const int64_t min_indexed_rows_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SAMPLER_SKETCH_SAMPLER_H_
