// What the suite attends to: synthetic segments with their indexes, and queries over them.
#ifndef SOUNDER_BENCH_SUITE_WORKLOAD_H_
#define SOUNDER_BENCH_SUITE_WORKLOAD_H_

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "bench/generator/synthetic.h"
#include "cli/eval_figures.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::suite {

struct Size {
  int64_t n = 65536;
  int dim = 128;
  int group = 4;
};

// bf16 rows of one kv head. Move-only.
struct Rows {
  memory::AlignedBuffer k;
  memory::AlignedBuffer v;
};
Rows MakeRows(generator::Family family, uint64_t seed, const Size& size);

// The same bytes in pages of 4 KiB, as a program gets them that does not ask for others: what the
// suite reads for comparison, whatever pages segments lie in.
class SmallPageCopy {
 public:
  explicit SmallPageCopy(std::span<const std::byte> bytes);
  SmallPageCopy(SmallPageCopy&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  SmallPageCopy& operator=(SmallPageCopy&&) = delete;
  ~SmallPageCopy();
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<std::byte> bytes_;
};

// One segment of n rows with the sampler's index, and a number of queries.
class Workload {
 public:
  Workload(generator::Family family, const Size& size, uint64_t seed, int steps,
           const kv_node::Sampler& sampler, kv_node::Scratch& scratch);

  const kv_node::Segment& segment() const { return *segment_; }
  std::span<const std::byte> key_copy() const { return copies_[0].bytes(); }
  std::span<const std::byte> value_copy() const { return copies_[1].bytes(); }
  const float* Queries(int step) const { return queries_[step % queries_.size()].data(); }
  // The group's query of a step, over all rows.
  kv_node::GroupQuery Query(int step) const;

 private:
  Size size_;
  std::vector<SmallPageCopy> copies_;  // of K and of V
  std::unique_ptr<kv_node::Segment> segment_;
  std::vector<std::vector<float>> queries_;
  std::vector<std::vector<uint64_t>> signatures_;
};

// Error and rows of a sampler over a whole synthetic segment (no sinks, no window): means over
// `steps` steps of each of `data_seeds` caches, under `hash_seeds` sets of random directions.
cli::EvalFigures Accuracy(generator::Family family, const Size& size, int data_seeds, int steps,
                          int hash_seeds, const kv_node::SamplerSpec& sampler);

}  // namespace sounder::suite

#endif  // SOUNDER_BENCH_SUITE_WORKLOAD_H_
