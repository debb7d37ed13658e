// Every bound of the system in one place, with the relations between them.
#ifndef SOUNDER_COMMON_BASE_LIMITS_H_
#define SOUNDER_COMMON_BASE_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace sounder::base {

inline constexpr int64_t kMaxSegmentRows = 65536;  // row ids are 16 bits
inline constexpr int kMaxHeadDim = 512;            // a multiple of 8
inline constexpr int kMaxGroup = 32;               // query heads per kv head
inline constexpr int kMaxLayers = 1024;
inline constexpr int kMaxKvHeads = 1024;
inline constexpr int kMaxBitsPerTable = 16;  // bucket codes are 16 bits
inline constexpr int kMaxTables = 1024;
inline constexpr int64_t kMaxPositions = int64_t{1} << 40;
inline constexpr int kMaxQueryBlock = 4096;  // T of one Attend item
inline constexpr size_t kMaxHeaderBytes = 1024;
inline constexpr size_t kMaxPayloadBytes = size_t{256} << 20;
inline constexpr size_t kMaxItems = 4096;  // items of one Attend
// Of the partial outputs that a node keeps for one Attend until the last is there: one per query
// and unit of work. Units are rows between seal marks, and longer ones are cut.
inline constexpr size_t kMaxPartialBytes = size_t{256} << 20;
inline constexpr int64_t kUnitRows = 4096;  // the smallest multiple of which they are cut at
inline constexpr size_t kMaxNameBytes = 256;
inline constexpr size_t kMaxConnections = 16384;  // listed in a node's status

static_assert(kMaxHeaderBytes <= 8140, "UCX over TCP caps active message headers at 8,140 bytes");
static_assert(kMaxSegmentRows == 1 << 16);

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_LIMITS_H_
