// One sampler timed: decode steps with cold caches beside sequential reads of the same K and V.
#ifndef SOUNDER_BENCH_SUITE_TIMED_SAMPLER_H_
#define SOUNDER_BENCH_SUITE_TIMED_SAMPLER_H_

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bench/suite/timing.h"
#include "bench/suite/workload.h"
#include "cli/table.h"

namespace sounder::suite {

// What is timed and measured, by the name its figures have.
struct Contender {
  std::string name;
  kv_node::SamplerSpec spec;
};

// MagicPIG's tables of 10 bits.
kv_node::SamplerSpec LshSpec(const Size& size, int num_tables);
// Rows are sampled from the copy in eight bits.
kv_node::SamplerSpec SketchSpec(const Size& size, int bits, double row_fraction);

// CHECKs that the specification makes sense.
std::unique_ptr<kv_node::Sampler> NewSampler(const kv_node::SamplerSpec& spec);

// To stderr.
void Progress(const std::string& what);

void UseAll(const std::vector<float>& outputs, const std::vector<float>& lse);

// Reads K from the first byte to the last, then V.
void ReadRows(std::span<const std::byte> keys, std::span<const std::byte> values);

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

// <name>_us, the median, and its ratio to read_us, with quantiles of the ratio of neighbours.
void AddPairs(const std::string& name, const Pairs& pairs, double read_us, cli::Record& record);

// One sampler at work on `workloads` segments of its own, in turn.
class TimedSampler {
 public:
  TimedSampler(const Contender& contender, generator::Family family, const Size& size,
               int workloads);

  const std::string& name() const { return name_; }
  const Workload& workload(int pair) const { return workloads_[pair % workloads_.size()]; }
  Pairs& pairs() { return pairs_; }

  void Step(int pair) { Step(pair, scratch_); }
  void Step(int pair, kv_node::Scratch& scratch);

  void AddFigures(double read_us, cli::Record& record) const;

 private:
  const Size size_;
  const std::string name_;
  const std::unique_ptr<kv_node::Sampler> sampler_;
  kv_node::Scratch scratch_;
  std::vector<Workload> workloads_;
  std::vector<float> outputs_;
  std::vector<float> lse_;
  kv_node::AttendStats stats_;
  Pairs pairs_;
};

}  // namespace sounder::suite

#endif  // SOUNDER_BENCH_SUITE_TIMED_SAMPLER_H_
