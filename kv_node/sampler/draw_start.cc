#include "kv_node/sampler/draw_start.h"

#include "common/base/limits.h"
#include "common/base/philox.h"

namespace sounder::kv_node {

uint32_t DrawStart(const GroupQuery& query, base::Position first_position, DrawKind kind,
                   uint32_t which) {
  static_assert(base::kMaxLayers <= 1 << 10 && base::kMaxKvHeads <= 1 << 10);
  const auto position = static_cast<uint64_t>(first_position);
  const base::PhiloxBlock block = base::Philox(
      query.sample_key,
      {static_cast<uint32_t>(position),
       static_cast<uint32_t>(position >> 32) | (static_cast<uint32_t>(query.layer) << 12) |
           (static_cast<uint32_t>(query.kv_head) << 22),
       static_cast<uint32_t>(query.step),
       static_cast<uint32_t>(query.step >> 32) ^ static_cast<uint32_t>(kind) ^ which});
  return block[0];
}

}  // namespace sounder::kv_node
