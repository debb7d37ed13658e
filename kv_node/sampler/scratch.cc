#include "kv_node/sampler/scratch.h"

#include "common/base/limits.h"
#include "kv_node/kernels/bucket_tables.h"
#include "kv_node/kernels/pps_sample.h"
#include "kv_node/kernels/sampled_attention.h"

namespace sounder::kv_node {
namespace {

constexpr size_t kRows = base::kMaxSegmentRows + kSamplePadding;

}  // namespace

Scratch::Scratch()
    : counts_(memory::AlignedBuffer::Zeroed(kCountBytes)),
      candidates_(kRows * sizeof(uint16_t)),
      logits_(kRows * sizeof(float)),
      log_u_(kRows * sizeof(float)),
      seen_(memory::AlignedBuffer::Zeroed(base::kMaxSegmentRows / 8)),
      shares_(base::kMaxSegmentRows * sizeof(int16_t)),
      size_sums_(base::kMaxSegmentRows / kSizeBlockRows * sizeof(uint32_t)),
      largest_sizes_(base::kMaxSegmentRows / kSizeBlockRows * sizeof(uint32_t)),
      probabilities_(base::kMaxSegmentRows * sizeof(float)) {}

int16_t* Scratch::scores(size_t count) {
  if (scores_.size() < count * sizeof(int16_t)) {
    scores_ = memory::AlignedBuffer(count * sizeof(int16_t));
  }
  return scores_.As<int16_t>().data();
}

float* Scratch::workspace(size_t count) {
  if (workspace_.size() < count * sizeof(float)) {
    workspace_ = memory::AlignedBuffer(count * sizeof(float));
  }
  return workspace_.As<float>().data();
}

uint16_t* Scratch::codes(size_t count) {
  if (codes_.size() < count * sizeof(uint16_t)) {
    codes_ = memory::AlignedBuffer(count * sizeof(uint16_t));
  }
  return codes_.As<uint16_t>().data();
}

size_t Scratch::bytes() const {
  return counts_.allocated() + candidates_.allocated() + logits_.allocated() + log_u_.allocated() +
         seen_.allocated() + codes_.allocated() + scores_.allocated() + shares_.allocated() +
         size_sums_.allocated() + largest_sizes_.allocated() + probabilities_.allocated() +
         workspace_.allocated();
}

}  // namespace sounder::kv_node
