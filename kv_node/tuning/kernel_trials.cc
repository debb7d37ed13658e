#include "kv_node/tuning/kernel_trials.h"

#include <algorithm>
#include <cstring>

#include "common/base/cpu.h"
#include "common/base/philox.h"
#include "common/kernels/exact_attention.h"
#include "common/lsh/inclusion_probability.h"
#include "kv_node/kernels/group_attention.h"
#include "kv_node/kernels/sampled_attention.h"

namespace sounder::kv_node {
namespace {

constexpr int kDim = 128;
constexpr int kGroup = 4;
constexpr int kBits = 128;
constexpr float kScale = 0.088f;  // 1 / sqrt(dim)
constexpr int64_t kRows = 131072;
constexpr int64_t kSegmentRows = 65536;
constexpr int64_t kPatternRows = 2048;  // made once and repeated: times do not depend on values
constexpr int64_t kExactRows = 16384;   // of a run
constexpr int64_t kScanRows = 16384;
constexpr int64_t kSampledRows = 655;      // 1 % of a segment
constexpr int64_t kLshSampledRows = 2048;  // as many as tables find for one query
constexpr size_t kRowBytes = kDim * sizeof(uint16_t);

// Repeats the first `pattern` bytes of the buffer up to its end.
void Repeat(memory::AlignedBuffer& buffer, size_t pattern) {
  for (size_t at = pattern; at < buffer.size(); at += pattern) {
    std::memcpy(buffer.data() + at, buffer.data(), std::min(pattern, buffer.size() - at));
  }
}

// bf16 numbers of magnitude .5 to 2.
void FillPattern(base::PhiloxStream& random, memory::AlignedBuffer& rows) {
  for (uint16_t& x : rows.As<uint16_t>().first(kPatternRows * kDim)) {
    const uint32_t bits = random.Next32();
    x = static_cast<uint16_t>((bits & 0x80ff) | 0x3f00);
  }
}

}  // namespace

KernelTrials::KernelTrials()
    : keys_(kRows * kRowBytes),
      values_(kRows * kRowBytes),
      records_(kRows * Int8Rows::RecordBytes(kDim)),
      queries_(kGroup * kDim),
      mean_(kDim),
      norms_(kSegmentRows, 10.0f),
      probabilities_(kSampledRows, 0.5f),
      logits_(kLshSampledRows + kSamplePadding),
      log_u_(kLshSampledRows + kSamplePadding),
      workspace_(GroupAttentionWorkspace(kSampledRows)),
      outputs_(kGroup * kDim),
      lse_(kGroup),
      factors_(kScanRows, 100),
      scores_(kGroup * kScanRows),
      rotation_(kDim, kBits, 1),
      inclusion_(lsh::InclusionTable::kCells + 2, -1.0f) {
  base::PhiloxStream random(1, 0);
  FillPattern(random, keys_);
  FillPattern(random, values_);
  for (float& x : queries_) x = static_cast<float>(random.Next32() >> 8) * 0x1p-24f - 0.5f;
  const int64_t pattern = kPatternRows;
  QuantizeRows(Slice(keys_, 0, pattern), Slice(values_, 0, pattern), mean_.data(), records_.data());
  Repeat(records_, pattern * Int8Rows::RecordBytes(kDim));
  Repeat(keys_, pattern * kRowBytes);
  Repeat(values_, pattern * kRowBytes);
  tables_.Prepare(rotation_, queries_.data(), kGroup, kScale);
}

memory::RowsView KernelTrials::Slice(const memory::AlignedBuffer& rows, int64_t begin,
                                     int64_t count) const {
  return {.data = rows.data() + static_cast<size_t>(begin) * kRowBytes,
          .rows = count,
          .row_stride = kRowBytes,
          .dim = kDim,
          .dtype = base::DType::kBF16};
}

// Rows of a segment at even distances, others in every run.
void KernelTrials::ChooseRows(int64_t rows) {
  sample_.resize(rows);
  const int64_t distance = kSegmentRows / rows;
  for (int64_t i = 0; i < rows; ++i) {
    sample_[i] = static_cast<uint16_t>(i * distance + run_ / 2 % distance);
  }
}

double KernelTrials::Exact(const kernels::KernelSchedule& schedule) {
  const int64_t begin = run_++ * kExactRows % kRows;
  const double start = base::ThreadCpuUs();
  kernels::ExactAttention({.queries = queries_.data(),
                           .query_stride = kDim,
                           .num_queries = kGroup,
                           .keys = Slice(keys_, begin, kExactRows),
                           .values = Slice(values_, begin, kExactRows),
                           .scale = kScale,
                           .visible_rows = {},
                           .schedule = schedule},
                          outputs_.data(), lse_.data());
  return base::ThreadCpuUs() - start;
}

double KernelTrials::SampledInt8(const kernels::KernelSchedule& schedule) {
  return Sampled(schedule, true);
}

double KernelTrials::SampledAsAppended(const kernels::KernelSchedule& schedule) {
  return Sampled(schedule, false);
}

double KernelTrials::Sampled(const kernels::KernelSchedule& schedule, bool int8) {
  const int64_t segment = run_ % 2 * kSegmentRows;
  ChooseRows(kSampledRows);
  ++run_;
  const GroupSample sample = {.queries = queries_.data(),
                              .num_queries = kGroup,
                              .dim = kDim,
                              .scale = kScale,
                              .rows = sample_,
                              .probabilities = probabilities_,
                              .schedule = schedule};
  const double start = base::ThreadCpuUs();
  if (int8) {
    const Int8Rows rows = {
        .data = records_.data() + static_cast<size_t>(segment) * Int8Rows::RecordBytes(kDim),
        .rows = kSegmentRows,
        .dim = kDim};
    GroupAttention(sample, rows, mean_.data(), workspace_.data(), outputs_.data(), lse_.data(),
                   nullptr);
  } else {
    GroupAttention(sample, Slice(keys_, segment, kSegmentRows),
                   Slice(values_, segment, kSegmentRows), workspace_.data(), outputs_.data(),
                   lse_.data(), nullptr);
  }
  return base::ThreadCpuUs() - start;
}

double KernelTrials::Lsh(const kernels::KernelSchedule& schedule) {
  const int64_t segment = run_ % 2 * kSegmentRows;
  ChooseRows(kLshSampledRows);
  ++run_;
  const double start = base::ThreadCpuUs();
  SampledLogits({.query = queries_.data(),
                 .keys = Slice(keys_, segment, kSegmentRows),
                 .rows = sample_,
                 .scale = kScale,
                 .mean = mean_.data(),
                 .norms = norms_.data(),
                 .log_u = inclusion_,
                 .schedule = schedule},
                logits_.data(), log_u_.data());
  WeightedValues(Slice(values_, segment, kSegmentRows), sample_, logits_.data(), log_u_.data(),
                 outputs_.data(), lse_.data(), schedule);
  return base::ThreadCpuUs() - start;
}

double KernelTrials::Scan(const kernels::KernelSchedule& schedule) {
  const size_t bytes = SketchView::BlockBytes(kScanRows, kBits);
  const size_t begin = static_cast<size_t>(run_++) * bytes % (records_.size() / bytes * bytes);
  const SketchView sketches = {.rows = kScanRows,
                               .bits = kBits,
                               .blocks = reinterpret_cast<const uint8_t*>(records_.data()) + begin,
                               .factors = factors_.data(),
                               .factor_exponent = -8};
  double log_sums[kGroup];
  const double start = base::ThreadCpuUs();
  ScanSketches(sketches, tables_, 0, kScanRows, 1, scores_.data(), kScanRows, log_sums, schedule);
  return base::ThreadCpuUs() - start;
}

void KernelTrials::Evict() {
  for (int64_t begin = 0; begin < kRows; begin += kExactRows) Exact({});
}

}  // namespace sounder::kv_node
