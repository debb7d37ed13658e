#include "bench/suite/suite.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/kernels/sequential_read.h"
#include "bench/suite/frontier.h"
#include "bench/suite/million.h"
#include "bench/suite/timed_sampler.h"
#include "bench/suite/timing.h"
#include "bench/suite/tuning_gain.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/base/cpu.h"
#include "common/kernels/exact_attention.h"
#include "common/kernels/signature.h"

namespace sounder::suite {
namespace {

using cli::Record;
using kv_node::Sampler;
using kv_node::SamplerSpec;
using kv_node::Segment;

std::vector<Contender> Contenders(const Size& size) {
  return {{"lsh_10_150", LshSpec(size, 150)},
          {"sketch_128_1pct_int8", SketchSpec(size, 128, 0.01)},
          {"sketch_128_2pct_int8", SketchSpec(size, 128, 0.02)}};
}

// The same with the prefetchers' help, for comparison.
void ReadRowsInParallel(const Workload& workload) {
  const uint64_t k = bench_kernels::ParallelRead(workload.key_copy());
  const uint64_t v = bench_kernels::ParallelRead(workload.value_copy());
  Use(static_cast<double>(k ^ v));
}

// The segment's own rows, in whatever pages they lie.
void ReadSegment(const Segment& segment) {
  const size_t bytes = segment.num_rows() * segment.dim() * base::SizeOf(segment.dtype());
  const uint64_t k = bench_kernels::SequentialRead({segment.keys().data, bytes});
  const uint64_t v = bench_kernels::SequentialRead({segment.values().data, bytes});
  Use(static_cast<double>(k ^ v));
}

void AttendExactly(const Size& size, const Workload& workload, int step,
                   std::vector<float>& outputs, std::vector<float>& lse) {
  const Segment& segment = workload.segment();
  kernels::ExactAttention({.queries = workload.Queries(step),
                           .query_stride = size.dim,
                           .num_queries = size.group,
                           .keys = segment.keys(),
                           .values = segment.values(),
                           .scale = workload.Query(step).scale,
                           .visible_rows = {}},
                          outputs.data(), lse.data());
  UseAll(outputs, lse);
}

// Steps and sequential reads, one after the other, so that a noisy moment meets all alike.
void TimeSteps(const SuiteSpec& spec, Record& record) {
  Progress("making segments");
  std::vector<std::unique_ptr<TimedSampler>> samplers;
  for (const Contender& contender : Contenders(spec.size)) {
    samplers.push_back(std::make_unique<TimedSampler>(contender, generator::Family::kPeaked,
                                                      spec.size, spec.workloads));
  }
  CacheFlusher flusher;
  std::vector<float> outputs(static_cast<size_t>(spec.size.group) * spec.size.dim);
  std::vector<float> lse(spec.size.group);
  std::vector<double> reads;
  std::vector<double> parallel_reads;
  std::vector<double> segment_reads;
  Pairs exact;
  Progress("timing decode steps");
  for (int pair = 0; pair < spec.pairs; ++pair) {
    const auto read = [&](const Workload& workload) {
      reads.push_back(
          TimeCold(flusher, [&] { ReadRows(workload.key_copy(), workload.value_copy()); }));
      return reads.back();
    };
    for (const auto& sampler : samplers) {
      const double read_us = read(sampler->workload(pair));
      sampler->pairs().Add(read_us, TimeCold(flusher, [&] { sampler->Step(pair); }));
    }
    const Workload& workload = samplers[0]->workload(pair);
    const double read_us = read(workload);
    exact.Add(read_us,
              TimeCold(flusher, [&] { AttendExactly(spec.size, workload, pair, outputs, lse); }));
    parallel_reads.push_back(TimeCold(flusher, [&] { ReadRowsInParallel(workload); }));
    segment_reads.push_back(TimeCold(flusher, [&] { ReadSegment(workload.segment()); }));
  }
  const double read_us = Quantile(reads, 0.5);
  record.Add("seq_read_us", read_us);
  record.Add("seq_read_gb_per_s",
             double(spec.size.n) * spec.size.dim * 2 * 2 / (read_us * 1e-6) / 1e9);
  record.Add("parallel_read_us", Quantile(parallel_reads, 0.5));
  const double segment_read_us = Quantile(segment_reads, 0.5);
  record.Add("segment_read_us", segment_read_us);
  AddPairs("exact", exact, read_us, record);
  record.Add("exact_over_segment_read", Quantile(exact.step, 0.5) / segment_read_us);
  for (const auto& sampler : samplers) sampler->AddFigures(read_us, record);
  record.Add("cache_flush_bytes", static_cast<int64_t>(flusher.bytes()));
}

// Mean, norms, signatures and tables of `n` keys, per key.
double IngestUsPerToken(const SuiteSpec& spec, const Sampler& sampler, int64_t n) {
  Size size = spec.size;
  size.n = n;
  kv_node::Scratch scratch;
  std::vector<double> us;
  Rows rows = MakeRows(generator::Family::kPeaked, 201, size);
  auto segment =
      Segment::Create(0, n, size.dim, base::DType::kBF16, std::move(rows.k), std::move(rows.v));
  CHECK(segment.ok()) << base::MessageOf(segment.status());
  for (int run = 0; run < spec.ingest_runs; ++run) {
    const double begin = base::ThreadCpuUs();
    auto index = sampler.BuildIndex(*(*segment)->rows(), scratch);
    us.push_back(base::ThreadCpuUs() - begin);
    CHECK(index.ok() && index->index != nullptr);
    Use(static_cast<double>(index->bytes()));
  }
  return Quantile(us, 0.5) / static_cast<double>(n);
}

double SignatureUs(const SuiteSpec& spec, const Sampler& sampler) {
  const lsh::Projection& projection = *sampler.projection();
  const generator::Head head =
      generator::Cache({.dim = spec.size.dim, .group = spec.size.group}).MakeHead(0, 0);
  const std::vector<float> queries = head.Queries(0);
  std::vector<uint64_t> signatures(static_cast<size_t>(spec.size.group) *
                                   projection.params().words());
  std::vector<double> us;
  for (int run = 0; run < 101; ++run) {
    const double begin = base::ThreadCpuUs();
    kernels::SignVectors(projection, queries.data(), spec.size.dim, spec.size.group,
                         signatures.data());
    us.push_back(base::ThreadCpuUs() - begin);
    Use(static_cast<double>(signatures[0]));
  }
  return Quantile(us, 0.5);
}

void MeasureAccuracy(const SuiteSpec& spec, Record& record) {
  for (const auto family :
       {generator::Family::kPeaked, generator::Family::kFlat, generator::Family::kMid,
        generator::Family::kSharp, generator::Family::kDiffuse}) {
    const std::string name(generator::NameOf(family));
    for (const Contender& contender : Contenders(spec.size)) {
      Progress(("accuracy, " + name + ", " + contender.name).c_str());
      const cli::EvalFigures figures =
          Accuracy(family, spec.size, spec.data_seeds, spec.steps, spec.hash_seeds, contender.spec);
      record.Add(contender.name + "_error_" + name, figures.mean_relative_error);
      record.Add(contender.name + "_error_p95_" + name, figures.p95_relative_error);
      record.Add(contender.name + "_z_ratio_" + name, figures.z_ratio);
      record.Add(contender.name + "_rows_fraction_" + name, figures.rows_read_fraction);
    }
  }
}

}  // namespace

SuiteSpec QuickSuite() {
  SuiteSpec spec;
  spec.pairs = 12;
  spec.workloads = 1;
  spec.ingest_runs = 3;
  spec.data_seeds = 1;
  spec.hash_seeds = 1;
  spec.steps = 6;
  spec.frontier_steps = 5;
  spec.frontier_hash_seeds = 1;
  spec.million_segments = 2;
  spec.million_steps = 3;
  return spec;
}

void RunSuite(const SuiteSpec& spec, Record& record) {
  const std::unique_ptr<Sampler> lsh = NewSampler(LshSpec(spec.size, 150));
  const std::unique_ptr<Sampler> sketch = NewSampler(SketchSpec(spec.size, 128, 0.01));
  record.Add("n", spec.size.n);
  record.Add("d", int64_t{spec.size.dim});
  record.Add("group", int64_t{spec.size.group});
  record.Add("pairs", int64_t{spec.pairs});
  record.Add("projection", std::string(lsh::NameOf(lsh->projection()->params().projection)));
  TimeSteps(spec, record);
  Progress("ingest");
  const int64_t short_n = std::min<int64_t>(4096, spec.size.n);
  record.Add("ingest_lsh_us_per_token", IngestUsPerToken(spec, *lsh, spec.size.n));
  record.Add("ingest_lsh_4096_us_per_token", IngestUsPerToken(spec, *lsh, short_n));
  record.Add("ingest_sketch_128_int8_us_per_token", IngestUsPerToken(spec, *sketch, spec.size.n));
  record.Add("ingest_sketch_128_int8_4096_us_per_token", IngestUsPerToken(spec, *sketch, short_n));
  record.Add("signature_query_us", SignatureUs(spec, *lsh));
  MeasureTuning(spec, record);
  MeasureAccuracy(spec, record);
  if (spec.frontier_steps > 0) MeasureFrontier(spec, record);
  if (spec.million_steps > 0) MeasureMillion(spec, record);
}

}  // namespace sounder::suite
