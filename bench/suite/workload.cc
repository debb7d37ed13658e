#include "bench/suite/workload.h"

#include <sys/mman.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/kernels/signature.h"

namespace sounder::suite {
namespace {

generator::Head HeadOf(generator::Family family, uint64_t seed, const Size& size) {
  return generator::Cache(
             {.family = family, .seed = seed, .dim = size.dim, .group = size.group, .n = size.n})
      .MakeHead(0, 0);
}

template <typename T>
T ValueOf(absl::StatusOr<T> result) {
  CHECK(result.ok()) << base::MessageOf(result.status());
  return *std::move(result);
}

}  // namespace

Rows MakeRows(generator::Family family, uint64_t seed, const Size& size) {
  const int64_t row_bytes = size.dim * 2;
  Rows rows{memory::AlignedBuffer(size.n * row_bytes), memory::AlignedBuffer(size.n * row_bytes)};
  HeadOf(family, seed, size)
      .RowsAs(base::DType::kBF16, 0, size.n, rows.k.data(), rows.v.data(), row_bytes);
  return rows;
}

SmallPageCopy::SmallPageCopy(std::span<const std::byte> bytes) {
  void* const range =
      mmap(nullptr, bytes.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(range != MAP_FAILED);
  madvise(range, bytes.size(), MADV_NOHUGEPAGE);
  bytes_ = {static_cast<std::byte*>(range), bytes.size()};
  std::memcpy(bytes_.data(), bytes.data(), bytes.size());
}

SmallPageCopy::~SmallPageCopy() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

Workload::Workload(generator::Family family, const Size& size, uint64_t seed, int steps,
                   const kv_node::Sampler& sampler, kv_node::Scratch& scratch)
    : size_(size) {
  Rows rows = MakeRows(family, seed, size);
  copies_.emplace_back(rows.k.bytes());
  copies_.emplace_back(rows.v.bytes());
  segment_ = ValueOf(kv_node::Segment::Create(0, size.n, size.dim, base::DType::kBF16,
                                              std::move(rows.k), std::move(rows.v)));
  segment_->SetIndex(ValueOf(sampler.BuildIndex(*segment_->rows(), scratch)));
  const generator::Head head = HeadOf(family, seed, size);
  const lsh::Projection* projection = sampler.projection();
  for (int step = 0; step < steps; ++step) {
    queries_.push_back(head.Queries(step));
    if (projection == nullptr) continue;
    signatures_.emplace_back(static_cast<size_t>(size.group) * projection->params().words());
    kernels::SignVectors(*projection, queries_.back().data(), size.dim, size.group,
                         signatures_.back().data());
  }
}

kv_node::GroupQuery Workload::Query(int step) const {
  return {
      .queries = Queries(step),
      .group = size_.group,
      .signatures = signatures_.empty() ? nullptr : signatures_[step % signatures_.size()].data(),
      .row_begin = 0,
      .row_end = size_.n,
      .scale = static_cast<float>(1 / std::sqrt(double(size_.dim))),
      .step = static_cast<uint64_t>(step),
      .lse_hints = {}};
}

cli::EvalFigures Accuracy(generator::Family family, const Size& size, int data_seeds, int steps,
                          int hash_seeds, const kv_node::SamplerSpec& sampler) {
  cli::EvalFigures mean;
  mean.z_ratio = 0;
  for (int seed = 1; seed <= data_seeds; ++seed) {
    const Rows rows = MakeRows(family, seed, size);
    const generator::Head head = HeadOf(family, seed, size);
    cli::EvalInput input;
    input.steps = steps;
    input.n = size.n;
    input.query_heads = size.group;
    input.kv_heads = 1;
    input.dim = size.dim;
    input.k = {base::DType::kBF16, {size.n, 1, size.dim}, rows.k.bytes()};
    input.v = {base::DType::kBF16, {size.n, 1, size.dim}, rows.v.bytes()};
    for (int step = 0; step < steps; ++step) {
      const std::vector<float> queries = head.Queries(step);
      input.q.insert(input.q.end(), queries.begin(), queries.end());
    }
    const cli::EvalFigures one = ValueOf(
        cli::Evaluate(input, {.sampler = sampler, .sinks = 0, .window = 0, .seeds = hash_seeds}));
    const double weight = 1.0 / data_seeds;
    mean.mean_relative_error += weight * one.mean_relative_error;
    mean.p95_relative_error += weight * one.p95_relative_error;
    mean.rows_read_fraction += weight * one.rows_read_fraction;
    mean.rows_loaded_fraction += weight * one.rows_loaded_fraction;
    mean.z_ratio += weight * one.z_ratio;
    mean.index_bytes_per_token += weight * one.index_bytes_per_token;
  }
  return mean;
}

}  // namespace sounder::suite
