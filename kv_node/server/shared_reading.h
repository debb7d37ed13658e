// One reading of many counts for all the metrics that show one of them each.
#ifndef SOUNDER_KV_NODE_SERVER_SHARED_READING_H_
#define SOUNDER_KV_NODE_SERVER_SHARED_READING_H_

#include <cstdint>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

namespace sounder::kv_node {

// Thread safe. `Counts` is a struct of uint64_t. An exposition asks for each field once, in any
// order: whoever asks for one again begins the next, with a new reading.
template <typename Counts>
class SharedReading {
 public:
  using Field = uint64_t Counts::*;
  explicit SharedReading(std::function<Counts()> read) : read_(std::move(read)) {}

  double Of(Field field) {
    std::lock_guard lock(mutex_);
    bool again = shown_.empty();
    for (const Field shown : shown_) again = again || shown == field;
    if (again) {
      shown_.clear();
      counts_ = read_();
    }
    shown_.push_back(field);
    return static_cast<double>(counts_.*field);
  }

 private:
  const std::function<Counts()> read_;
  std::mutex mutex_;  // guards everything below
  Counts counts_{};
  std::vector<Field> shown_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_SHARED_READING_H_
