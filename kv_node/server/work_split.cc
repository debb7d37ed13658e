#include "kv_node/server/work_split.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/base/check.h"
#include "common/base/limits.h"

namespace sounder::kv_node {
namespace {

// As a unit: about 0.1 ms of exact attention by four queries, 4 % of it for starting with cold
// pages and caches (measured: common/kernels/DESIGN.md).
using base::kUnitRows;
// So many queries share a unit of kUnitRows rows; with more, units grow alike, so that partial
// outputs stay small beside the rows.
constexpr int64_t kUnitQueries = 64;
// A sampled row's share of the time of an exact one: order only depends on it.
constexpr int64_t kSampledShare = 8;

}  // namespace

std::vector<Piece> CutExactPiece(const Piece& piece, size_t queries) {
  CHECK(queries > 0);
  const int64_t blocks = (static_cast<int64_t>(queries) + kUnitQueries - 1) / kUnitQueries;
  const int64_t rows = kUnitRows * blocks;
  std::vector<Piece> parts;
  for (int64_t begin = piece.row_begin; begin < piece.row_end;) {
    Piece& part = parts.emplace_back(piece);
    part.row_begin = begin;
    part.row_end = begin = std::min(piece.row_end, (begin / rows + 1) * rows);
  }
  return parts;
}

int64_t CostOf(const Piece& piece, size_t queries, bool sampled) {
  const int64_t exact = piece.rows() * static_cast<int64_t>((queries + 3) / 4);
  return sampled ? exact / kSampledShare : exact;
}

void AddWork(const wire::AttendItem& item, policy::WorkRows* work) {
  constexpr double kRowsPerHead = 64;  // of packing, merging and the answer
  constexpr double kMost = 1e15;       // of an item; a request has base::kMaxItems
  const double queries = (static_cast<double>(item.query_count) * item.group + 3) / 4;
  const double rows = static_cast<double>(item.range.size()) + kRowsPerHead;
  work->at(static_cast<size_t>(item.attention)) +=
      static_cast<int64_t>(std::min(kMost, item.kv_head_count * rows * std::floor(queries)));
}

policy::WorkRows WorkOf(const wire::AttendRequest& request) {
  policy::WorkRows work{};
  for (const wire::AttendItem& item : request.items) AddWork(item, &work);
  return work;
}

int PartsOf(const wire::AttendRequest& request) {
  size_t parts = 0;
  for (const wire::AttendItem& item : request.items) parts += item.kv_head_count;
  return static_cast<int>(std::clamp<size_t>(parts, 1, INT32_MAX));
}

std::vector<uint32_t> DearestFirst(std::span<const int64_t> costs) {
  std::vector<uint32_t> order(costs.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return costs[a] > costs[b]; });
  return order;
}

}  // namespace sounder::kv_node
