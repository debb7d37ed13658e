#include "bench/suite/timed_sampler.h"

#include <cstdio>

#include "bench/kernels/sequential_read.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"

namespace sounder::suite {

using cli::Record;
using kv_node::Sampler;
using kv_node::SamplerSpec;

SamplerSpec LshSpec(const Size& size, int num_tables) {
  SamplerSpec spec;
  spec.kind = kv_node::SamplerKind::kLshTables;
  spec.lsh.bits_per_table = 10;
  spec.lsh.num_tables = num_tables;
  spec.dim = size.dim;
  return spec;
}

SamplerSpec SketchSpec(const Size& size, int bits, double row_fraction) {
  SamplerSpec spec;
  spec.kind = kv_node::SamplerKind::kSketch;
  spec.sketch.bits = bits;
  spec.sketch.row_fraction = row_fraction;
  spec.sketch.int8_rows = true;
  spec.dim = size.dim;
  return spec;
}

std::unique_ptr<Sampler> NewSampler(const SamplerSpec& spec) {
  auto sampler = kv_node::MakeSampler(spec);
  CHECK(sampler.ok()) << base::MessageOf(sampler.status());
  return *std::move(sampler);
}

void Progress(const std::string& what) { std::fprintf(stderr, "bench: %s\n", what.c_str()); }

void UseAll(const std::vector<float>& outputs, const std::vector<float>& lse) {
  double sum = 0;
  for (const float value : outputs) sum += value;
  for (const float value : lse) sum += value;
  Use(sum);
}

void ReadRows(std::span<const std::byte> keys, std::span<const std::byte> values) {
  Use(static_cast<double>(bench_kernels::SequentialRead(keys) ^
                          bench_kernels::SequentialRead(values)));
}

void AddPairs(const std::string& name, const Pairs& pairs, double read_us, Record& record) {
  const double us = Quantile(pairs.step, 0.5);
  record.Add(name + "_us", us);
  record.Add(name + "_over_seq_read", us / read_us);
  record.Add(name + "_over_seq_read_p10", Quantile(pairs.ratio, 0.1));
  record.Add(name + "_over_seq_read_p50", Quantile(pairs.ratio, 0.5));
  record.Add(name + "_over_seq_read_p90", Quantile(pairs.ratio, 0.9));
}

TimedSampler::TimedSampler(const Contender& contender, generator::Family family, const Size& size,
                           int workloads)
    : size_(size),
      name_(contender.name),
      sampler_(NewSampler(contender.spec)),
      outputs_(static_cast<size_t>(size.group) * size.dim),
      lse_(size.group) {
  for (int i = 0; i < workloads; ++i) {
    workloads_.emplace_back(family, size, 101 + i, 16, *sampler_, scratch_);
  }
}

void TimedSampler::Step(int pair, kv_node::Scratch& scratch) {
  kv_node::AttendStats stats;
  sampler_->Attend(workload(pair).segment(), workload(pair).Query(pair), scratch, outputs_.data(),
                   lse_.data(), nullptr, &stats);
  UseAll(outputs_, lse_);
  CHECK(!stats.exact) << "the segment was attended exactly";
  stats_.Add(stats);
}

void TimedSampler::AddFigures(double read_us, Record& record) const {
  AddPairs(name_, pairs_, read_us, record);
  const double rows = double(pairs_.step.size()) * double(size_.n);
  record.Add(name_ + "_rows_fraction",
             static_cast<double>(stats_.rows_read) / (rows * size_.group));
  record.Add(name_ + "_rows_loaded_fraction", static_cast<double>(stats_.rows_loaded) / rows);
  record.Add(name_ + "_index_bytes_per_token",
             static_cast<double>(workloads_[0].segment().index_bytes()) / double(size_.n));
}

}  // namespace sounder::suite
