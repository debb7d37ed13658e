#include <memory>
#include <utility>

#include "bench/instructions/kernels.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/kernels/signature.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::instructions {
namespace {

class Step {
 public:
  Step(const kv_node::SamplerSpec& spec, int64_t n)
      : rows_(n), outputs_(static_cast<size_t>(kGroup) * kDim), lse_(kGroup) {
    auto sampler = kv_node::MakeSampler(spec);
    CHECK(sampler.ok()) << base::MessageOf(sampler.status());
    sampler_ = *std::move(sampler);
    auto index = sampler_->BuildIndex(*rows_.segment->rows(), scratch_);
    CHECK(index.ok()) << base::MessageOf(index.status());
    rows_.segment->SetIndex(*std::move(index));
    if (const lsh::Projection* projection = sampler_->projection()) {
      signatures_.resize(static_cast<size_t>(kGroup) * projection->params().words());
      kernels::SignVectors(*projection, rows_.queries.data(), kDim, kGroup, signatures_.data());
    }
  }

  int64_t Attend() {
    kv_node::AttendStats stats;
    sampler_->Attend(*rows_.segment,
                     {.queries = rows_.queries.data(),
                      .group = kGroup,
                      .signatures = signatures_.data(),
                      .row_end = rows_.segment->num_rows(),
                      .scale = rows_.scale()},
                     scratch_, outputs_.data(), lse_.data(), nullptr, &stats);
    CHECK(!stats.exact);
    return 1;
  }

 private:
  Rows rows_;
  kv_node::Scratch scratch_;
  std::unique_ptr<kv_node::Sampler> sampler_;
  std::vector<uint64_t> signatures_;
  std::vector<float> outputs_;
  std::vector<float> lse_;
};

}  // namespace

std::vector<Kernel> StepKernels(int64_t n) {
  kv_node::SamplerSpec lsh = {.kind = kv_node::SamplerKind::kLshTables, .dim = kDim};
  kv_node::SamplerSpec sketch = {.kind = kv_node::SamplerKind::kSketch,
                                 .sketch = {.bits = 128, .row_fraction = 0.01, .int8_rows = true},
                                 .dim = kDim};
  std::vector<Kernel> kernels;
  const auto add = [&](const char* name, const kv_node::SamplerSpec& spec) {
    const auto step = std::make_shared<Step>(spec, n);
    kernels.push_back({name, "step", {}, [step] { return step->Attend(); }});
  };
  add("step_lsh_10_150", lsh);
  add("step_sketch_128_1pct_int8", sketch);
  return kernels;
}

}  // namespace sounder::instructions
