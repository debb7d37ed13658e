#include "common/policy/placement.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/philox.h"

namespace sounder::policy {

absl::StatusOr<Placement> Placement::Create(const PlacementOptions& options, int num_kv_heads,
                                            int64_t seal_rows, base::SessionId session) {
  if (options.num_nodes < 1) return absl::InvalidArgumentError("placement needs a node");
  if (options.head_shards < 1 || options.head_shards > num_kv_heads) {
    return absl::InvalidArgumentError(absl::StrCat("head shards ", options.head_shards,
                                                   ", expected 1 to the model's ", num_kv_heads,
                                                   " kv heads"));
  }
  if (seal_rows < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("seal rows ", seal_rows, ", expected 1 or more"));
  }
  if (options.shard_rows < 0 || (options.shard_rows > 0 && options.shard_rows % seal_rows != 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shard rows ", options.shard_rows, ", expected 0 or a multiple of seal rows ", seal_rows));
  }
  Placement placement;
  placement.options_ = options;
  placement.num_kv_heads_ = num_kv_heads;
  const base::PhiloxBlock hash = base::Philox(
      session.high,
      {static_cast<uint32_t>(session.low), static_cast<uint32_t>(session.low >> 32), 0, 0});
  placement.first_node_ = static_cast<int>(hash[0] % static_cast<uint32_t>(options.num_nodes));
  return placement;
}

int Placement::NodeOf(int64_t range_index, int head_shard) const {
  return static_cast<int>((first_node_ + range_index * options_.head_shards + head_shard) %
                          options_.num_nodes);
}

std::pair<int, int> Placement::HeadRange(int head_shard) const {
  return {num_kv_heads_ * head_shard / options_.head_shards,
          num_kv_heads_ * (head_shard + 1) / options_.head_shards};
}

std::vector<Shard> Placement::ShardsOf(base::PositionRange range) const {
  std::vector<Shard> shards;
  if (range.empty()) return shards;
  CHECK(range.begin >= 0 && range.end <= base::kMaxPositions) << range.begin << " " << range.end;
  const int64_t rows = options_.shard_rows > 0 ? options_.shard_rows : base::kMaxPositions;
  for (int64_t index = range.begin / rows; index * rows < range.end; ++index) {
    const base::PositionRange part = Intersect(range, {index * rows, (index + 1) * rows});
    for (int head_shard = 0; head_shard < options_.head_shards; ++head_shard) {
      const auto [begin, end] = HeadRange(head_shard);
      shards.push_back({part, begin, end, NodeOf(index, head_shard)});
    }
  }
  return shards;
}

std::pair<int, int> Placement::KvHeadsOf(int node) const {
  int begin = num_kv_heads_;
  int end = 0;
  // The assignment of head shards to nodes repeats after num_nodes ranges.
  const int64_t ranges = options_.shard_rows > 0 ? options_.num_nodes : 1;
  for (int64_t index = 0; index < ranges; ++index) {
    for (int head_shard = 0; head_shard < options_.head_shards; ++head_shard) {
      if (NodeOf(index, head_shard) != node) continue;
      begin = std::min(begin, HeadRange(head_shard).first);
      end = std::max(end, HeadRange(head_shard).second);
    }
  }
  return begin < end ? std::pair(begin, end) : std::pair(0, 0);
}

std::vector<int> Placement::Nodes() const {
  std::vector<int> nodes;
  for (int node = 0; node < options_.num_nodes; ++node) {
    const auto [begin, end] = KvHeadsOf(node);
    if (begin < end) nodes.push_back(node);
  }
  return nodes;
}

}  // namespace sounder::policy
