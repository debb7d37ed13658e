// The figures of `eval` against a second computation of everything but the signatures: plain loops
// in float64, collisions counted by comparing codes, no tables, no kernels, no merging.
#include "cli/eval_figures.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "common/base/absl_text.h"
#include "common/kernels/row_statistics.h"
#include "common/lsh/inclusion_probability.h"
#include "common/lsh/signature.h"
#include "common/lsh/signature_ref.h"
#include "tests/cli/qkv_file.h"

namespace sounder::cli {
namespace {

struct Expected {
  std::vector<double> errors;
  double rows_read = 0, rows_loaded = 0, rows_exact = 0, z_ratio = 0;
  std::vector<double> outputs;  // of the first seed
};

// u by the definition: 1 - P[fewer than `min` of L tables collide], for Gaussian directions.
double GaussianInclusion(double cosine, const lsh::LshParams& params) {
  const double p =
      std::pow(1 - std::acos(std::clamp(cosine, -1.0, 1.0)) / M_PI, params.bits_per_table);
  double below = 0, choose = 1;
  for (int i = 0; i < params.min_collisions; ++i) {
    below += choose * std::pow(p, i) * std::pow(1 - p, params.num_tables - i);
    choose = choose * (params.num_tables - i) / (i + 1);
  }
  return 1 - below;
}

class Recount {
 public:
  Recount(const Qkv& data, const EvalSpec& spec) : data_(data), spec_(spec) {
    const int64_t sinks = std::min(spec.sinks, data.n);
    begin_ = sinks;
    end_ = std::max(sinks, data.n - spec.window);
  }

  Expected Run() {
    for (int64_t seed = 0; seed < spec_.seeds; ++seed) {
      for (int64_t head = 0; head < data_.kv_heads; ++head) Head(seed, head);
    }
    const double count = static_cast<double>(expected_.errors.size());
    const double rows = static_cast<double>(end_ - begin_);
    if (expected_.rows_read > 0) expected_.rows_exact /= expected_.rows_read;
    if (rows > 0) {
      expected_.rows_read /= count * rows;
      expected_.rows_loaded /=
          static_cast<double>(spec_.seeds * data_.kv_heads * data_.steps) * rows;
    }
    expected_.z_ratio = rows > 0 ? expected_.z_ratio / count : 1;
    return expected_;
  }

 private:
  const float* Key(int64_t row, int64_t head) const {
    return &data_.k[(row * data_.kv_heads + head) * data_.dim];
  }

  // The rows [begin, end) of one head as a segment of its own: codes of its rows.
  struct Part {
    int64_t begin, end;
    std::vector<float> mean;
    std::vector<std::vector<uint64_t>> signatures;
  };

  void Head(int64_t seed, int64_t head) {
    lsh::LshParams params = spec_.sampler.lsh;
    params.seed += seed;
    const auto projection = lsh::Projection::Create(params, static_cast<int>(data_.dim));
    ASSERT_TRUE(projection.ok());
    std::vector<Part> parts;
    for (int64_t at = begin_; at < end_; at += 65536) {
      Part part{at, std::min(end_, at + 65536), std::vector<float>(data_.dim), {}};
      if (Sampled(part)) Sign(*projection, head, part);
      parts.push_back(part);
    }
    for (int64_t step = 0; step < data_.steps; ++step) {
      std::set<int64_t> loaded;
      const int64_t group = data_.query_heads / data_.kv_heads;
      for (int64_t member = 0; member < group; ++member) {
        Query(*projection, parts, step, head, head * group + member, seed == 0, loaded);
      }
      expected_.rows_loaded += static_cast<double>(loaded.size());
    }
  }

  bool Sampled(const Part& part) const {
    return spec_.sampler.kind == kv_node::SamplerKind::kLshTables &&
           part.end - part.begin >= spec_.sampler.min_indexed_rows;
  }

  void Sign(const lsh::Projection& projection, int64_t head, Part& part) {
    std::vector<float> keys;
    for (int64_t row = part.begin; row < part.end; ++row) {
      keys.insert(keys.end(), Key(row, head), Key(row, head) + data_.dim);
    }
    kernels::MeanOfRows({.data = reinterpret_cast<const std::byte*>(keys.data()),
                         .rows = part.end - part.begin,
                         .row_stride = data_.dim * 4,
                         .dim = static_cast<int>(data_.dim),
                         .dtype = base::DType::kF32},
                        part.mean.data());
    for (int64_t row = 0; row < part.end - part.begin; ++row) {
      part.signatures.emplace_back(projection.params().words());
      lsh::SignatureRef(projection, &keys[row * data_.dim], part.mean.data(),
                        part.signatures.back().data());
    }
  }

  // 0 where the row is no candidate.
  double Inclusion(const lsh::Projection& projection, const Part& part, int64_t head, int64_t row,
                   const float* query, const std::vector<uint64_t>& signature) const {
    if (!Sampled(part)) return 1;
    const lsh::LshParams& params = projection.params();
    const uint64_t* own = part.signatures[row - part.begin].data();
    int collisions = 0;
    for (int t = 0; t < params.num_tables; ++t) {
      collisions += lsh::CodeOf(own, t, params.bits_per_table) ==
                    lsh::CodeOf(signature.data(), t, params.bits_per_table);
    }
    if (collisions < params.min_collisions) return 0;
    double dot = 0, query_norm = 0, norm = 0;
    for (int64_t j = 0; j < data_.dim; ++j) {
      const double centred = double{Key(row, head)[j]} - part.mean[j];
      dot += centred * query[j];
      norm += centred * centred;
      query_norm += double{query[j]} * query[j];
    }
    // A key that equals the mean has no direction: at a right angle to everything.
    const double cosine = norm == 0 ? 0 : dot / std::sqrt(norm * query_norm);
    return params.projection == lsh::ProjectionKind::kGaussian
               ? GaussianInclusion(cosine, params)
               : lsh::InclusionProbability(projection, cosine);
  }

  void Query(const lsh::Projection& projection, const std::vector<Part>& parts, int64_t step,
             int64_t head, int64_t query_head, bool first_seed, std::set<int64_t>& loaded) {
    const float* query = &data_.q[(step * data_.query_heads + query_head) * data_.dim];
    std::vector<uint64_t> signature(projection.params().words());
    lsh::SignatureRef(projection, query, nullptr, signature.data());
    std::vector<double> weights(data_.n, 1), logits(data_.n);
    for (const Part& part : parts) {
      for (int64_t row = part.begin; row < part.end; ++row) {
        const double u = Inclusion(projection, part, head, row, query, signature);
        weights[row] = u == 0 ? 0 : 1 / u;
        if (u == 0) continue;
        loaded.insert(row);
        ++expected_.rows_read;
        expected_.rows_exact += Sampled(part) ? 0 : 1;
      }
    }
    double top = -std::numeric_limits<double>::infinity();
    for (int64_t row = 0; row < data_.n; ++row) {
      for (int64_t j = 0; j < data_.dim; ++j) {
        logits[row] += double{query[j]} * Key(row, head)[j] / std::sqrt(double(data_.dim));
      }
      top = std::max(top, logits[row]);
    }
    double z = 0, z_hat = 0, dynamic = 0, dynamic_hat = 0;
    std::vector<double> o(data_.dim), o_hat(data_.dim);
    for (int64_t row = 0; row < data_.n; ++row) {
      const double w = std::exp(logits[row] - top);
      z += w;
      z_hat += w * weights[row];
      if (row >= begin_ && row < end_) {
        dynamic += w;
        dynamic_hat += w * weights[row];
      }
      for (int64_t j = 0; j < data_.dim; ++j) {
        const double value = data_.v[(row * data_.kv_heads + head) * data_.dim + j];
        o[j] += w * value;
        o_hat[j] += w * weights[row] * value;
      }
    }
    double difference = 0, norm = 0;
    for (int64_t j = 0; j < data_.dim; ++j) {
      const double truth = z == 0 ? 0 : o[j] / z, estimate = z_hat == 0 ? 0 : o_hat[j] / z_hat;
      difference += (truth - estimate) * (truth - estimate);
      norm += truth * truth;
      if (first_seed) {
        expected_.outputs.resize(data_.q.size());
        expected_.outputs[(step * data_.query_heads + query_head) * data_.dim + j] = estimate;
      }
    }
    expected_.errors.push_back(difference == 0 ? 0 : std::sqrt(difference / norm));
    if (dynamic > 0) expected_.z_ratio += dynamic_hat / dynamic;
  }

  const Qkv& data_;
  const EvalSpec& spec_;
  int64_t begin_, end_;
  Expected expected_;
};

double MeanOf(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

// The 95th percentile by its definition: interpolated at rank .95 (count - 1).
double P95Of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const double rank = 0.95 * static_cast<double>(values.size() - 1);
  const size_t low = static_cast<size_t>(std::floor(rank));
  const size_t high = static_cast<size_t>(std::ceil(rank));
  return values[low] * (1 - (rank - std::floor(rank))) + values[high] * (rank - std::floor(rank));
}

EvalFigures FiguresOf(const Qkv& data, const EvalSpec& spec) {
  const std::string path = TempPath("figures.safetensors");
  data.Write(path);
  const auto input = LoadEvalInput(path);
  EXPECT_TRUE(input.ok()) << input.status();
  const auto figures = Evaluate(*input, spec);
  EXPECT_TRUE(figures.ok()) << figures.status();
  std::remove(path.c_str());
  return *figures;
}

void ExpectSame(const Qkv& data, const EvalSpec& spec) {
  SCOPED_TRACE(testing::Message() << "n " << data.n << " d " << data.dim << " heads "
                                  << data.query_heads << "/" << data.kv_heads << " "
                                  << base::NameOf(data.dtype));
  const EvalFigures figures = FiguresOf(data, spec);
  const Expected expected = Recount(data, spec).Run();
  // f32 arithmetic, and u interpolated in a table: parts in a thousand. Counts are exact.
  const double error = MeanOf(expected.errors);
  EXPECT_NEAR(figures.mean_relative_error, error, 2e-3 * error + 2e-6);
  EXPECT_NEAR(figures.p95_relative_error, P95Of(expected.errors), 5e-3 * error + 2e-6);
  EXPECT_DOUBLE_EQ(figures.rows_read_fraction, expected.rows_read);
  EXPECT_DOUBLE_EQ(figures.rows_loaded_fraction, expected.rows_loaded);
  EXPECT_DOUBLE_EQ(figures.rows_exact_fraction, expected.rows_exact);
  EXPECT_NEAR(figures.z_ratio, expected.z_ratio, 2e-3 * expected.z_ratio);
  ASSERT_EQ(figures.outputs.size(), data.q.size());
  for (size_t i = 0; i < expected.outputs.size(); ++i) {
    ASSERT_NEAR(figures.outputs[i], expected.outputs[i], 2e-3) << i;
  }
  EXPECT_GT(figures.us_per_step, 0);
}

EvalSpec LshSpec(int bits, int tables, int min_collisions = 2) {
  EvalSpec spec;
  spec.sampler.kind = kv_node::SamplerKind::kLshTables;
  spec.sampler.lsh.bits_per_table = bits;
  spec.sampler.lsh.num_tables = tables;
  spec.sampler.lsh.min_collisions = min_collisions;
  spec.sampler.min_indexed_rows = 1;
  spec.sinks = 4;
  spec.window = 16;
  spec.seeds = 2;
  return spec;
}

TEST(EvalFiguresTest, LshOverOddShapesAndDtypes) {
  const struct {
    int64_t steps, n, query_heads, kv_heads, dim;
    base::DType dtype;
  } cases[] = {{3, 301, 4, 2, 16, base::DType::kF32},  {2, 257, 3, 3, 8, base::DType::kF16},
               {2, 411, 5, 1, 24, base::DType::kBF16}, {1, 199, 8, 2, 136, base::DType::kBF16},
               {2, 333, 2, 1, 128, base::DType::kF16}, {1, 21, 1, 1, 40, base::DType::kF32}};
  for (const auto kind : {lsh::ProjectionKind::kGaussian, lsh::ProjectionKind::kHadamard}) {
    for (const auto& c : cases) {
      Qkv data{c.steps, c.n, c.query_heads, c.kv_heads, c.dim, c.dtype, {}, {}, {}};
      data.Fill(c.n);
      EvalSpec spec = LshSpec(6, 30);
      spec.sampler.lsh.projection = kind;
      ExpectSame(data, spec);
    }
  }
}

TEST(EvalFiguresTest, OtherCollisionsSeedsAndCuts) {
  Qkv data{.steps = 2, .n = 290, .query_heads = 4, .kv_heads = 2, .dim = 32};
  data.Fill(2);
  EvalSpec spec = LshSpec(5, 40, 3);
  spec.sampler.lsh.projection = lsh::ProjectionKind::kGaussian;
  ExpectSame(data, spec);
  spec = LshSpec(4, 9, 1);
  spec.sampler.lsh.projection = lsh::ProjectionKind::kGaussian;
  spec.sampler.lsh.seed = 77;
  spec.sinks = 0;
  spec.window = 0;
  spec.seeds = 3;
  ExpectSame(data, spec);
  spec.window = 64;
  spec.sampler.min_indexed_rows = 1000;  // so nothing is sampled
  ExpectSame(data, spec);
}

// More rows than a segment holds: the second one has a mean of its own.
TEST(EvalFiguresTest, SeveralSegments) {
  Qkv data{.steps = 1,
           .n = 65536 + 900,
           .query_heads = 2,
           .kv_heads = 1,
           .dim = 8,
           .dtype = base::DType::kBF16};
  data.Fill(9);
  for (int64_t i = 65540 * 8; i < data.n * 8; ++i) data.k[i] += 2;
  for (float& x : data.k) x = base::RoundTo(data.dtype, x);
  EvalSpec spec = LshSpec(8, 24);
  spec.seeds = 1;
  ExpectSame(data, spec);
  // 65,536 + 900 - 20 rows; the index is at least 2 bytes a row and table and no more than 3.
  const EvalFigures figures = FiguresOf(data, spec);
  EXPECT_GT(figures.index_bytes_per_token, 2 * 24);
  EXPECT_LT(figures.index_bytes_per_token, 3 * 24);
  EXPECT_GE(figures.row_bytes_per_token, 2 * 8 * 2);
  EXPECT_LT(figures.row_bytes_per_token, 2 * 8 * 2 + 1);
  EXPECT_EQ(figures.rows_exact_fraction, 0);
  spec.sampler.min_indexed_rows = 1024;  // the second segment is too short
  ExpectSame(data, spec);
  const double exact = FiguresOf(data, spec).rows_exact_fraction;
  EXPECT_GT(exact, 0);
  EXPECT_LT(exact, 1);
}

TEST(EvalFiguresTest, ExactIsExact) {
  for (const base::DType dtype : {base::DType::kF32, base::DType::kF16, base::DType::kBF16}) {
    Qkv data{.steps = 3, .n = 345, .query_heads = 6, .kv_heads = 2, .dim = 48, .dtype = dtype};
    data.Fill(4);
    EvalSpec spec = LshSpec(6, 30);
    spec.sampler.kind = kv_node::SamplerKind::kExact;
    ExpectSame(data, spec);
    const EvalFigures figures = FiguresOf(data, spec);
    EXPECT_LT(figures.p95_relative_error, 1e-5);
    EXPECT_EQ(figures.rows_read_fraction, 1);
    EXPECT_EQ(figures.rows_loaded_fraction, 1);
    EXPECT_EQ(figures.rows_exact_fraction, 1);
    EXPECT_EQ(figures.index_bytes_per_token, 0);
  }
}

TEST(EvalFiguresTest, NothingBetweenSinksAndWindow) {
  for (const int64_t n : {0, 1, 4, 19, 20}) {
    Qkv data{.steps = 2, .n = n, .query_heads = 2, .kv_heads = 1, .dim = 16};
    data.Fill(n + 1);
    const EvalFigures figures = FiguresOf(data, LshSpec(6, 30));
    EXPECT_LT(figures.mean_relative_error, 1e-6) << n;
    EXPECT_EQ(figures.rows_read_fraction, 0);
    EXPECT_EQ(figures.rows_loaded_fraction, 0);
    EXPECT_EQ(figures.z_ratio, 1);
    EXPECT_EQ(figures.index_bytes_per_token, 0);
    EXPECT_EQ(figures.row_bytes_per_token, 0);
    ExpectSame(data, LshSpec(6, 30));
  }
}

// The recount would notice: another u, another threshold, keys that are not centred.
TEST(EvalFiguresTest, MutantsDiffer) {
  Qkv data{.steps = 4, .n = 400, .query_heads = 4, .kv_heads = 2, .dim = 32};
  data.Fill(6);
  EvalSpec spec = LshSpec(6, 30);
  spec.sampler.lsh.projection = lsh::ProjectionKind::kGaussian;
  const EvalFigures figures = FiguresOf(data, spec);
  EvalSpec mutant = spec;
  mutant.sampler.lsh.min_collisions = 1;
  EXPECT_GT(Recount(data, mutant).Run().rows_read, 1.2 * figures.rows_read_fraction);
  mutant = spec;
  mutant.sampler.lsh.num_tables = 29;
  EXPECT_NE(Recount(data, mutant).Run().rows_read, figures.rows_read_fraction);
  Qkv shifted = data;
  for (float& x : shifted.k) x += 1;  // centring takes it out again
  const Expected same = Recount(shifted, spec).Run();
  EXPECT_NEAR(same.rows_read, figures.rows_read_fraction, 1e-3);
}

}  // namespace
}  // namespace sounder::cli
