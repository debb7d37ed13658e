// Working memory of the sampler for whichever threads happen to run.
#ifndef SOUNDER_KV_NODE_SAMPLER_SCRATCH_POOL_H_
#define SOUNDER_KV_NODE_SAMPLER_SCRATCH_POOL_H_

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "kv_node/sampler/scratch.h"

namespace sounder::kv_node {

// Thread safe. Holds as many scratches as were ever in use at once.
class ScratchPool {
 public:
  explicit ScratchPool(const kernels::KernelSchedule& schedule = {}) : schedule_(schedule) {}
  const kernels::KernelSchedule& schedule() const { return schedule_; }

  // Returns its scratch to the pool at the end of its life.
  class Lease {
   public:
    Lease(ScratchPool* pool, std::unique_ptr<Scratch> scratch)
        : pool_(pool), scratch_(std::move(scratch)) {}
    ~Lease() {
      if (scratch_ != nullptr) pool_->Return(std::move(scratch_));
    }
    Lease(Lease&&) = default;
    Lease& operator=(Lease&&) = delete;
    Scratch& operator*() const { return *scratch_; }

   private:
    ScratchPool* pool_;
    std::unique_ptr<Scratch> scratch_;
  };

  Lease Take() {
    std::lock_guard lock(mutex_);
    if (free_.empty()) return Lease(this, std::make_unique<Scratch>(schedule_));
    std::unique_ptr<Scratch> scratch = std::move(free_.back());
    free_.pop_back();
    return Lease(this, std::move(scratch));
  }

 private:
  void Return(std::unique_ptr<Scratch> scratch) {
    std::lock_guard lock(mutex_);
    free_.push_back(std::move(scratch));
  }

  const kernels::KernelSchedule schedule_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;  // guarded by mutex_
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SAMPLER_SCRATCH_POOL_H_
