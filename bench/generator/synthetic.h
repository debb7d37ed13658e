// Deterministic synthetic keys, values and queries for benchmarks, the scale demo and tests.
//
// Every number is a pure function of (seed, layer, kv head, position or step): rows come in any
// order and any cut, and a cache of millions of positions is never held in memory. (Exact across
// machines up to the last bit of the C library's exp, log, sin, cos.)
//
// One family of data per attention shape. n is the sequence length the queries look back on; the
// figures are means over queries, at d = 128:
//   family    n       what it looks like
//   peaked    65,536  entropy of the attention weights 3.6 nats; the top 2 % of keys hold ~.95
//   flat      65,536  8.0 nats, top 2 % hold ~.6 (the keys of peaked, shorter queries)
//   mid       16,384  sd of the logits 2, ~20 effective tokens (1 / sum w^2): one topic
//   sharp     16,384  ~15 effective tokens: two needles and what surrounds them
//   diffuse   16,384  sd of the logits 1, n/3 effective tokens
//
// Keys of peaked and flat: mean + lognormal norm x (.45 topic + .89 noise); 64 topics in runs of
// mean length 40; noise with a decaying spectrum (1 + j/8)^-.55 in a random basis. Keys of mid,
// sharp and diffuse: mean (norm 12) + lognormal norm x (topic of norm 6 + noise of norm 7 that is
// an AR(1) process along positions). Values: .4 mean + .5 topic + .77 own part. The keys' mean has
// four outlier channels, as the keys of trained models have: it shifts every logit of a query
// alike, and it misleads SimHash unless keys are centred. Runs and AR(1) start afresh every
// kBlockRows positions.
#ifndef SOUNDER_BENCH_GENERATOR_SYNTHETIC_H_
#define SOUNDER_BENCH_GENERATOR_SYNTHETIC_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "common/base/dtype.h"

namespace sounder::generator {

inline constexpr int64_t kBlockRows = 4096;

enum class Family { kPeaked, kFlat, kMid, kSharp, kDiffuse };

std::string_view NameOf(Family family);
// "peaked", "flat", "mid", "sharp", "diffuse"; nothing else.
std::optional<Family> ParseFamily(std::string_view name);

struct Options {
  Family family = Family::kPeaked;
  uint64_t seed = 1;
  int dim = 128;      // a multiple of 8, 8..512
  int group = 4;      // query heads per kv head, 1..32
  int64_t n = 65536;  // positions; needles of queries lie in [0, n)
};

class NormalTable;

// Keys, values and queries of one (layer, kv head). Immutable after construction: every method is
// const and may run in several threads at once. Made by Cache::Head, which it may outlive.
class Head {
 public:
  // Rows of positions [begin, end), row-major [end - begin][dim]. Cost ~2 us per row (d = 128),
  // for mid, sharp and diffuse also the noise of the positions before `begin` in its block.
  void Rows(int64_t begin, int64_t end, std::span<float> k, std::span<float> v) const;

  // The same rounded to `dtype`; `stride` is the distance in bytes between rows of k, and of v.
  void RowsAs(base::DType dtype, int64_t begin, int64_t end, std::byte* k, std::byte* v,
              int64_t stride) const;

  // The group's queries of one decode step, [group][dim]. n > 0.
  std::vector<float> Queries(int64_t step) const;

 private:
  friend class Cache;
  Head(const Options& options, std::shared_ptr<const NormalTable> normals, int layer, int kv_head);

  struct Block;  // what the rows of one block share
  class Walk;    // noise coordinates position by position
  uint64_t KeyOf(uint32_t purpose) const;
  void MakeBasis();
  void MakeTopics();
  void MakeMean();
  Block MakeBlock(int64_t index) const;
  // The key of `position` without the common mean.
  void CentredKey(const Block& block, int64_t position, std::span<const float> noise,
                  std::span<float> key) const;
  // Unit vector along the centred key of `position`.
  std::vector<float> KeyDirection(int64_t position) const;
  void Value(const Block& block, int64_t position, std::span<float> value) const;

  Options options_;
  std::shared_ptr<const NormalTable> normals_;  // shared by all heads of a cache
  int layer_;
  int kv_head_;
  std::vector<float> spectrum_;      // [dim], of norm 1
  std::vector<float> basis_;         // [dim][dim], orthonormal rows
  std::vector<float> topics_;        // [64][dim] unit vectors
  std::vector<float> value_topics_;  // [64][dim], elements of variance ~1
  std::vector<float> mean_;          // [dim]
  std::vector<float> value_mean_;    // [dim], elements of variance ~1
};

// A synthetic KV cache: makes the heads. Immutable, thread safe.
class Cache {
 public:
  explicit Cache(const Options& options);  // CHECKs the ranges of the options
  Head MakeHead(int layer, int kv_head) const;
  const Options& options() const { return options_; }

 private:
  Options options_;
  std::shared_ptr<const NormalTable> normals_;
};

}  // namespace sounder::generator

#endif  // SOUNDER_BENCH_GENERATOR_SYNTHETIC_H_
