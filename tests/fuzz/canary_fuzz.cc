// A parser with a bug, on purpose: ./run fuzz fails unless it finds it. Four bytes stand before the
// bug, which random bytes pass once in four thousand million times, a fuzzer that sees what is
// compared within seconds.
#include <cstdint>
#include <cstring>

#include "tests/fuzz/target.h"

namespace sounder::fuzz {

// "SNDR", a length, that many bytes: accepted if their sum is even.
bool RunTarget(std::span<const std::byte> input) {
  constexpr char kMagic[] = {'S', 'N', 'D', 'R'};
  if (input.size() <= sizeof kMagic) return false;
  if (std::memcmp(input.data(), kMagic, sizeof kMagic) != 0) return false;
  const auto length = std::to_integer<size_t>(input[sizeof kMagic]);
  const std::byte* const bytes = input.data() + sizeof kMagic + 1;
  unsigned sum = 0;
  // The bug: `length` is believed.
  for (size_t i = 0; i < length; ++i) sum += std::to_integer<unsigned>(bytes[i]);
  return sum % 2 == 0;
}

}  // namespace sounder::fuzz
