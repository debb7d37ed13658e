// Hash tables over the rows of one segment, and how a query's bucket mates are counted. Per table
// the row ids sorted by bucket (and ascending inside a bucket) and where each bucket starts. Pure
// functions over caller-owned memory, thread safe.
#ifndef SOUNDER_KV_NODE_KERNELS_BUCKET_TABLES_H_
#define SOUNDER_KV_NODE_KERNELS_BUCKET_TABLES_H_

#include <cstdint>
#include <span>

namespace sounder::kv_node {

// Table t: ids[t * rows .. (t + 1) * rows), bucket c of it from starts[t * (2^bits + 1) + c] up to
// the next start. Starts are taken modulo 65,536, so with 65,536 rows a bucket may look empty that
// holds all of them; full_bucket[t] tells (its code, or -1).
struct BucketTables {
  int64_t rows = 0;     // 1..65536
  int first_table = 0;  // which table of a signature table 0 is
  int bits_per_table = 0;
  int num_tables = 0;
  const uint16_t* starts = nullptr;
  const uint16_t* ids = nullptr;
  const int32_t* full_bucket = nullptr;

  int64_t starts_per_table() const { return (int64_t{1} << bits_per_table) + 1; }
  // `count` of the tables, from table `first` on.
  BucketTables Slice(int first, int count) const {
    BucketTables slice = *this;
    slice.first_table += first;
    slice.num_tables = count;
    slice.starts += first * starts_per_table();
    slice.ids += first * rows;
    slice.full_bucket += first;
    return slice;
  }
};

// Sorts the rows of every table by code. codes as kernels::SignRows writes them; starts
// u16[num_tables * (2^bits + 1)], ids u16[num_tables * rows], full_bucket i32[num_tables].
void BuildBucketTables(const uint16_t* codes, int64_t code_stride, int64_t rows, int bits_per_table,
                       int num_tables, uint16_t* starts, uint16_t* ids, int32_t* full_bucket);

// The array CountCollisions counts in: u8[kCountBytes], 64-byte aligned, zero between uses.
inline constexpr int64_t kCountBytes = 65536;

// counts[r] = in how many tables row r lies in the bucket of `signature` (lsh/signature.h) or, with
// probe_distance 1, in one whose code differs from it in one bit; at most 255. Returns the ids
// walked.
int64_t CountCollisions(const BucketTables& tables, const uint64_t* signature, int probe_distance,
                        uint8_t* counts);

// Candidates are the rows in [begin, end) with counts >= min_collisions; writes them ascending to
// candidates (room for end - begin + 64) and returns how many; sets their bits in seen
// (u64[1024]); zeroes counts for rows [0, rows).
int64_t TakeCandidates(uint8_t* counts, int64_t rows, int min_collisions, int64_t begin,
                       int64_t end, uint16_t* candidates, uint64_t* seen);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_KERNELS_BUCKET_TABLES_H_
