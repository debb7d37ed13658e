// A fixed set of threads that share the iterations of one loop at a time.
#ifndef SOUNDER_GPU_WORKER_OPS_THREAD_TEAM_H_
#define SOUNDER_GPU_WORKER_OPS_THREAD_TEAM_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace sounder::gpu_worker {

// The caller works too, so a team of one has no threads of its own. Threads sleep between loops:
// spinning ones (OpenMP's habit) take the cores from whoever shares the machine.
// Thread compatible: one For at a time.
class ThreadTeam {
 public:
  // size >= 1.
  explicit ThreadTeam(int size);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls body(iteration, member) once for each iteration in [0, iterations), on at most `members`
  // of the team, and returns when all are done. member is in [0, size()) and is used by one thread
  // at a time. body must not throw or call For.
  void For(int64_t iterations, int members, const std::function<void(int64_t, int)>& body);

 private:
  void Work(int member);
  void Take(int member, const std::function<void(int64_t, int)>& body);

  std::vector<std::thread> threads_;
  // The rest is guarded by mutex_. Loops are long (tens of microseconds an iteration), so one lock
  // per iteration costs nothing that can be measured.
  std::mutex mutex_;
  std::condition_variable work_ready_;
  std::condition_variable work_done_;
  const std::function<void(int64_t, int)>* body_ = nullptr;
  int64_t next_ = 0;
  int64_t iterations_ = 0;
  int members_ = 0;  // members below this number take part
  int active_ = 0;   // members inside Take, without the caller
  bool stopping_ = false;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_OPS_THREAD_TEAM_H_
