#include "kv_node/kernels/bucket_tables.h"

#include <gtest/gtest.h>

#include <bit>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/kernels/simd_level.h"
#include "common/lsh/signature.h"
#include "common/memory/aligned_buffer.h"

namespace sounder::kv_node {
namespace {

// Random codes with `spread` of the 2^bits buckets in use, and the tables over them.
struct Fixture {
  Fixture(int64_t num_rows, int bits_per_table, int num_tables, uint32_t spread)
      : rows(num_rows), bits(bits_per_table), tables(num_tables), stride(num_rows + 3) {
    base::PhiloxStream stream(9, 0);
    codes.resize(tables * stride);
    for (auto& code : codes) code = static_cast<uint16_t>(stream.NextBelow(spread));
    starts.resize(tables * ((size_t{1} << bits) + 1));
    ids.resize(tables * rows);
    full.resize(tables);
    BuildBucketTables(codes.data(), stride, rows, bits, tables, starts.data(), ids.data(),
                      full.data());
  }
  BucketTables View() const {
    return {.rows = rows,
            .bits_per_table = bits,
            .num_tables = tables,
            .starts = starts.data(),
            .ids = ids.data(),
            .full_bucket = full.data()};
  }
  // A query in the bucket of `row` in every table.
  std::vector<uint64_t> SignatureOf(int64_t row) const {
    std::vector<uint64_t> signature((bits * tables + 63) / 64);
    for (int t = 0; t < tables; ++t) {
      lsh::SetCode(signature.data(), t, bits, codes[t * stride + row]);
    }
    return signature;
  }
  // In tables [first, first + count).
  int CollisionsOf(int64_t row, int64_t other, int distance, int first, int count) const {
    int collisions = 0;
    for (int t = first; t < first + count; ++t) {
      const unsigned differ = codes[t * stride + row] ^ codes[t * stride + other];
      collisions += std::popcount(differ) <= distance;
    }
    return collisions;
  }

  int64_t rows;
  int bits;
  int tables;
  int64_t stride;
  std::vector<uint16_t> codes;
  std::vector<uint16_t> starts;
  std::vector<uint16_t> ids;
  std::vector<int32_t> full;
};

class BucketTablesTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::ForceSimdLevel(GetParam()).ok()); }
  ~BucketTablesTest() override { EXPECT_TRUE(kernels::ForceSimdLevel("best").ok()); }

  static void ExpectBruteForce(const Fixture& f, int min_collisions, int64_t query_row,
                               int64_t begin, int64_t end, int distance = 0) {
    ExpectBruteForceOf(f, 0, f.tables, min_collisions, query_row, begin, end, distance);
  }
  static void ExpectBruteForceOf(const Fixture& f, int first_table, int num_tables,
                                 int min_collisions, int64_t query_row, int64_t begin, int64_t end,
                                 int distance) {
    memory::AlignedBuffer counts = memory::AlignedBuffer::Zeroed(kCountBytes);
    std::vector<uint64_t> seen(1024);
    std::vector<uint16_t> candidates(f.rows + 64);
    const std::vector<uint64_t> signature = f.SignatureOf(query_row);
    // Twice: the counts must be left zero.
    for (int pass = 0; pass < 2; ++pass) {
      const int64_t walked =
          CountCollisions(f.View().Slice(first_table, num_tables), signature.data(), distance,
                          counts.As<uint8_t>().data());
      const int64_t taken = TakeCandidates(counts.As<uint8_t>().data(), f.rows, min_collisions,
                                           begin, end, candidates.data(), seen.data());
      int64_t expected_walk = 0;
      std::vector<uint16_t> expected;
      for (int64_t r = 0; r < f.rows; ++r) {
        const int collisions = f.CollisionsOf(query_row, r, distance, first_table, num_tables);
        expected_walk += collisions;
        if (r >= begin && r < end && collisions >= min_collisions) {
          expected.push_back(static_cast<uint16_t>(r));
        }
      }
      EXPECT_EQ(walked, expected_walk);
      ASSERT_EQ(taken, static_cast<int64_t>(expected.size()));
      for (int64_t i = 0; i < taken; ++i) ASSERT_EQ(candidates[i], expected[i]);
      for (uint8_t count : counts.As<uint8_t>()) ASSERT_EQ(count, 0);
      for (int64_t r = 0; r < 65536; ++r) {
        ASSERT_EQ((seen[r / 64] >> (r % 64)) & 1,
                  std::binary_search(expected.begin(), expected.end(), r) ? 1u : 0u);
      }
    }
  }
};

TEST_P(BucketTablesTest, CandidatesAreThoseOfDirectComparison) {
  const Fixture f(1000, 5, 40, 32);
  ExpectBruteForce(f, 2, 7, 0, 1000);
  ExpectBruteForce(f, 1, 999, 0, 1000);
  ExpectBruteForce(f, 4, 0, 0, 1000);
  for (const auto& [begin, end] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 0}, {5, 6}, {63, 65}, {64, 128}, {100, 900}, {960, 1000}, {1000, 1000}}) {
    ExpectBruteForce(f, 2, 7, begin, end);
  }
}

TEST_P(BucketTablesTest, FewRowsAndOneTable) {
  ExpectBruteForce(Fixture(1, 10, 150, 1024), 2, 0, 0, 1);
  ExpectBruteForce(Fixture(65, 1, 1, 2), 1, 64, 0, 65);
  ExpectBruteForce(Fixture(130, 16, 3, 65536), 2, 3, 0, 130);
}

TEST_P(BucketTablesTest, AFullSegment) {
  ExpectBruteForce(Fixture(65536, 6, 12, 64), 2, 65535, 0, 65536);
}

TEST_P(BucketTablesTest, OneBucketThatHoldsAllRows) {
  ExpectBruteForce(Fixture(65536, 4, 3, 1), 2, 5, 0, 65536);
  ExpectBruteForce(Fixture(65536, 4, 3, 1), 2, 5, 70, 65000);
  ExpectBruteForce(Fixture(300, 4, 300, 1), 255, 5, 0, 300);
}

TEST_P(BucketTablesTest, ManyTablesSaturate) {
  const Fixture f(200, 2, 1024, 4);
  ExpectBruteForce(f, 255, 7, 0, 200);
  ExpectBruteForce(f, 250, 7, 0, 200);
}

TEST_P(BucketTablesTest, NeighbouringBuckets) {
  ExpectBruteForce(Fixture(1000, 7, 40, 128), 2, 7, 0, 1000, 1);
  ExpectBruteForce(Fixture(1000, 7, 40, 128), 5, 7, 130, 901, 1);
  ExpectBruteForce(Fixture(65536, 14, 5, 16384), 1, 65535, 0, 65536, 1);
  ExpectBruteForce(Fixture(65536, 4, 3, 1), 2, 5, 0, 65536, 1);
  ExpectBruteForce(Fixture(200, 2, 1024, 4), 250, 7, 0, 200, 1);
  ExpectBruteForce(Fixture(130, 16, 3, 65536), 2, 3, 0, 130, 1);
  ExpectBruteForce(Fixture(130, 1, 3, 2), 3, 3, 0, 130, 1);
}

TEST_P(BucketTablesTest, SomeOfTheTables) {
  const Fixture f(1000, 5, 41, 32);
  for (const int distance : {0, 1}) {
    ExpectBruteForceOf(f, 0, 10, 1, 7, 0, 1000, distance);
    ExpectBruteForceOf(f, 10, 10, 1, 7, 0, 1000, distance);
    ExpectBruteForceOf(f, 30, 11, 2, 7, 0, 1000, distance);
    ExpectBruteForceOf(f, 40, 1, 1, 7, 0, 1000, distance);
  }
  ExpectBruteForceOf(Fixture(65536, 4, 3, 1), 1, 2, 2, 5, 0, 65536, 0);
}

TEST_P(BucketTablesTest, IdsAscendInsideBuckets) {
  const Fixture f(5000, 3, 7, 8);
  for (int t = 0; t < f.tables; ++t) {
    const uint16_t* starts = f.starts.data() + t * 9;
    for (int c = 0; c < 8; ++c) {
      for (int i = starts[c] + 1; i < starts[c + 1]; ++i) {
        ASSERT_LT(f.ids[t * f.rows + i - 1], f.ids[t * f.rows + i]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, BucketTablesTest, testing::ValuesIn(kernels::SimdLevels()),
                         [](const auto& param_info) { return param_info.param; });

}  // namespace
}  // namespace sounder::kv_node
