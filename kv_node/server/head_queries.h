// The queries of one kv head of an Attend item, as samplers and kernels want them.
#ifndef SOUNDER_KV_NODE_SERVER_HEAD_QUERIES_H_
#define SOUNDER_KV_NODE_SERVER_HEAD_QUERIES_H_

#include <cstdint>
#include <vector>

#include "common/wire/messages.h"
#include "kv_node/sampler/sampler.h"
#include "kv_node/session/row_stream.h"

namespace sounder::kv_node {

// The item's tensors are [T, query heads, ...]; here the T * group queries of one kv head are
// together, in f32: query t of the block and query head g of the group at t * group + g.
struct HeadQueries {
  std::vector<float> queries;        // [T * group, dim]
  std::vector<uint64_t> signatures;  // [T * group, words]
  std::vector<float> lse_hints;      // [T * group] or empty
};

// `head` counts from 0 within the item.
HeadQueries PackHead(const wire::AttendItem& item, uint32_t head);

// What a sampler is asked about the rows of `piece`. Refers to `packed`.
GroupQuery GroupQueryOf(const wire::AttendItem& item, uint32_t head, const HeadQueries& packed,
                        const Piece& piece);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_HEAD_QUERIES_H_
