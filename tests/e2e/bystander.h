// A well-behaved worker that works on while a test does something to others: it attends without
// pause, appends now and then, and opens and closes sessions. Nothing of it may fail.
#ifndef SOUNDER_TESTS_E2E_BYSTANDER_H_
#define SOUNDER_TESTS_E2E_BYSTANDER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "tests/e2e/worker.h"

namespace sounder::e2e {

// A session of one layer and one kv head of 16 dimensions, f32.
gpu_worker::RemoteSessionOptions TinySession(uint64_t id);
// Rows of ones behind those that are there.
absl::Status AppendOnes(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session,
                        base::Position first, int64_t count);
// Attends to [0, end); the status of the answer.
absl::Status AttendTo(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session,
                      base::Position end);

class Bystander {
 public:
  // Begins at once.
  explicit Bystander(gpu_worker::KvClient* client);
  ~Bystander() { Stop(); }

  // Ends the work; prints `bystander_requests` and `bystander_failed`, expects none to have failed
  // and some to have been made.
  void Stop();
  // Waits for `more` further requests; false if they do not come.
  bool Works(uint64_t more = 50);

 private:
  void Loop();
  void Note(const absl::Status& status);

  gpu_worker::KvClient* const client_;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> requests_{0};
  std::atomic<uint64_t> failed_{0};
  std::mutex mutex_;
  std::string first_failure_;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace sounder::e2e

#endif  // SOUNDER_TESTS_E2E_BYSTANDER_H_
