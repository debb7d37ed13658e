// Where the shards of a session lie: a pure function of the session, the model's shape and a list
// of nodes, so that every worker and every test computes the same.
#ifndef SOUNDER_COMMON_POLICY_PLACEMENT_H_
#define SOUNDER_COMMON_POLICY_PLACEMENT_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/ids.h"

namespace sounder::policy {

struct PlacementOptions {
  int num_nodes = 1;
  // Positions of one shard. A larger value keeps more of a session on one node; 0: no cut along
  // the sequence. A multiple of the session's seal rows, so that no segment crosses a cut.
  int64_t shard_rows = 0;
  // Parts the kv heads are cut into. More parts spread every step over more nodes.
  int head_shards = 1;
};

// A token range x kv-head range of one session, all layers, on one node.
struct Shard {
  base::PositionRange range;  // absolute positions
  int kv_head_begin = 0;
  int kv_head_end = 0;
  int node = 0;  // index into the node list

  int kv_heads() const { return kv_head_end - kv_head_begin; }
};

// Value type; pure.
class Placement {
 public:
  // INVALID_ARGUMENT when the options do not fit the model or the seal rows.
  static absl::StatusOr<Placement> Create(const PlacementOptions& options, int num_kv_heads,
                                          int64_t seal_rows, base::SessionId session);

  // The shards that hold positions of `range`, cut to it, in order of position and then head.
  // Together they hold every (position, kv head) of the range exactly once. The range lies in
  // [0, base::kMaxPositions).
  std::vector<Shard> ShardsOf(base::PositionRange range) const;

  // Kv heads a node may ever hold, as one range: [begin, end). Empty when it holds none.
  std::pair<int, int> KvHeadsOf(int node) const;
  // Nodes that may hold a part, ascending.
  std::vector<int> Nodes() const;

 private:
  int NodeOf(int64_t range_index, int head_shard) const;
  std::pair<int, int> HeadRange(int head_shard) const;

  PlacementOptions options_;
  int num_kv_heads_ = 0;
  int first_node_ = 0;  // spreads sessions over the nodes
};

}  // namespace sounder::policy

#endif  // SOUNDER_COMMON_POLICY_PLACEMENT_H_
