#include "gpu_worker/engine/query_blocks.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/base/limits.h"

namespace sounder::gpu_worker {
namespace {

// The first place behind `position` where rows may be cut.
base::Position NextCut(base::Position position, int64_t seal_rows,
                       std::span<const base::Position> marks) {
  const auto multiple = [position](int64_t of) { return (position / of + 1) * of; };
  const base::Position next = std::min(multiple(seal_rows), multiple(base::kUnitRows));
  const auto mark = std::upper_bound(marks.begin(), marks.end(), position);
  return mark == marks.end() ? next : std::min(next, *mark);
}

}  // namespace

PositionSplit SplitPositions(int64_t positions, int64_t count, int64_t num_sinks, int64_t window) {
  CHECK(count >= 1 && num_sinks >= 0 && window >= 1);
  const base::Position end = positions + count;
  const base::Position sinks_end = std::min(num_sinks, end);
  const base::Position window_begin = std::max(sinks_end, positions + 1 - window);
  return {{0, sinks_end}, {sinks_end, window_begin}, {window_begin, end}};
}

QueryBlockLimits LimitsOf(int64_t query_heads, int64_t head_dim) {
  // Outputs and lse in f32, more than the query is in any dtype. The rest of a message, tables and
  // paddings, is well below the kilobytes left for it.
  constexpr auto kMessage = static_cast<int64_t>(base::kMaxPayloadBytes - (size_t{2} << 16));
  constexpr auto kPartials = static_cast<int64_t>(base::kMaxPartialBytes);
  const int64_t query_bytes = query_heads * (head_dim + 1) * int64_t{sizeof(float)};
  QueryBlockLimits limits;
  limits.query_units = std::max<int64_t>(2, kPartials / query_bytes);
  limits.queries = std::clamp<int64_t>(std::min(kMessage / query_bytes, limits.query_units / 2), 1,
                                       base::kMaxQueryBlock);
  return limits;
}

std::vector<QueryBlock> CutQueryBlock(int64_t count, base::PositionRange middle, int64_t seal_rows,
                                      std::span<const base::Position> marks,
                                      const QueryBlockLimits& limits) {
  std::vector<QueryBlock> blocks;
  for (int64_t first = 0; first < count; first += limits.queries) {
    const int64_t queries = std::min(limits.queries, count - first);
    // Between two cuts lies one unit of the node's, or two where segments are longer than a unit
    // and begin beside a multiple of it.
    const int64_t units = seal_rows > base::kUnitRows ? 2 : 1;
    const int64_t runs = std::max<int64_t>(1, limits.query_units / (queries * units));
    for (base::Position begin = middle.begin; begin < middle.end;) {
      base::Position end = begin;
      for (int64_t run = 0; run < runs && end < middle.end; ++run) {
        end = std::min(middle.end, NextCut(end, seal_rows, marks));
      }
      blocks.push_back({first, queries, {begin, end}});
      begin = end;
    }
  }
  return blocks;
}

}  // namespace sounder::gpu_worker
