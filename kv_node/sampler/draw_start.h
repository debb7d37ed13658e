// Where a systematic sample starts: the one random number a draw of rows needs.
#ifndef SOUNDER_KV_NODE_SAMPLER_DRAW_START_H_
#define SOUNDER_KV_NODE_SAMPLER_DRAW_START_H_

#include <cstdint>

#include "kv_node/sampler/sampler.h"

namespace sounder::kv_node {

// Tells the draws of one kind from those of others with the same key; the low 16 bits are free for
// telling draws of one kind apart.
enum class DrawKind : uint32_t {
  kSketch = 0x736b0000,
  kValues = 0x76720000,
  kUniform = 0x756e0000,
  kOracle = 0x6f720000,
};

// Uniform over 32 bits: a pure function of the query's sample_key, step, layer and kv head, of the
// segment's place in the sequence, and of what is drawn (`which` of its kind, below 65,536).
uint32_t DrawStart(const GroupQuery& query, base::Position first_position, DrawKind kind,
                   uint32_t which = 0);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SAMPLER_DRAW_START_H_
