#include "kv_node/store/uring_reads.h"

#include <pthread.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "common/base/check.h"

namespace sounder::kv_node {
namespace {

constexpr uint64_t kWake = ~uint64_t{0};  // user data of the entry that ends the thread's wait

}  // namespace

absl::StatusOr<std::unique_ptr<UringReads>> UringReads::Create(unsigned depth) {
  io_uring ring;
  // One entry more than reads, for the one that wakes the thread.
  if (const int result = io_uring_queue_init(2 * depth, &ring, 0); result < 0) {
    return absl::ErrnoToStatus(-result, "io_uring_setup");
  }
  return std::unique_ptr<UringReads>(new UringReads(ring, depth));
}

UringReads::UringReads(const io_uring& ring, unsigned depth) : ring_(ring), slots_(depth) {
  for (unsigned i = 0; i < depth; ++i) free_.push_back(depth - 1 - i);
  thread_ = std::thread([this] { Loop(); });
  pthread_setname_np(thread_.native_handle(), "disk_uring");
}

UringReads::~UringReads() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
    CHECK(entry != nullptr);
    io_uring_prep_nop(entry);
    entry->user_data = kWake;
    SubmitEntries();
  }
  thread_.join();
  io_uring_queue_exit(&ring_);
}

void UringReads::Submit(std::shared_ptr<ReadBatch> batch) {
  const size_t size = batch->size();
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < size; ++i) queue_.push_back({.batch = batch, .index = i});
  Pump();
}

void UringReads::Pump() {
  bool any = false;
  while (!queue_.empty() && !free_.empty()) {
    const unsigned slot = free_.back();
    free_.pop_back();
    slots_[slot] = std::move(queue_.front());
    queue_.pop_front();
    const ReadInFlight& read = slots_[slot];
    const DiskRead& asked = read.batch->read(read.index);
    io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
    CHECK(entry != nullptr);  // fewer slots than entries, and all entries are submitted
    io_uring_prep_read(entry, read.batch->fd(read.index), asked.into.data() + read.got,
                       static_cast<unsigned>(asked.into.size() - read.got),
                       asked.offset + read.got);
    entry->user_data = slot;
    any = true;
  }
  if (any) SubmitEntries();
}

void UringReads::SubmitEntries() {
  while (io_uring_sq_ready(&ring_) > 0) {
    const int result = io_uring_submit(&ring_);
    // EAGAIN, EBUSY: the kernel is short of memory just now.
    const bool again = result == -EINTR || result == -EAGAIN || result == -EBUSY;
    CHECK(result >= 0 || again) << "io_uring_submit: " << -result;
    if (result <= 0) std::this_thread::yield();
  }
}

void UringReads::Collect(std::vector<Over>& over) {
  io_uring_cqe* completion = nullptr;
  while (io_uring_peek_cqe(&ring_, &completion) == 0) {
    const uint64_t slot = completion->user_data;
    const int result = completion->res;
    io_uring_cqe_seen(&ring_, completion);
    if (slot == kWake) continue;
    ReadInFlight read = std::exchange(slots_[slot], {});
    free_.push_back(static_cast<unsigned>(slot));
    absl::Status status;
    if (ReadIsOver(read, result, status)) {
      over.push_back({std::move(read), std::move(status)});
    } else {
      queue_.push_front(std::move(read));
    }
  }
}

void UringReads::Loop() {
  std::vector<Over> over;
  while (true) {
    io_uring_cqe* completion = nullptr;
    const int result = io_uring_wait_cqe(&ring_, &completion);
    CHECK(result == 0 || result == -EINTR || result == -EAGAIN) << "io_uring_wait: " << -result;
    bool idle = false;
    {
      const std::lock_guard lock(mutex_);
      Collect(over);
      Pump();
      idle = stopping_ && queue_.empty() && free_.size() == slots_.size();
    }
    for (Over& one : over) one.read.batch->Finish(one.read.index, std::move(one.status));
    over.clear();
    if (idle) return;
  }
}

}  // namespace sounder::kv_node
