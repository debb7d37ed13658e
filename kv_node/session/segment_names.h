// The stored segments that one session's records name, or may name: counted with the segment
// (StoredSegment::AddName), once for each, from before the commit that names it until a commit
// after which it is named no more.
#ifndef SOUNDER_KV_NODE_SESSION_SEGMENT_NAMES_H_
#define SOUNDER_KV_NODE_SESSION_SEGMENT_NAMES_H_

#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "kv_node/store/segment_store.h"

namespace sounder::kv_node {

// Not thread safe. Destroyed, it leaves the names: the records are still there.
class SegmentNames {
 public:
  using Stored = std::shared_ptr<const StoredSegment>;

  // A record that was found names it, and its name has been counted.
  void Found(const Stored& stored) { ++uses_[stored]; }
  // A record that is to be committed names it.
  void Add(const Stored& stored) {
    // Not for the first time if it was dropped and nothing has been committed since.
    if (uses_[stored]++ == 0 && unused_.erase(stored) == 0) stored->AddName();
  }
  // That record will be gone with the next commit. Null: nothing.
  void Drop(const Stored& stored) {
    if (stored != nullptr && --uses_.at(stored) == 0) unused_.insert(stored);
  }
  // A commit has succeeded: what was dropped is named no more.
  void Committed() {
    for (const Stored& stored : unused_) {
      stored->RemoveName();
      uses_.erase(stored);
    }
    unused_.clear();
  }

 private:
  absl::flat_hash_map<Stored, int> uses_;
  absl::flat_hash_set<Stored> unused_;  // their uses are 0
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_SEGMENT_NAMES_H_
