// Reads by io_uring: a batch is one system call, and its reads are in flight together.
#ifndef SOUNDER_KV_NODE_STORE_URING_READS_H_
#define SOUNDER_KV_NODE_STORE_URING_READS_H_

#include <liburing.h>

#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "kv_node/store/read_queue.h"

namespace sounder::kv_node {

// The thread that calls Submit submits; one thread of this object's collects and calls back. More
// than `depth` reads at once wait in memory.
class UringReads final : public ReadQueue {
 public:
  // Fails where the system forbids io_uring or has none. depth: a power of two.
  static absl::StatusOr<std::unique_ptr<UringReads>> Create(unsigned depth);
  ~UringReads() override;
  UringReads(const UringReads&) = delete;
  UringReads& operator=(const UringReads&) = delete;

  void Submit(std::shared_ptr<ReadBatch> batch) override;

 private:
  struct Over {
    ReadInFlight read;
    absl::Status status;
  };

  UringReads(const io_uring& ring, unsigned depth);
  void Loop();
  // The three below: mutex_ held. Moves reads from the queue into free slots and submits them.
  void Pump();
  void SubmitEntries();
  // Takes what has completed; what is over is appended to `over`.
  void Collect(std::vector<Over>& over);

  std::mutex mutex_;  // guards the submission side and what follows
  io_uring ring_;
  std::vector<ReadInFlight> slots_;  // a slot's number is its completion's user data
  std::vector<unsigned> free_;
  std::deque<ReadInFlight> queue_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_URING_READS_H_
