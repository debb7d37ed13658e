#include "kv_node/kernels/bucket_tables.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "common/base/limits.h"
#include "common/lsh/signature.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kv_node/kernels/bucket_tables.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sounder::kv_node {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Bits of the 64 counts that are >= threshold; zeroes them.
HWY_INLINE uint64_t TakeBlock(uint8_t* HWY_RESTRICT counts, uint8_t threshold) {
  const hn::CappedTag<uint8_t, 64> d;
  const size_t lanes = hn::Lanes(d);
  uint64_t bits = 0;
  for (size_t i = 0; i < 64; i += lanes) {
    const auto count = hn::Load(d, counts + i);
    uint8_t bytes[8] = {};
    hn::StoreMaskBits(d, hn::Eq(hn::Max(count, hn::Set(d, threshold)), count), bytes);
    uint64_t part;
    std::memcpy(&part, bytes, sizeof part);
    bits |= part << i;
    hn::Store(hn::Zero(d), d, counts + i);
  }
  return bits;
}

// Writes the positions of the set bits, plus `base`; up to 64 entries may be written beyond them.
HWY_INLINE int64_t WritePositions(uint64_t bits, uint32_t base, uint16_t* HWY_RESTRICT out) {
  const int64_t count = std::popcount(bits);
  // Few bits are set as a rule: four positions without a branch, then more if need be.
  for (int64_t written = 0; written < count; written += 4) {
    for (int k = 0; k < 4; ++k) {
      out[written + k] = static_cast<uint16_t>(base + std::countr_zero(bits));
      bits &= bits - 1;
    }
  }
  return count;
}

int64_t Take(uint8_t* HWY_RESTRICT counts, int64_t rows, int min_collisions, int64_t begin,
             int64_t end, uint16_t* HWY_RESTRICT candidates, uint64_t* HWY_RESTRICT seen) {
  int64_t taken = 0;
  for (int64_t base = 0; base < rows; base += 64) {
    uint64_t bits = TakeBlock(counts + base, static_cast<uint8_t>(min_collisions));
    if (base < begin) bits &= base + 64 <= begin ? 0 : ~uint64_t{0} << (begin - base);
    if (base + 64 > end) bits &= base >= end ? 0 : ~uint64_t{0} >> (base + 64 - end);
    if (bits == 0) continue;
    seen[base / 64] |= bits;
    taken += WritePositions(bits, static_cast<uint32_t>(base), candidates + taken);
  }
  return taken;
}

}  // namespace HWY_NAMESPACE
}  // namespace sounder::kv_node
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sounder::kv_node {

HWY_EXPORT(Take);

void BuildBucketTables(const uint16_t* codes, int64_t code_stride, int64_t rows, int bits_per_table,
                       int num_tables, uint16_t* starts, uint16_t* ids, int32_t* full_bucket) {
  const int64_t buckets = int64_t{1} << bits_per_table;
  std::vector<uint32_t> next(buckets);
  for (int t = 0; t < num_tables; ++t) {
    const uint16_t* code = codes + t * code_stride;
    uint16_t* start = starts + t * (buckets + 1);
    uint16_t* id = ids + t * rows;
    std::fill(next.begin(), next.end(), 0);
    for (int64_t r = 0; r < rows; ++r) ++next[code[r]];
    full_bucket[t] = -1;
    uint32_t sum = 0;
    for (int64_t c = 0; c < buckets; ++c) {
      const uint32_t size = next[c];
      if (size == rows) full_bucket[t] = static_cast<int32_t>(c);
      start[c] = static_cast<uint16_t>(sum);
      next[c] = sum;
      sum += size;
    }
    start[buckets] = static_cast<uint16_t>(sum);
    for (int64_t r = 0; r < rows; ++r) id[next[code[r]]++] = static_cast<uint16_t>(r);
  }
}

namespace {

struct Bucket {
  const uint16_t* ids;
  int64_t size;
};

// The buckets of one signature with the bits of `flipped` turned over in every code. Their start
// entries and then their ids are asked for ahead of use, so that the cache misses of different
// tables overlap.
int64_t FindBuckets(const BucketTables& tables, const uint64_t* signature, uint32_t flipped,
                    Bucket* buckets) {
  std::array<const uint16_t*, base::kMaxTables> starts;
  const auto code_of = [&](int t) {
    return lsh::CodeOf(signature, tables.first_table + t, tables.bits_per_table) ^ flipped;
  };
  for (int t = 0; t < tables.num_tables; ++t) {
    starts[t] = tables.starts + t * tables.starts_per_table() + code_of(t);
    __builtin_prefetch(starts[t]);
  }
  int64_t total = 0;
  for (int t = 0; t < tables.num_tables; ++t) {
    const uint16_t first = starts[t][0];
    int64_t size = static_cast<uint16_t>(starts[t][1] - first);
    if (size == 0 && tables.full_bucket[t] >= 0 &&
        tables.full_bucket[t] == static_cast<int32_t>(code_of(t))) {
      size = tables.rows;
    }
    buckets[t] = {tables.ids + t * tables.rows + first, size};
    for (int64_t i = 0; i < std::min<int64_t>(size, 128); i += 32) {
      __builtin_prefetch(buckets[t].ids + i);
    }
    total += size;
  }
  return total;
}

// A row lies in one bucket of a table: no probe counts it twice.
int64_t CountProbe(const BucketTables& tables, const uint64_t* signature, uint32_t flipped,
                   uint8_t* counts) {
  std::array<Bucket, base::kMaxTables> buckets;
  const int64_t total = FindBuckets(tables, signature, flipped, buckets.data());
  if (tables.num_tables <= 255) {
    for (int t = 0; t < tables.num_tables; ++t) {
      const Bucket bucket = buckets[t];
      for (int64_t i = 0; i < bucket.size; ++i) ++counts[bucket.ids[i]];
    }
    return total;
  }
  for (int t = 0; t < tables.num_tables; ++t) {
    const Bucket bucket = buckets[t];
    for (int64_t i = 0; i < bucket.size; ++i) {
      uint8_t& count = counts[bucket.ids[i]];
      count = static_cast<uint8_t>(count + (count != 255 ? 1 : 0));
    }
  }
  return total;
}

}  // namespace

int64_t CountCollisions(const BucketTables& tables, const uint64_t* signature, int probe_distance,
                        uint8_t* counts) {
  int64_t total = CountProbe(tables, signature, 0, counts);
  if (probe_distance == 0) return total;
  for (int bit = 0; bit < tables.bits_per_table; ++bit) {
    total += CountProbe(tables, signature, uint32_t{1} << bit, counts);
  }
  return total;
}

int64_t TakeCandidates(uint8_t* counts, int64_t rows, int min_collisions, int64_t begin,
                       int64_t end, uint16_t* candidates, uint64_t* seen) {
  return HWY_DYNAMIC_DISPATCH(Take)(counts, rows, min_collisions, begin, end, candidates, seen);
}

}  // namespace sounder::kv_node
#endif  // HWY_ONCE
