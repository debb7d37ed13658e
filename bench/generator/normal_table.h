// Standard normal numbers from 16 random bits: the quantiles of 65,536 equal slices (so |x|
// <= 4.33). Two lookups per 32 random bits; a Box-Muller pair costs ten times as much.
#ifndef SOUNDER_BENCH_GENERATOR_NORMAL_TABLE_H_
#define SOUNDER_BENCH_GENERATOR_NORMAL_TABLE_H_

#include <cstdint>
#include <span>
#include <vector>

namespace sounder::generator {

// Immutable, thread safe.
class NormalTable {
 public:
  NormalTable();
  float At(uint16_t bits) const { return quantiles_[bits]; }
  // Fills `out` with draws that are a pure function of (key, counter, lane).
  void Fill(uint64_t key, uint64_t counter, uint32_t lane, std::span<float> out) const;

 private:
  std::vector<float> quantiles_;
};

}  // namespace sounder::generator

#endif  // SOUNDER_BENCH_GENERATOR_NORMAL_TABLE_H_
