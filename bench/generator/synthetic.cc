#include "bench/generator/synthetic.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "bench/generator/normal_table.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/philox.h"

namespace sounder::generator {
namespace {

constexpr int kTopics = 64;
constexpr double kMeanRun = 40;  // positions

// What tells the families apart. Norms are for d = 128 and grow with sqrt(d), so that logits keep
// their spread at other dimensions.
struct Shape {
  double topic_norm;
  double noise_norm;
  double norm_sigma;  // of the lognormal factor
  double noise_ar;    // correlation of the noise of neighbouring positions
  double query_norm;
  double shared_part;  // weights of the query's components before it gets its norm
  double own_part;
  double aligned;      // weight of each aligned key
  int aligned_keys;    // shared by the group; as many again per query head
  int query_spectrum;  // query parts are drawn with the spectrum of the noise to this power
};

constexpr double kMeanNorm = 12;

// Parts of a value's elements, of variance 1 together: what all rows share (outputs of diffuse
// heads are not noise around zero), the topic's, the row's own.
constexpr float kValueMean = 0.4f;
constexpr float kValueTopic = 0.5f;
constexpr float kValueOwn = 0.77f;

Shape ShapeOf(Family family) {
  switch (family) {
    case Family::kPeaked:
      return {10 * .45, 10 * .89, .19, 0, 21, .6, .5, .22, 3, 5};
    case Family::kFlat:
      return {10 * .45, 10 * .89, .19, 0, 13.35, .6, .5, .22, 3, 5};
    case Family::kMid:
      return {6, 7, .12, .7, 22.5, 1, .55, 0, 0, 0};
    case Family::kSharp:
      return {6, 7, .12, .7, 23, 0, .8, 1, 1, 0};
    case Family::kDiffuse:
      return {6, 7, .12, .7, 13.7, .7, .7, 0, 0, 0};
  }
  CHECK(false) << "family " << static_cast<int>(family);
  return {};
}

// What a stream of random numbers is for.
enum Purpose : uint32_t {
  kBasis,
  kTopicVectors,
  kValueTopics,
  kMeanVector,
  kRuns,
  kKeyNoise,
  kKeyNorm,
  kValueNoise,
  kQuery
};

double Norm(std::span<const float> x) {
  double sum = 0;
  for (const float value : x) sum += double{value} * value;
  return std::sqrt(sum);
}

void Scale(std::span<float> x, double factor) {
  for (float& value : x) value = static_cast<float>(value * factor);
}

void AddScaled(std::span<const float> x, double factor, std::span<float> sum) {
  for (size_t j = 0; j < sum.size(); ++j) sum[j] += static_cast<float>(factor * x[j]);
}

// out = sum over j of coordinates[j] * basis[j], four basis vectors per pass over `out`.
void Combine(std::span<const float> coordinates, const float* __restrict basis,
             float* __restrict out) {
  const size_t dim = coordinates.size();
  std::fill(out, out + dim, 0.0f);
  for (size_t j = 0; j < dim; j += 4) {
    const float c0 = coordinates[j], c1 = coordinates[j + 1];
    const float c2 = coordinates[j + 2], c3 = coordinates[j + 3];
    const float* __restrict b = basis + j * dim;
    for (size_t i = 0; i < dim; ++i) {
      out[i] += c0 * b[i] + c1 * b[dim + i] + c2 * b[2 * dim + i] + c3 * b[3 * dim + i];
    }
  }
}

}  // namespace

std::string_view NameOf(Family family) {
  switch (family) {
    case Family::kPeaked:
      return "peaked";
    case Family::kFlat:
      return "flat";
    case Family::kMid:
      return "mid";
    case Family::kSharp:
      return "sharp";
    case Family::kDiffuse:
      return "diffuse";
  }
  return "unknown";
}

std::optional<Family> ParseFamily(std::string_view name) {
  for (const Family family :
       {Family::kPeaked, Family::kFlat, Family::kMid, Family::kSharp, Family::kDiffuse}) {
    if (NameOf(family) == name) return family;
  }
  return std::nullopt;
}

struct Head::Block {
  int64_t begin = 0;
  std::vector<uint8_t> topics;  // of its kBlockRows positions
};

// Noise coordinates (in the random basis, without the spectrum) of successive positions of a block.
class Head::Walk {
 public:
  Walk(const Head& head, int64_t position)
      : head_(head),
        ar_(ShapeOf(head.options_.family).noise_ar),
        key_(head.KeyOf(kKeyNoise)),
        next_(position),
        state_(head.options_.dim),
        fresh_(head.options_.dim),
        noise_(head.options_.dim) {
    if (ar_ == 0) return;
    for (next_ = position / kBlockRows * kBlockRows; next_ < position;) Advance();
  }

  // The noise vector of the next position, of expected squared norm 1.
  std::span<const float> Next() {
    Advance();
    for (size_t j = 0; j < state_.size(); ++j) fresh_[j] = state_[j] * head_.spectrum_[j];
    Combine(fresh_, head_.basis_.data(), noise_.data());
    return noise_;
  }

 private:
  void Advance() {
    head_.normals_->Fill(key_, static_cast<uint64_t>(next_), 0, fresh_);
    const bool first = next_ % kBlockRows == 0;
    const float keep = first ? 0.0f : static_cast<float>(ar_);
    const float add = std::sqrt(1.0f - keep * keep);
    for (size_t j = 0; j < state_.size(); ++j) state_[j] = keep * state_[j] + add * fresh_[j];
    ++next_;
  }

  const Head& head_;
  const double ar_;
  const uint64_t key_;
  int64_t next_;
  std::vector<float> state_;
  std::vector<float> fresh_;
  std::vector<float> noise_;
};

Head::Head(const Options& options, std::shared_ptr<const NormalTable> normals, int layer,
           int kv_head)
    : options_(options), normals_(std::move(normals)), layer_(layer), kv_head_(kv_head) {
  MakeBasis();
  MakeTopics();
  MakeMean();
}

uint64_t Head::KeyOf(uint32_t purpose) const {
  const base::PhiloxBlock block = base::Philox(
      options_.seed,
      {static_cast<uint32_t>(layer_), static_cast<uint32_t>(kv_head_), purpose, 0x736f756e});
  return block[0] | (uint64_t{block[1]} << 32);
}

void Head::MakeBasis() {
  const int dim = options_.dim;
  spectrum_.resize(dim);
  for (int j = 0; j < dim; ++j) {
    spectrum_[j] = static_cast<float>(std::pow(1 + j / 8.0, -0.55));
  }
  Scale(spectrum_, 1 / Norm(spectrum_));
  // Gram-Schmidt, twice for orthogonality to f64 rounding.
  base::PhiloxStream random(KeyOf(kBasis), 0);
  std::vector<double> basis(static_cast<size_t>(dim) * dim);
  for (int row = 0; row < dim; ++row) {
    double* vector = &basis[static_cast<size_t>(row) * dim];
    for (int j = 0; j < dim; ++j) vector[j] = random.NextGaussian();
    for (int pass = 0; pass < 2; ++pass) {
      for (int other = 0; other < row; ++other) {
        const double* before = &basis[static_cast<size_t>(other) * dim];
        double dot = 0;
        for (int j = 0; j < dim; ++j) dot += vector[j] * before[j];
        for (int j = 0; j < dim; ++j) vector[j] -= dot * before[j];
      }
    }
    double squares = 0;
    for (int j = 0; j < dim; ++j) squares += vector[j] * vector[j];
    for (int j = 0; j < dim; ++j) vector[j] /= std::sqrt(squares);
  }
  basis_.assign(basis.begin(), basis.end());
}

void Head::MakeTopics() {
  const int dim = options_.dim;
  topics_.resize(static_cast<size_t>(kTopics) * dim);
  value_topics_.resize(topics_.size());
  for (int topic = 0; topic < kTopics; ++topic) {
    const std::span<float> key(&topics_[static_cast<size_t>(topic) * dim], dim);
    normals_->Fill(KeyOf(kTopicVectors), topic, 0, key);
    Scale(key, 1 / Norm(key));
    normals_->Fill(KeyOf(kValueTopics), topic, 0,
                   {&value_topics_[static_cast<size_t>(topic) * dim], static_cast<size_t>(dim)});
  }
}

void Head::MakeMean() {
  const int dim = options_.dim;
  mean_.resize(dim);
  const uint64_t key = KeyOf(kMeanVector);
  normals_->Fill(key, 0, 0, mean_);
  base::PhiloxStream random(key, uint64_t{2} << 32);  // no counter of the fills
  for (int outlier = 0; outlier < 4; ++outlier) {
    const float sign = random.Next32() % 2 == 0 ? 1.0f : -1.0f;
    mean_[random.NextBelow(dim)] = sign * 6.0f;
  }
  value_mean_.resize(dim);
  normals_->Fill(key, 0, 1, value_mean_);
  Scale(mean_, kMeanNorm * std::sqrt(dim / 128.0) / Norm(mean_));
}

Head::Block Head::MakeBlock(int64_t index) const {
  Block block;
  block.begin = index * kBlockRows;
  block.topics.reserve(kBlockRows);
  base::PhiloxStream random(KeyOf(kRuns), index);
  while (block.topics.size() < kBlockRows) {
    const uint8_t topic = random.NextBelow(kTopics);
    // Geometric with mean kMeanRun, by inversion.
    const double uniform = 1 - random.NextUniform();
    const size_t length = 1 + static_cast<size_t>(std::log(uniform) / std::log(1 - 1 / kMeanRun));
    block.topics.insert(block.topics.end(),
                        std::min<size_t>(length, kBlockRows - block.topics.size()), topic);
  }
  return block;
}

void Head::CentredKey(const Block& block, int64_t position, std::span<const float> noise,
                      std::span<float> key) const {
  const Shape shape = ShapeOf(options_.family);
  float normal;
  normals_->Fill(KeyOf(kKeyNorm), position, 0, {&normal, 1});
  const double sigma = shape.norm_sigma;
  const double norm =
      std::exp(sigma * normal - sigma * sigma / 2) * std::sqrt(options_.dim / 128.0);
  const float topic_scale = static_cast<float>(norm * shape.topic_norm);
  const float noise_scale = static_cast<float>(norm * shape.noise_norm);
  const float* topic =
      &topics_[static_cast<size_t>(block.topics[position - block.begin]) * options_.dim];
  for (size_t j = 0; j < key.size(); ++j) {
    key[j] = topic_scale * topic[j] + noise_scale * noise[j];
  }
}

void Head::Value(const Block& block, int64_t position, std::span<float> value) const {
  normals_->Fill(KeyOf(kValueNoise), position, 0, value);
  const float* topic =
      &value_topics_[static_cast<size_t>(block.topics[position - block.begin]) * options_.dim];
  for (size_t j = 0; j < value.size(); ++j) {
    value[j] = kValueMean * value_mean_[j] + kValueTopic * topic[j] + kValueOwn * value[j];
  }
}

void Head::Rows(int64_t begin, int64_t end, std::span<float> k, std::span<float> v) const {
  const size_t dim = options_.dim;
  CHECK(begin >= 0 && begin <= end) << begin << ", " << end;
  CHECK(k.size() == (end - begin) * dim && v.size() == k.size()) << k.size() << ", " << v.size();
  for (int64_t at = begin; at < end;) {
    const Block block = MakeBlock(at / kBlockRows);
    Walk walk(*this, at);
    for (const int64_t stop = std::min(end, block.begin + kBlockRows); at < stop; ++at) {
      const std::span<float> key = k.subspan((at - begin) * dim, dim);
      CentredKey(block, at, walk.Next(), key);
      AddScaled(mean_, 1, key);
      Value(block, at, v.subspan((at - begin) * dim, dim));
    }
  }
}

void Head::RowsAs(base::DType dtype, int64_t begin, int64_t end, std::byte* k, std::byte* v,
                  int64_t stride) const {
  const size_t dim = options_.dim;
  std::vector<float> keys, values;
  for (int64_t at = begin; at < end;) {
    const int64_t stop = std::min(end, (at / kBlockRows + 1) * kBlockRows);
    keys.resize((stop - at) * dim);
    values.resize(keys.size());
    Rows(at, stop, keys, values);
    for (int64_t row = at; row < stop; ++row) {
      for (size_t j = 0; j < dim; ++j) {
        const size_t offset = (row - begin) * stride + j * base::SizeOf(dtype);
        base::StoreElement(keys[(row - at) * dim + j], k + offset, dtype);
        base::StoreElement(values[(row - at) * dim + j], v + offset, dtype);
      }
    }
    at = stop;
  }
}

std::vector<float> Head::KeyDirection(int64_t position) const {
  std::vector<float> key(options_.dim);
  Walk walk(*this, position);
  CentredKey(MakeBlock(position / kBlockRows), position, walk.Next(), key);
  Scale(key, 1 / Norm(key));
  return key;
}

std::vector<float> Head::Queries(int64_t step) const {
  const Shape shape = ShapeOf(options_.family);
  const size_t dim = options_.dim;
  CHECK(options_.n > 0);
  base::PhiloxStream random(KeyOf(kQuery), step);
  const auto position = [&] {
    return static_cast<int64_t>(random.NextUniform() * static_cast<double>(options_.n));
  };
  const auto direction = [&] {
    std::vector<float> coordinates(dim), out(dim);
    for (size_t j = 0; j < dim; ++j) {
      coordinates[j] =
          static_cast<float>(random.NextGaussian() * std::pow(spectrum_[j], shape.query_spectrum));
    }
    Combine(coordinates, basis_.data(), out.data());
    Scale(out, 1 / Norm(out));
    return out;
  };
  std::vector<float> shared(dim);
  if (options_.family == Family::kMid) {  // the topic of some position, a little off
    const int64_t at = position();
    const int topic = MakeBlock(at / kBlockRows).topics[at % kBlockRows];
    AddScaled({&topics_[topic * dim], dim}, 1, shared);
    AddScaled(direction(), 0.35, shared);
    Scale(shared, shape.shared_part / Norm(shared));
  } else if (shape.shared_part > 0) {
    AddScaled(direction(), shape.shared_part, shared);
  }
  for (int i = 0; i < shape.aligned_keys; ++i) {
    AddScaled(KeyDirection(position()), shape.aligned, shared);
  }
  std::vector<float> queries(options_.group * dim);
  for (int head = 0; head < options_.group; ++head) {
    const std::span<float> query(&queries[head * dim], dim);
    AddScaled(shared, 1, query);
    AddScaled(direction(), shape.own_part, query);
    for (int i = 0; i < shape.aligned_keys; ++i) {
      AddScaled(KeyDirection(position()), shape.aligned, query);
    }
    Scale(query, shape.query_norm * std::sqrt(dim / 128.0) / Norm(query));
  }
  return queries;
}

Cache::Cache(const Options& options)
    : options_(options), normals_(std::make_shared<NormalTable>()) {
  CHECK(options.dim >= 8 && options.dim <= base::kMaxHeadDim && options.dim % 8 == 0)
      << "dim " << options.dim;
  CHECK(options.group >= 1 && options.group <= base::kMaxGroup) << "group " << options.group;
  CHECK(options.n >= 0) << "n " << options.n;
}

Head Cache::MakeHead(int layer, int kv_head) const {
  return Head(options_, normals_, layer, kv_head);
}

}  // namespace sounder::generator
