// Turns the bytes of an input into numbers, mostly sensible ones, for targets that build values
// instead of parsing bytes.
#ifndef SOUNDER_TESTS_FUZZ_VALUES_H_
#define SOUNDER_TESTS_FUZZ_VALUES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace sounder::fuzz {

// Takes values off the front of the bytes, which it borrows; zeros at their end.
class Values {
 public:
  explicit Values(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  T Raw() {
    T value{};
    const size_t size = std::min(sizeof value, bytes_.size());
    if (size > 0) std::memcpy(&value, bytes_.data(), size);
    bytes_ = bytes_.subspan(size);
    return value;
  }
  // Mostly from `least` to `least + choices - 1` (`least`, for a zero), sometimes anything.
  uint64_t Number(uint64_t least, uint64_t choices) {
    const auto byte = Raw<uint8_t>();
    return byte < 192 ? least + byte % choices : Raw<uint64_t>();
  }
  uint32_t Number32(uint32_t least, uint32_t choices) {
    return static_cast<uint32_t>(Number(least, choices));
  }
  // Always below `choices`.
  uint32_t Below(uint32_t choices) { return Raw<uint8_t>() % choices; }
  bool Bool() { return Below(2) == 1; }
  bool empty() const { return bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace sounder::fuzz

#endif  // SOUNDER_TESTS_FUZZ_VALUES_H_
