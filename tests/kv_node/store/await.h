// Waits for what calls back.
#ifndef SOUNDER_TESTS_KV_NODE_STORE_AWAIT_H_
#define SOUNDER_TESTS_KV_NODE_STORE_AWAIT_H_

#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>

namespace sounder::kv_node {

// Calls `start` with a callback, which may come on any thread and comes once, and waits for what it
// is called with.
template <typename Result>
Result Await(const std::function<void(std::function<void(Result)>)>& start) {
  std::mutex mutex;
  std::condition_variable changed;
  std::optional<Result> result;
  start([&](Result value) {
    const std::lock_guard lock(mutex);
    EXPECT_FALSE(result.has_value()) << "called twice";
    result = std::move(value);
    changed.notify_all();  // under the lock: the waiter destroys it
  });
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return result.has_value(); });
  return *std::move(result);
}

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_STORE_AWAIT_H_
