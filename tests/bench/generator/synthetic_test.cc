// Rows and queries are pure functions of seed, layer, kv head, position and step.
#include "bench/generator/synthetic.h"

#include <gtest/gtest.h>

#include <vector>

#include "bench/generator/normal_table.h"

namespace sounder::generator {
namespace {

// Rows do not depend on how they are asked for.
TEST(SyntheticTest, AnyCutGivesTheSameRows) {
  for (const Family family : {Family::kFlat, Family::kSharp}) {
    const Cache cache({.family = family, .seed = 3, .dim = 24, .n = 1 << 20});
    const Head head = cache.MakeHead(1, 2);
    const int64_t begin = kBlockRows - 70, end = kBlockRows + 70;
    std::vector<float> k((end - begin) * 24), v(k.size());
    head.Rows(begin, end, k, v);
    for (int64_t at = begin; at < end; at += 7) {
      std::vector<float> k1(7 * 24), v1(7 * 24);
      head.Rows(at, at + 7, k1, v1);
      for (int i = 0; i < 7 * 24; ++i) {
        ASSERT_EQ(k1[i], k[(at - begin) * 24 + i]);
        ASSERT_EQ(v1[i], v[(at - begin) * 24 + i]);
      }
    }
  }
}

TEST(SyntheticTest, EveryCoordinateOfTheStreamMatters) {
  const auto row = [](uint64_t seed, int layer, int kv_head, int64_t position) {
    const Head head = Cache({.seed = seed, .dim = 16}).MakeHead(layer, kv_head);
    std::vector<float> k(16), v(16);
    head.Rows(position, position + 1, k, v);
    k.insert(k.end(), v.begin(), v.end());
    return k;
  };
  const auto base = row(1, 0, 0, 5);
  EXPECT_EQ(base, row(1, 0, 0, 5));
  EXPECT_NE(base, row(2, 0, 0, 5));
  EXPECT_NE(base, row(1, 1, 0, 5));
  EXPECT_NE(base, row(1, 0, 1, 5));
  EXPECT_NE(base, row(1, 0, 0, 6));
  EXPECT_NE(base, row(1, 0, 0, (int64_t{1} << 32) + 5));
  const Head head = Cache({.dim = 16}).MakeHead(0, 0);
  EXPECT_EQ(head.Queries(3), head.Queries(3));
  EXPECT_NE(head.Queries(3), head.Queries(4));
  EXPECT_EQ(head.Queries(0).size(), 4u * 16);
}

TEST(SyntheticTest, RoundedRowsAreTheRowsRounded) {
  const Head head = Cache({.family = Family::kMid, .dim = 8}).MakeHead(0, 0);
  const int64_t begin = kBlockRows - 3, end = kBlockRows + 4;
  std::vector<float> k((end - begin) * 8), v(k.size());
  head.Rows(begin, end, k, v);
  for (const base::DType dtype : {base::DType::kF32, base::DType::kF16, base::DType::kBF16}) {
    const int64_t stride = 8 * base::SizeOf(dtype) + 6;
    std::vector<std::byte> kb((end - begin) * stride), vb(kb.size());
    head.RowsAs(dtype, begin, end, kb.data(), vb.data(), stride);
    for (int64_t row = 0; row < end - begin; ++row) {
      for (int j = 0; j < 8; ++j) {
        const size_t at = row * stride + j * base::SizeOf(dtype);
        EXPECT_EQ(base::LoadElement(&kb[at], dtype), base::RoundTo(dtype, k[row * 8 + j]));
        EXPECT_EQ(base::LoadElement(&vb[at], dtype), base::RoundTo(dtype, v[row * 8 + j]));
      }
    }
  }
}

TEST(SyntheticTest, FamilyNames) {
  for (const Family family :
       {Family::kPeaked, Family::kFlat, Family::kMid, Family::kSharp, Family::kDiffuse}) {
    EXPECT_EQ(ParseFamily(NameOf(family)), family);
  }
  EXPECT_EQ(ParseFamily("Flat"), std::nullopt);
  EXPECT_EQ(ParseFamily(""), std::nullopt);
}

TEST(NormalTableTest, IsStandardNormal) {
  const NormalTable table;
  double sum = 0, squares = 0, fourth = 0;
  for (int i = 0; i < 65536; ++i) {
    const double x = table.At(static_cast<uint16_t>(i));
    sum += x, squares += x * x, fourth += x * x * x * x;
    if (i > 0) {
      ASSERT_GT(x, table.At(static_cast<uint16_t>(i - 1)));
    }
  }
  EXPECT_NEAR(sum, 0, 1e-6);
  EXPECT_NEAR(squares / 65536, 1, 1e-3);
  EXPECT_NEAR(fourth / 65536, 3, 0.02);
  EXPECT_NEAR(table.At(1311), -2.0537, 1e-3);  // the 2 % quantile
}

}  // namespace
}  // namespace sounder::generator
