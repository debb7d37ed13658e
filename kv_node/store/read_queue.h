// How LinuxDisk carries out batches of reads: io_uring (uring_reads.h) or threads (thread_reads.h).
#ifndef SOUNDER_KV_NODE_STORE_READ_QUEUE_H_
#define SOUNDER_KV_NODE_STORE_READ_QUEUE_H_

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kv_node/store/disk.h"

namespace sounder::kv_node {

// The reads of one Disk::Read and what became of them. Each read is finished once, from any thread.
class ReadBatch {
 public:
  // fds[i] is the descriptor of reads[i].file.
  ReadBatch(std::vector<DiskRead> reads, std::vector<int> fds, ReadsDone done)
      : reads_(std::move(reads)),
        fds_(std::move(fds)),
        statuses_(reads_.size()),
        left_(reads_.size()),
        done_(std::move(done)) {}

  size_t size() const { return reads_.size(); }
  const DiskRead& read(size_t index) const { return reads_[index]; }
  int fd(size_t index) const { return fds_[index]; }
  // Calls the batch's callback if it was the last.
  void Finish(size_t index, absl::Status status) {
    statuses_[index] = std::move(status);
    if (left_.fetch_sub(1) == 1) done_(statuses_);
  }

 private:
  const std::vector<DiskRead> reads_;
  const std::vector<int> fds_;
  std::vector<absl::Status> statuses_;
  std::atomic<size_t> left_;
  const ReadsDone done_;
};

// A read on its way: `got` bytes are there.
struct ReadInFlight {
  std::shared_ptr<ReadBatch> batch;
  size_t index = 0;
  size_t got = 0;
};

// What a read system call returned (bytes, or -errno): true if the read is over, with its status;
// false if the rest must be read.
bool ReadIsOver(ReadInFlight& read, int64_t result, absl::Status& status);

// Thread safe.
class ReadQueue {
 public:
  // Waits for the reads in flight.
  virtual ~ReadQueue() = default;
  // The batch is not empty.
  virtual void Submit(std::shared_ptr<ReadBatch> batch) = 0;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_READ_QUEUE_H_
