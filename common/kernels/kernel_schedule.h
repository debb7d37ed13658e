// How kernels are run on this CPU: distances of prefetching, and how much is held in registers.
// A matter of speed alone: no result, and so no selection of rows, depends on it, bit for bit.
// (Tile sizes that results would depend on are constants of the kernels.) The idea of keeping what
// a kernel computes apart from how it is run: SparseTIR, arXiv 2207.04606; FeatGraph, arXiv
// 2008.11359.
#ifndef SOUNDER_COMMON_KERNELS_KERNEL_SCHEDULE_H_
#define SOUNDER_COMMON_KERNELS_KERNEL_SCHEDULE_H_

#include <array>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace sounder::kernels {

struct KernelSchedule {
  // Exact attention: rows are asked for this many ahead of their use, into the second-level cache
  // (128: 64 KB at dim 128 in bf16).
  int exact_rows_ahead = 128;
  // Exact attention: the first line of a page is asked for this many rows ahead, so that the
  // translation of its address is there when the others are: a prefetch that misses the TLB holds
  // up all after it.
  int exact_page_rows_ahead = 512;
  // Pairs of vectors of values summed at a time, by exact attention and over sampled rows: 1 or 2;
  // 0: 2 where there are 32 vector registers.
  int value_pairs = 0;
  // Attention over a sample that a group shares: sampled rows asked for ahead of their use, and
  // rows whose values are added together, column by column.
  int sampled_rows_ahead = 32;
  int sampled_tile_rows = 64;
  // The same of attention over a sample of one query (tables).
  int lsh_rows_ahead = 64;
  // The scan of sketches.
  int scan_bytes_ahead = 4096;

  bool operator==(const KernelSchedule&) const = default;
};

inline constexpr int kMaxSampledTileRows = 64;

// A field of the schedule, and what is worth trying.
struct ScheduleField {
  const char* name;
  int KernelSchedule::*value;
  int min;
  int max;
  std::array<int, 5> candidates;  // the default among them
};
std::span<const ScheduleField> ScheduleFields();

// "exact_rows_ahead=64,scan_bytes_ahead=0": the defaults but for the fields named.
// INVALID_ARGUMENT naming an unknown field or a value out of range, and what there is.
absl::StatusOr<KernelSchedule> ParseSchedule(const std::string& text);
// Every field, in the form that ParseSchedule reads.
std::string ScheduleText(const KernelSchedule& schedule);

}  // namespace sounder::kernels

#endif  // SOUNDER_COMMON_KERNELS_KERNEL_SCHEDULE_H_
