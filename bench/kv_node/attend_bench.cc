// What one decode step costs per segment and group, and what indexing costs per row, against a
// sequential read of the same K and V rows: thread CPU time, last-level cache flushed before every
// timed step, the contestants interleaved. Prints medians.
//
//   kv_node_attend_bench [--simd AVX2] [--rows 65536] [--pairs 60] [--projection hadamard]

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/base/cpu.h"
#include "common/base/philox.h"
#include "common/kernels/exact_attention.h"
#include "common/kernels/row_statistics.h"
#include "common/kernels/signature.h"
#include "common/kernels/simd_level.h"
#include "kv_node/sampler/lsh_tables_sampler.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::kv_node {
namespace {

constexpr int kDim = 128;
constexpr int kGroup = 4;

double Median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + x.size() / 2, x.end());
  return x[x.size() / 2];
}

// Anisotropic normal vectors: spectrum (1 + j / 8)^-decay. The decay sets how far cosines spread.
void Draw(base::PhiloxStream& stream, double scale, double decay, float* x) {
  for (int j = 0; j < kDim; ++j) {
    x[j] = static_cast<float>(scale * stream.NextGaussian() * std::pow(1 + j / 8.0, -decay));
  }
}

memory::AlignedBuffer DrawRows(uint64_t seed, int64_t rows, double decay, double offset) {
  memory::AlignedBuffer buffer(rows * kDim * 2);
  base::PhiloxStream stream(seed, 0);
  float x[kDim];
  for (int64_t r = 0; r < rows; ++r) {
    Draw(stream, 1, decay, x);
    for (int j = 0; j < kDim; ++j) {
      base::StoreElement(x[j] + static_cast<float>(offset), buffer.data() + (r * kDim + j) * 2,
                         base::DType::kBF16);
    }
  }
  return buffer;
}

// Sums 64-bit words: the least work a sequential read can do.
uint64_t SequentialRead(const memory::AlignedBuffer& buffer) {
  const auto words = buffer.As<uint64_t>();
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= words.size(); i += 8) {
    for (int k = 0; k < 8; ++k) sums[k] += words[i + k];
  }
  uint64_t sum = 0;
  for (uint64_t s : sums) sum += s;
  return sum;
}

struct Contestant {
  std::string name;
  std::function<void()> step;
  std::vector<double> us;
};

struct Options {
  std::string simd = "best";
  int64_t rows = 65536;
  int pairs = 60;
  int bits = 10;
  int tables = 150;
  double decay = 0.69;
  lsh::ProjectionKind projection = lsh::ProjectionKind::kHadamard;
};

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const char* value = argv[i + 1];
    if (flag == "--simd") options.simd = value;
    if (flag == "--rows") options.rows = std::atoll(value);
    if (flag == "--pairs") options.pairs = std::atoi(value);
    if (flag == "--bits") options.bits = std::atoi(value);
    if (flag == "--tables") options.tables = std::atoi(value);
    if (flag == "--decay") options.decay = std::atof(value);
    if (flag == "--projection") options.projection = *lsh::ParseProjectionKind(value);
  }
  return options;
}

double MedianTime(int times, const std::function<void()>& step) {
  std::vector<double> us;
  for (int i = 0; i < times; ++i) {
    const double begin = base::ThreadCpuUs();
    step();
    us.push_back(base::ThreadCpuUs() - begin);
  }
  return Median(us);
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        spec_({.kind = SamplerKind::kLshTables,
               .lsh = {.bits_per_table = options.bits,
                       .num_tables = options.tables,
                       .projection = options.projection},
               .dim = kDim}),
        lsh_(*MakeSampler(spec_)),
        exact_(*MakeSampler({.kind = SamplerKind::kExact, .dim = kDim})),
        flush_(96 << 17, 1),  // 96 MiB
        queries_(kGroup * kDim),
        signatures_(kGroup * spec_.lsh.words()),
        outputs_(kGroup * kDim),
        lse_(kGroup) {
    memory::AlignedBuffer keys = DrawRows(1, options.rows, options.decay, 0.3);
    memory::AlignedBuffer values = DrawRows(2, options.rows, 0, 0);
    key_copy_ = memory::AlignedBuffer::CopyOf(keys.bytes());
    value_copy_ = memory::AlignedBuffer::CopyOf(values.bytes());
    segment_ = *Segment::Create(0, options.rows, kDim, base::DType::kBF16, std::move(keys),
                                std::move(values));
  }

  void Ingest();
  void Attend();

 private:
  void Ask(const Sampler& sampler, AttendStats* stats);
  void FlushCache();

  const Options options_;
  const SamplerSpec spec_;
  const std::unique_ptr<Sampler> lsh_;
  const std::unique_ptr<Sampler> exact_;
  std::unique_ptr<Segment> segment_;
  memory::AlignedBuffer key_copy_;
  memory::AlignedBuffer value_copy_;
  Scratch scratch_;
  std::vector<uint64_t> flush_;
  volatile uint64_t sink_ = 0;
  std::vector<float> queries_;
  std::vector<uint64_t> signatures_;
  std::vector<float> outputs_;
  std::vector<float> lse_;
};

void Bench::Ingest() {
  const double rows = static_cast<double>(options_.rows);
  BuiltIndex index;
  const double build = MedianTime(3, [&] {
    index = {};
    index = *lsh_->BuildIndex(*segment_->rows(), scratch_);
  });
  segment_->SetIndex(std::move(index));
  scratch_.ReleaseCodes();
  std::vector<uint16_t> codes(options_.tables * (options_.rows + 32));
  std::vector<float> mean(kDim);
  std::vector<float> norms(options_.rows);
  const double statistics = MedianTime(3, [&] {
    kernels::MeanOfRows(segment_->keys(), mean.data());
    kernels::CentredNorms(segment_->keys(), mean.data(), norms.data());
  });
  const double sign = MedianTime(3, [&] {
    kernels::SignRows(*lsh_->projection(), segment_->keys(), mean.data(), codes.data(),
                      options_.rows + 32);
  });
  std::printf("ingest %.3f us per row: signatures %.3f, mean and norms %.3f\n", build / rows,
              sign / rows, statistics / rows);
  std::printf("index %.1f bytes per row\n", static_cast<double>(segment_->index_bytes()) / rows);
}

void Bench::Ask(const Sampler& sampler, AttendStats* stats) {
  sampler.Attend(*segment_,
                 {.queries = queries_.data(),
                  .group = kGroup,
                  .signatures = signatures_.data(),
                  .row_begin = 0,
                  .row_end = options_.rows,
                  .scale = 1 / std::sqrt(float{kDim})},
                 scratch_, outputs_.data(), lse_.data(), nullptr, stats);
}

void Bench::FlushCache() {
  uint64_t sum = 0;
  for (uint64_t& word : flush_) sum += word++;
  sink_ = sink_ + sum;
}

void Bench::Attend() {
  AttendStats stats;
  std::vector<Contestant> contestants;
  contestants.push_back(
      {"seq_read",
       [&] { sink_ = sink_ + SequentialRead(key_copy_) + SequentialRead(value_copy_); },
       {}});
  contestants.push_back({"exact", [&] { Ask(*exact_, nullptr); }, {}});
  contestants.push_back({"lsh", [&] { Ask(*lsh_, &stats); }, {}});
  std::vector<double> read_fraction;
  base::PhiloxStream stream(3, 0);
  for (int pair = 0; pair < options_.pairs; ++pair) {
    for (int g = 0; g < kGroup; ++g) Draw(stream, 1.5, options_.decay, queries_.data() + g * kDim);
    kernels::SignVectors(*lsh_->projection(), queries_.data(), kDim, kGroup, signatures_.data());
    for (Contestant& contestant : contestants) {
      FlushCache();
      const double begin = base::ThreadCpuUs();
      contestant.step();
      contestant.us.push_back(base::ThreadCpuUs() - begin);
    }
    read_fraction.push_back(static_cast<double>(stats.rows_read) / kGroup /
                            static_cast<double>(options_.rows));
  }
  for (const Contestant& contestant : contestants) {
    std::vector<double> ratio;
    for (size_t i = 0; i < contestant.us.size(); ++i) {
      ratio.push_back(contestant.us[i] / contestants[0].us[i]);
    }
    std::printf("%-10s %9.1f us  ratio of medians %6.3f, median ratio %6.3f\n",
                contestant.name.c_str(), Median(contestant.us),
                Median(contestant.us) / Median(contestants[0].us), Median(ratio));
  }
  std::printf("rows per query head %.2f %%, loaded %.2f %%, ids walked %lld\n",
              100 * Median(read_fraction),
              100.0 * static_cast<double>(stats.rows_loaded) / static_cast<double>(options_.rows),
              static_cast<long long>(stats.ids_walked));
}

int Main(const Options& options) {
  CHECK(kernels::ForceSimdLevel(options.simd).ok()) << options.simd;
  std::printf("simd %s rows %lld K %d L %d %s\n", kernels::CurrentSimdLevel().c_str(),
              static_cast<long long>(options.rows), options.bits, options.tables,
              std::string(lsh::NameOf(options.projection)).c_str());
  Bench bench(options);
  bench.Ingest();
  bench.Attend();
  return 0;
}

}  // namespace
}  // namespace sounder::kv_node

int main(int argc, char** argv) {
  return sounder::kv_node::Main(sounder::kv_node::Parse(argc, argv));
}
