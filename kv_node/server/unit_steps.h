// The order in which the units of one attend are worked on, where the rows of some are in the
// store: first it is chosen what to read of those, so that reads are in flight soon and together;
// what has been read is attended before the units that are in memory, because it makes room for
// further reads. Numbers only: what a step does is the job's business.
#ifndef SOUNDER_KV_NODE_SERVER_UNIT_STEPS_H_
#define SOUNDER_KV_NODE_SERVER_UNIT_STEPS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <vector>

#include "kv_node/server/byte_quota.h"

namespace sounder::kv_node {

// Thread safe. Runners (threads that work on the attend) take steps until there are none; then they
// leave, and as many as there is work for come back when something was read, or when there is room
// again. A stored unit has room in the node's quota from before it is chosen what to read of it,
// which takes memory already, until it is attended; the attend waits there with one unit at a time.
class UnitSteps {
 public:
  enum class Kind {
    kNone,    // nothing to do at the moment
    kChoose,  // what to read of the unit: it goes on with Reads, or is attended at once
    kAttend,  // its rows are there
  };
  struct Step {
    Kind kind = Kind::kNone;
    uint32_t unit = 0;
  };
  enum class Left {
    kWork,   // not at all: there is something to do
    kWaits,  // there will be again
    kOver,   // no other runner is needed
  };
  struct Stored {
    uint32_t unit = 0;
    uint64_t room = 0;  // that it will probably need; 0: it asks for none
  };

  // The quota outlives it.
  explicit UnitSteps(ByteQuota* quota) : quota_(quota) {}

  // Once: the units, in the order they are to be taken, and how many runners begin.
  void Start(std::vector<Stored> stored, std::vector<uint32_t> in_memory, size_t runners);

  // The room of a unit to choose for is taken. `granted` is given to the quota if there is none,
  // and is to call OnRoom.
  Step Next(const ByteQuota::Granted& granted);
  // There is room for the unit that waited; true: one more runner is to be started, and counts.
  bool OnRoom();
  // A unit that was chosen for is about to be read.
  void Reads();
  // Units were read (or could not be): how many more runners are to be started, so that there are
  // at most `most_runners`. They count from now on.
  size_t Arrived(std::span<const uint32_t> units, size_t most_runners);
  // A runner that has nothing to do, or has had its turn, asks whether it may go.
  Left Leave();

 private:
  ByteQuota* const quota_;
  std::mutex mutex_;  // guards everything below; held before the quota's
  std::deque<Stored> stored_;
  std::deque<uint32_t> ready_;  // in memory, or read, those before the others
  bool waits_ = false;          // for room for the first of stored_
  bool has_room_ = false;       // it came
  size_t reading_ = 0;          // units
  size_t runners_ = 0;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_UNIT_STEPS_H_
