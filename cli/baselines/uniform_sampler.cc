#include "cli/baselines/uniform_sampler.h"

#include "kv_node/kernels/pps_sample.h"
#include "kv_node/sampler/draw_start.h"

namespace sounder::cli {

int64_t UniformSampler::Choose(const kv_node::Segment& segment, const kv_node::SegmentRows*,
                               const kv_node::GroupQuery& query, double wanted,
                               kv_node::Scratch& scratch) const {
  const uint32_t start =
      kv_node::DrawStart(query, segment.first_position(), kv_node::DrawKind::kUniform);
  return kv_node::DrawAlike(query.row_begin, query.row_end, wanted, start, {}, scratch.candidates(),
                            scratch.probabilities());
}

}  // namespace sounder::cli
