// Who attends to what when several queries of a sequence are computed together, and how their block
// is cut so that it fits into messages and into a node's memory.
#ifndef SOUNDER_GPU_WORKER_ENGINE_QUERY_BLOCKS_H_
#define SOUNDER_GPU_WORKER_ENGINE_QUERY_BLOCKS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/ids.h"

namespace sounder::gpu_worker {

// Three ranges, in order and disjoint, that are together [0, positions + count). The block's own
// rows are in sinks and window; its queries see those up to their own position. All of the middle
// is before the block.
struct PositionSplit {
  base::PositionRange sinks;
  base::PositionRange middle;
  base::PositionRange window;
};

// Of queries at [positions, positions + count): the middle ends where the window of the first of
// them begins. num_sinks >= 0, window >= 1, count >= 1.
PositionSplit SplitPositions(int64_t positions, int64_t count, int64_t num_sinks, int64_t window);

// What one exact Attend may hold.
struct QueryBlockLimits {
  int64_t queries = 1;      // of a request and of its answer; and so few that two units fit
  int64_t query_units = 2;  // (query, unit of work) pairs, each for all heads: partial outputs
};
QueryBlockLimits LimitsOf(int64_t query_heads, int64_t head_dim);

// Queries [first, first + count) of a block, over a part of the middle.
struct QueryBlock {
  int64_t first = 0;
  int64_t count = 0;
  base::PositionRange range;
};

// The Attends for `count` queries of which each sees all of `middle`: together every (query,
// position) once, per query in order of position. Positions are cut only at seal marks (multiples
// of seal_rows, and `marks`, ascending) or multiples of base::kUnitRows; queries only beyond
// limits.queries: so a row is read once for all of them up to there. Empty if the middle is. Pure.
std::vector<QueryBlock> CutQueryBlock(int64_t count, base::PositionRange middle, int64_t seal_rows,
                                      std::span<const base::Position> marks,
                                      const QueryBlockLimits& limits);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_ENGINE_QUERY_BLOCKS_H_
