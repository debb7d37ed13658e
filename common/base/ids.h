// Identifiers and small value types every part of the system speaks of.
#ifndef SOUNDER_COMMON_BASE_IDS_H_
#define SOUNDER_COMMON_BASE_IDS_H_

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sounder::base {

// One sequence's KV state over all nodes. 128 random bits chosen by the worker that opens it;
// all zero is never a session.
struct SessionId {
  uint64_t high = 0;
  uint64_t low = 0;

  bool empty() const { return high == 0 && low == 0; }
  // 32 hexadecimal digits.
  std::string ToString() const;
  static std::optional<SessionId> Parse(std::string_view text);
  friend auto operator<=>(const SessionId&, const SessionId&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const SessionId& id) {
    return H::combine(std::move(h), id.high, id.low);
  }
};

// Absolute index in the sequence. Rows of a segment are counted separately, from 0.
using Position = int64_t;

// Half-open range of positions.
struct PositionRange {
  Position begin = 0;
  Position end = 0;

  int64_t size() const { return end > begin ? end - begin : 0; }
  bool empty() const { return end <= begin; }
  friend bool operator==(const PositionRange&, const PositionRange&) = default;
};

inline PositionRange Intersect(PositionRange a, PositionRange b) {
  return {a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
}

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_IDS_H_
