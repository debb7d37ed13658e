#include "bench/suite/million.h"

#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "bench/suite/timed_sampler.h"
#include "bench/suite/timing.h"
#include "common/attention/partial_output.h"
#include "common/base/check.h"
#include "common/kernels/exact_attention.h"

namespace sounder::suite {
namespace {

constexpr double kRowFraction = 0.003;

// Outputs and lse of the group, merged over segments.
struct Merged {
  explicit Merged(const Size& size)
      : dim(size.dim),
        outputs(static_cast<size_t>(size.group) * size.dim),
        lse(size.group, attention::kEmptyLse),
        part(outputs.size()),
        part_lse(size.group) {}
  // Takes part and part_lse in.
  void Merge() {
    for (size_t h = 0; h < lse.size(); ++h) {
      attention::MergePartial(outputs.data() + h * dim, &lse[h], part.data() + h * dim, part_lse[h],
                              dim);
    }
  }
  int dim;
  std::vector<float> outputs;
  std::vector<float> lse;
  std::vector<float> part;
  std::vector<float> part_lse;
};

class Session {
 public:
  explicit Session(const SuiteSpec& spec)
      : size_(spec.size),
        sampler_(NewSampler(SketchSpec(spec.size, 128, kRowFraction))),
        head_(generator::Cache({.family = generator::Family::kPeaked,
                                .seed = 301,
                                .dim = spec.size.dim,
                                .group = spec.size.group,
                                .n = spec.size.n * spec.million_segments})
                  .MakeHead(0, 0)) {
    const int64_t row_bytes = size_.dim * 2;
    for (int i = 0; i < spec.million_segments; ++i) {
      memory::AlignedBuffer k(size_.n * row_bytes);
      memory::AlignedBuffer v(size_.n * row_bytes);
      const int64_t first = i * size_.n;
      head_.RowsAs(base::DType::kBF16, first, first + size_.n, k.data(), v.data(), row_bytes);
      copies_.emplace_back(k.bytes());
      copies_.emplace_back(v.bytes());
      auto segment = kv_node::Segment::Create(first, size_.n, size_.dim, base::DType::kBF16,
                                              std::move(k), std::move(v));
      CHECK(segment.ok());
      auto index = sampler_->BuildIndex(*(*segment)->rows(), scratch_);
      CHECK(index.ok());
      (*segment)->SetIndex(*std::move(index));
      segments_.push_back(*std::move(segment));
    }
  }

  std::vector<float> Queries(int step) const { return head_.Queries(step); }
  void Read() const {
    for (size_t i = 0; i < copies_.size(); i += 2) {
      ReadRows(copies_[i].bytes(), copies_[i + 1].bytes());
    }
  }
  Merged Attend(const std::vector<float>& queries, int step, kv_node::AttendStats* stats) {
    Merged merged(size_);
    const float scale = Scale();
    const auto prepared = sampler_->Prepare(queries.data(), size_.group, scale);
    for (const auto& segment : segments_) {
      const kv_node::GroupQuery query = {.queries = queries.data(),
                                         .group = size_.group,
                                         .prepared = prepared.get(),
                                         .row_begin = 0,
                                         .row_end = size_.n,
                                         .scale = scale,
                                         .step = static_cast<uint64_t>(step)};
      kv_node::AttendStats one;
      sampler_->Attend(*segment, query, scratch_, merged.part.data(), merged.part_lse.data(),
                       nullptr, &one);
      stats->Add(one);
      merged.Merge();
    }
    return merged;
  }
  Merged AttendExactly(const std::vector<float>& queries) const {
    Merged merged(size_);
    for (const auto& segment : segments_) {
      kernels::ExactAttention({.queries = queries.data(),
                               .query_stride = size_.dim,
                               .num_queries = size_.group,
                               .keys = segment->keys(),
                               .values = segment->values(),
                               .scale = Scale(),
                               .visible_rows = {}},
                              merged.part.data(), merged.part_lse.data());
      merged.Merge();
    }
    return merged;
  }

 private:
  float Scale() const { return static_cast<float>(1 / std::sqrt(double(size_.dim))); }

  const Size size_;
  const std::unique_ptr<kv_node::Sampler> sampler_;
  const generator::Head head_;
  kv_node::Scratch scratch_;
  std::vector<SmallPageCopy> copies_;  // of K and V of every segment
  std::vector<std::unique_ptr<kv_node::Segment>> segments_;
};

double MeanError(const Merged& merged, const Merged& truth) {
  double sum = 0;
  for (size_t h = 0; h < truth.lse.size(); ++h) {
    double difference = 0;
    double norm = 0;
    for (int i = 0; i < truth.dim; ++i) {
      const double expected = truth.outputs[h * truth.dim + i];
      difference += std::pow(merged.outputs[h * truth.dim + i] - expected, 2);
      norm += expected * expected;
    }
    sum += std::sqrt(difference / norm);
  }
  return sum / static_cast<double>(truth.lse.size());
}

}  // namespace

void MeasureMillion(const SuiteSpec& spec, cli::Record& record) {
  Progress("a session of a million tokens");
  Session session(spec);
  CacheFlusher flusher;
  Pairs pairs;
  kv_node::AttendStats stats;
  double error = 0;
  for (int step = 0; step < spec.million_steps; ++step) {
    const std::vector<float> queries = session.Queries(step);
    const double read_us = TimeCold(flusher, [&] { session.Read(); });
    Merged merged(spec.size);
    pairs.Add(read_us, TimeCold(flusher, [&] { merged = session.Attend(queries, step, &stats); }));
    UseAll(merged.outputs, merged.lse);
    error += MeanError(merged, session.AttendExactly(queries)) / spec.million_steps;
  }
  const double read_us = Quantile(pairs.read, 0.5);
  record.Add("seq_read_n1m_us", read_us);
  AddPairs("sketch_128_int8_n1m", pairs, read_us, record);
  record.Add("sketch_128_int8_n1m_error", error);
  const double rows = double(spec.million_steps) * spec.million_segments * double(spec.size.n);
  record.Add("sketch_128_int8_n1m_rows_fraction", static_cast<double>(stats.rows_loaded) / rows);
}

}  // namespace sounder::suite
