#include "bench/suite/suite.h"

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/kernels/sequential_read.h"
#include "bench/suite/timing.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/kernels/exact_attention.h"
#include "common/kernels/signature.h"

namespace sounder::suite {
namespace {

using cli::Record;
using kv_node::Sampler;
using kv_node::SamplerSpec;
using kv_node::Segment;

SamplerSpec LshSpec(const Size& size) {
  SamplerSpec spec;
  spec.kind = kv_node::SamplerKind::kLshTables;  // 10 bits, 150 tables, as its defaults
  spec.lsh.bits_per_table = 10;
  spec.lsh.num_tables = 150;
  spec.dim = size.dim;
  return spec;
}

std::unique_ptr<Sampler> NewSampler(const SamplerSpec& spec) {
  auto sampler = kv_node::MakeSampler(spec);
  CHECK(sampler.ok()) << base::MessageOf(sampler.status());
  return *std::move(sampler);
}

void Progress(const char* what) { std::fprintf(stderr, "bench: %s\n", what); }

void UseAll(const std::vector<float>& outputs, const std::vector<float>& lse) {
  double sum = 0;
  for (const float value : outputs) sum += value;
  for (const float value : lse) sum += value;
  Use(sum);
}

void ReadRows(const Segment& segment) {
  const size_t bytes = segment.num_rows() * segment.dim() * base::SizeOf(segment.dtype());
  const uint64_t k = bench_kernels::SequentialRead({segment.keys().data, bytes});
  const uint64_t v = bench_kernels::SequentialRead({segment.values().data, bytes});
  Use(static_cast<double>(k ^ v));
}

// The same with the prefetchers' help, for comparison.
void ReadRowsInParallel(const Segment& segment) {
  const size_t bytes = segment.num_rows() * segment.dim() * base::SizeOf(segment.dtype());
  const uint64_t k = bench_kernels::ParallelRead({segment.keys().data, bytes});
  const uint64_t v = bench_kernels::ParallelRead({segment.values().data, bytes});
  Use(static_cast<double>(k ^ v));
}

// Times of a step and of the reads beside it.
struct Pairs {
  std::vector<double> step;
  std::vector<double> read;
  std::vector<double> ratio;
  void Add(double read_us, double step_us) {
    read.push_back(read_us);
    step.push_back(step_us);
    ratio.push_back(step_us / read_us);
  }
};

class StepTimer {
 public:
  StepTimer(const SuiteSpec& spec, const Sampler& sampler)
      : spec_(spec),
        sampler_(sampler),
        outputs_(static_cast<size_t>(spec.size.group) * spec.size.dim),
        lse_(spec.size.group) {
    for (int i = 0; i < spec.workloads; ++i) {
      workloads_.emplace_back(spec.size, 101 + i, 16, sampler, scratch_);
    }
  }

  void Run() {
    for (int pair = 0; pair < spec_.pairs; ++pair) {
      const Workload& workload = workloads_[pair % workloads_.size()];
      const double read1 = TimeCold(flusher_, [&] { ReadRows(workload.segment()); });
      lsh.Add(read1, TimeCold(flusher_, [&] { Sampled(workload, pair); }));
      const double read2 = TimeCold(flusher_, [&] { ReadRows(workload.segment()); });
      exact.Add(read2, TimeCold(flusher_, [&] { Exact(workload, pair); }));
      parallel_read.push_back(TimeCold(flusher_, [&] { ReadRowsInParallel(workload.segment()); }));
    }
  }

  double rows_fraction() const {
    return static_cast<double>(stats_.rows_read) /
           (double(spec_.pairs) * spec_.size.group * double(spec_.size.n));
  }
  double loaded_fraction() const {
    return static_cast<double>(stats_.rows_loaded) / (double(spec_.pairs) * double(spec_.size.n));
  }
  double index_bytes_per_token() const {
    return static_cast<double>(workloads_[0].segment().index_bytes()) / double(spec_.size.n);
  }
  size_t flush_bytes() const { return flusher_.bytes(); }

  Pairs lsh;
  Pairs exact;
  std::vector<double> parallel_read;

 private:
  void Sampled(const Workload& workload, int step) {
    kv_node::AttendStats stats;
    sampler_.Attend(workload.segment(), workload.Query(step), scratch_, outputs_.data(),
                    lse_.data(), nullptr, &stats);
    UseAll(outputs_, lse_);
    CHECK(!stats.exact) << "the segment was attended exactly";
    stats_.Add(stats);
  }

  void Exact(const Workload& workload, int step) {
    const Segment& segment = workload.segment();
    kernels::ExactAttention({.queries = workload.Queries(step),
                             .query_stride = spec_.size.dim,
                             .num_queries = spec_.size.group,
                             .keys = segment.keys(),
                             .values = segment.values(),
                             .scale = workload.Query(step).scale,
                             .visible_rows = {}},
                            outputs_.data(), lse_.data());
    UseAll(outputs_, lse_);
  }

  const SuiteSpec& spec_;
  const Sampler& sampler_;
  kv_node::Scratch scratch_;
  CacheFlusher flusher_;
  std::vector<Workload> workloads_;
  std::vector<float> outputs_;
  std::vector<float> lse_;
  kv_node::AttendStats stats_;
};

void AddPairs(const std::string& name, const Pairs& pairs, double read_us, Record& record) {
  const double us = Quantile(pairs.step, 0.5);
  record.Add(name + "_us", us);
  record.Add(name + "_over_seq_read", us / read_us);
  record.Add(name + "_over_seq_read_p10", Quantile(pairs.ratio, 0.1));
  record.Add(name + "_over_seq_read_p50", Quantile(pairs.ratio, 0.5));
  record.Add(name + "_over_seq_read_p90", Quantile(pairs.ratio, 0.9));
}

void TimeSteps(const SuiteSpec& spec, const Sampler& sampler, Record& record) {
  Progress("making segments");
  StepTimer timer(spec, sampler);
  Progress("timing decode steps");
  timer.Run();
  std::vector<double> reads = timer.lsh.read;
  reads.insert(reads.end(), timer.exact.read.begin(), timer.exact.read.end());
  const double read_us = Quantile(reads, 0.5);
  record.Add("seq_read_us", read_us);
  record.Add("seq_read_gb_per_s",
             double(spec.size.n) * spec.size.dim * 2 * 2 / (read_us * 1e-6) / 1e9);
  record.Add("parallel_read_us", Quantile(timer.parallel_read, 0.5));
  AddPairs("exact", timer.exact, read_us, record);
  AddPairs("lsh_10_150", timer.lsh, read_us, record);
  record.Add("lsh_10_150_rows_fraction", timer.rows_fraction());
  record.Add("lsh_10_150_rows_loaded_fraction", timer.loaded_fraction());
  record.Add("lsh_10_150_index_bytes_per_token", timer.index_bytes_per_token());
  record.Add("cache_flush_bytes", static_cast<int64_t>(timer.flush_bytes()));
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
    const double begin = ThreadCpuUs();
    auto index = sampler.BuildIndex(**segment, scratch);
    us.push_back(ThreadCpuUs() - begin);
    CHECK(index.ok() && *index != nullptr);
    Use(static_cast<double>((*index)->bytes()));
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
    const double begin = ThreadCpuUs();
    kernels::SignVectors(projection, queries.data(), spec.size.dim, spec.size.group,
                         signatures.data());
    us.push_back(ThreadCpuUs() - begin);
    Use(static_cast<double>(signatures[0]));
  }
  return Quantile(us, 0.5);
}

void MeasureAccuracy(const SuiteSpec& spec, Record& record) {
  for (const auto family : {generator::Family::kPeaked, generator::Family::kFlat}) {
    const std::string name(generator::NameOf(family));
    Progress(("accuracy, " + name).c_str());
    const cli::EvalFigures figures = Accuracy(family, spec.size, spec.data_seeds, spec.steps,
                                              spec.hash_seeds, LshSpec(spec.size));
    record.Add("lsh_10_150_error_" + name, figures.mean_relative_error);
    record.Add("lsh_10_150_error_p95_" + name, figures.p95_relative_error);
    record.Add("lsh_10_150_z_ratio_" + name, figures.z_ratio);
    record.Add("lsh_10_150_rows_fraction_" + name, figures.rows_read_fraction);
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
  return spec;
}

Record RunSuite(const SuiteSpec& spec) {
  const std::unique_ptr<Sampler> sampler = NewSampler(LshSpec(spec.size));
  Record record;
  record.Add("n", spec.size.n);
  record.Add("d", int64_t{spec.size.dim});
  record.Add("group", int64_t{spec.size.group});
  record.Add("pairs", int64_t{spec.pairs});
  record.Add("projection", std::string(lsh::NameOf(sampler->projection()->params().projection)));
  TimeSteps(spec, *sampler, record);
  Progress("ingest");
  record.Add("ingest_lsh_us_per_token", IngestUsPerToken(spec, *sampler, spec.size.n));
  record.Add("ingest_lsh_4096_us_per_token",
             IngestUsPerToken(spec, *sampler, std::min<int64_t>(4096, spec.size.n)));
  record.Add("signature_query_us", SignatureUs(spec, *sampler));
  MeasureAccuracy(spec, record);
  return record;
}

}  // namespace sounder::suite
