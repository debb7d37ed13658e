// A signature: the sign bits of one vector under a session's random directions, as an array of
// 64-bit words (little-endian on the wire). Bit g = table * bits_per_table + j is bit g % 64 of
// word g / 64; bit j of a table's code is its 2^j. Unused bits of the last word are 0. Pure
// functions.
#ifndef SOUNDER_COMMON_LSH_SIGNATURE_H_
#define SOUNDER_COMMON_LSH_SIGNATURE_H_

#include <cstdint>

#include "common/lsh/lsh_params.h"

namespace sounder::lsh {

// The code of `table`: its bucket, in [0, 2^bits_per_table).
inline uint32_t CodeOf(const uint64_t* signature, int table, int bits_per_table) {
  const int bit = table * bits_per_table;
  const int shift = bit % 64;
  uint64_t code = signature[bit / 64] >> shift;
  if (shift + bits_per_table > 64) code |= signature[bit / 64 + 1] << (64 - shift);
  return static_cast<uint32_t>(code & ((uint64_t{1} << bits_per_table) - 1));
}

// Stores `code` for `table`; the bits must still be 0.
inline void SetCode(uint64_t* signature, int table, int bits_per_table, uint32_t code) {
  const int bit = table * bits_per_table;
  const int shift = bit % 64;
  signature[bit / 64] |= uint64_t{code} << shift;
  if (shift + bits_per_table > 64) signature[bit / 64 + 1] |= uint64_t{code} >> (64 - shift);
}

}  // namespace sounder::lsh

#endif  // SOUNDER_COMMON_LSH_SIGNATURE_H_
