#include "kv_node/session/shared_rows.h"

#include <utility>

namespace sounder::kv_node {

std::shared_ptr<const TailRows> ReadTail(std::shared_ptr<const TailRows> tail) {
  struct Reading {
    explicit Reading(std::shared_ptr<const TailRows> read) : tail(std::move(read)) {
      tail->readers.fetch_add(1, std::memory_order_relaxed);
    }
    ~Reading() { tail->readers.fetch_sub(1, std::memory_order_release); }
    const std::shared_ptr<const TailRows> tail;
  };
  const TailRows* const rows = tail.get();
  return {std::make_shared<Reading>(std::move(tail)), rows};
}

}  // namespace sounder::kv_node
