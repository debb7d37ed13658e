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
#include <utility>
#include <vector>

namespace sounder::kv_node {

// Thread safe. Runners (threads that work on the attend) take steps until there are none; then they
// leave, and as many as there is work for come back when something was read. Bytes being read, or
// read and not attended, stay within a bound, or are those of one unit.
class UnitSteps {
 public:
  enum class Kind {
    kNone,    // nothing to do at the moment
    kChoose,  // what to read of the unit: it goes on with TakeRoom, or is attended at once
    kRead,    // there is room for it now
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

  explicit UnitSteps(uint64_t most_bytes) : most_bytes_(most_bytes) {}

  // Once: the units, in the order they are to be taken, and how many runners begin.
  void Start(std::vector<uint32_t> stored, std::vector<uint32_t> in_memory, size_t runners);

  Step Next();
  // Whether the unit can be read now; otherwise a kRead for it comes later, and nothing else is
  // chosen before it.
  bool TakeRoom(uint32_t unit, uint64_t bytes);
  // Units that had room were read (or could not be): how many more runners are to be started, so
  // that there are at most `most_runners`. They count from now on.
  size_t Arrived(std::span<const uint32_t> units, size_t most_runners);
  // A unit that had room has been attended.
  void GiveRoom(uint64_t bytes);
  // A runner that has nothing to do, or has had its turn, asks whether it may go.
  Left Leave();

 private:
  Step NextLocked();  // takes nothing: what it would be
  bool HasRoom(uint64_t bytes) const { return bytes_ == 0 || bytes_ + bytes <= most_bytes_; }

  const uint64_t most_bytes_;
  std::mutex mutex_;  // guards everything below
  std::deque<uint32_t> stored_;
  std::deque<uint32_t> ready_;  // in memory, or read, those before the others
  std::deque<std::pair<uint32_t, uint64_t>> held_back_;  // no room for these bytes yet
  uint64_t bytes_ = 0;                                   // of units that have room
  size_t reading_ = 0;                                   // units
  size_t runners_ = 0;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_UNIT_STEPS_H_
