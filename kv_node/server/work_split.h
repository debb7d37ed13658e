// How the pieces of an Attend item become units of work that threads share evenly. Pure functions
// of the request and the rows: how many threads there are changes no answer.
#ifndef SOUNDER_KV_NODE_SERVER_WORK_SPLIT_H_
#define SOUNDER_KV_NODE_SERVER_WORK_SPLIT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/policy/attend_schedule.h"
#include "common/wire/messages.h"
#include "kv_node/session/row_stream.h"

namespace sounder::kv_node {

// A piece that is attended exactly, by `queries` (> 0) queries, in parts that end at multiples of a
// number of rows of its segment: 4,096 for one step of decode, more for many queries, whose partial
// outputs take memory. In order, together the piece, none empty.
std::vector<Piece> CutExactPiece(const Piece& piece, size_t queries);

// What a unit takes, roughly, in rows of exact attention by four queries.
int64_t CostOf(const Piece& piece, size_t queries, bool sampled);

// What an item or a request asks for, by wire::AttentionKind, as far as it is known before its rows
// are looked up: rows for four queries, and a little for every head. Never overflows.
void AddWork(const wire::AttendItem& item, policy::WorkRows* work);
policy::WorkRows WorkOf(const wire::AttendRequest& request);
// On how many parts of it threads can work at once, at least.
int PartsOf(const wire::AttendRequest& request);

// The indexes of `costs`, dearest first, equal ones in order: what starts last is short, so threads
// end together.
std::vector<uint32_t> DearestFirst(std::span<const int64_t> costs);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_WORK_SPLIT_H_
