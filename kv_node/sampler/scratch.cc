#include "kv_node/sampler/scratch.h"

#include "common/base/limits.h"
#include "kv_node/kernels/bucket_tables.h"
#include "kv_node/kernels/pps_sample.h"
#include "kv_node/kernels/sampled_attention.h"

namespace sounder::kv_node {
namespace {

constexpr size_t kRows = base::kMaxSegmentRows + kSamplePadding;

}  // namespace

Scratch::Scratch(const kernels::KernelSchedule& schedule)
    : schedule_(schedule),
      counts_(memory::AlignedBuffer::Zeroed(kCountBytes)),
      candidates_(kRows * sizeof(uint16_t)),
      logits_(kRows * sizeof(float)),
      log_u_(kRows * sizeof(float)),
      seen_(memory::AlignedBuffer::Zeroed(base::kMaxSegmentRows / 8)),
      shares_(base::kMaxSegmentRows),
      size_sums_(base::kMaxSegmentRows / kSizeBlockRows * sizeof(uint32_t)),
      large_sizes_((base::kMaxSegmentRows + 1) * sizeof(uint32_t)),
      probabilities_(kRows * sizeof(float)) {}

int8_t* Scratch::scores(size_t count) {
  if (scores_.size() < count) scores_ = memory::AlignedBuffer(count);
  return scores_.As<int8_t>().data();
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
         size_sums_.allocated() + large_sizes_.allocated() + probabilities_.allocated() +
         workspace_.allocated() + selection_.bytes() + places_.capacity() * sizeof(uint16_t) +
         gathered_.capacity() * sizeof(float);
}

}  // namespace sounder::kv_node
