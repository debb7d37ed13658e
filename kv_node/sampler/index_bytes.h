// The index of a segment as bytes, for a store to keep and another run of the node to read: a
// header, and the index's arrays. The layout is in FORMAT.md. Pure functions, thread safe.
//
// Bytes come from outside: whatever they are, they are refused with a reason or give arrays of the
// sizes that were expected. What the arrays hold is for the sampler to check.
#ifndef SOUNDER_KV_NODE_SAMPLER_INDEX_BYTES_H_
#define SOUNDER_KV_NODE_SAMPLER_INDEX_BYTES_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/memory/aligned_buffer.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::kv_node {

inline constexpr uint16_t kIndexVersion = 1;
inline constexpr size_t kIndexHeaderBytes = 64;

// What an index was built of and by.
struct IndexIdentity {
  SamplerKind kind = SamplerKind::kExact;
  int64_t rows = 0;
  int dim = 0;
  uint64_t seed = 0;  // of the random directions or the rotation
  int bits = 0;       // of a table or a sketch
  int tables = 0;
  int projection = 0;  // lsh::ProjectionKind

  friend bool operator==(const IndexIdentity&, const IndexIdentity&) = default;
};

struct IndexArrays {
  int exponent = 0;  // of the factors of sketches
  std::vector<memory::AlignedBuffer> arrays;
};

memory::AlignedBuffer EncodeIndexBytes(const IndexIdentity& identity, int exponent,
                                       std::span<const std::span<const std::byte>> arrays);

// FAILED_PRECONDITION for another version and for an index of something else than `expected`,
// naming both sides; DATA_LOSS for bytes that are no index, or a damaged one.
absl::StatusOr<IndexArrays> DecodeIndexBytes(std::span<const std::byte> bytes,
                                             const IndexIdentity& expected,
                                             std::span<const size_t> array_bytes);

// Gives bytes of at least a header the checksum of what they hold. For the encoder, and for tests
// that look behind the checksum.
void SealIndexBytes(std::span<std::byte> bytes);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SAMPLER_INDEX_BYTES_H_
