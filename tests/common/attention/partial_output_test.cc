#include "common/attention/partial_output.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/attention/attention_ref.h"
#include "common/base/philox.h"

namespace sounder::attention {
namespace {

constexpr int kDim = 16;
constexpr int64_t kRows = 60;

struct Partial {
  std::vector<float> output = std::vector<float>(kDim, 0.0f);
  float lse = kEmptyLse;
};

Partial Merged(Partial a, const Partial& b) {
  MergePartial(a.output.data(), &a.lse, b.output.data(), b.lse, kDim);
  return a;
}

class MergeTest : public testing::Test {
 protected:
  MergeTest() {
    base::PhiloxStream stream(5, 0);
    for (float& x : query_) x = static_cast<float>(3 * stream.NextGaussian());
    for (float& x : keys_) x = static_cast<float>(stream.NextGaussian());
    for (float& x : values_) x = static_cast<float>(stream.NextGaussian());
  }

  Partial Over(int64_t begin, int64_t end) const {
    double output[kDim];
    double lse;
    AttentionRef({.queries = query_.data(),
                  .query_stride = kDim,
                  .num_queries = 1,
                  .keys = View(keys_).Slice(begin, end),
                  .values = View(values_).Slice(begin, end),
                  .scale = 1},
                 output, &lse);
    Partial partial;
    for (int i = 0; i < kDim; ++i) partial.output[i] = static_cast<float>(output[i]);
    partial.lse = static_cast<float>(lse);
    return partial;
  }

  static memory::RowsView View(const std::vector<float>& rows) {
    return {.data = reinterpret_cast<const std::byte*>(rows.data()),
            .rows = kRows,
            .row_stride = kDim * 4,
            .dim = kDim,
            .dtype = base::DType::kF32};
  }

  static void ExpectNear(const Partial& a, const Partial& b) {
    EXPECT_NEAR(a.lse, b.lse, 2e-6 * std::max(1.0f, std::abs(b.lse)));
    for (int i = 0; i < kDim; ++i) EXPECT_NEAR(a.output[i], b.output[i], 2e-6);
  }

  std::vector<float> query_ = std::vector<float>(kDim);
  std::vector<float> keys_ = std::vector<float>(kRows * kDim);
  std::vector<float> values_ = std::vector<float>(kRows * kDim);
};

TEST_F(MergeTest, PartsOfAnyCutMergeToTheWhole) {
  const Partial whole = Over(0, kRows);
  for (int64_t cut = 0; cut <= kRows; ++cut) {
    ExpectNear(Merged(Over(0, cut), Over(cut, kRows)), whole);
  }
  Partial rows;
  for (int64_t r = 0; r < kRows; ++r) rows = Merged(rows, Over(r, r + 1));
  ExpectNear(rows, whole);
}

TEST_F(MergeTest, CommutativeAndAssociative) {
  const Partial a = Over(0, 7);
  const Partial b = Over(7, 40);
  const Partial c = Over(40, kRows);
  ExpectNear(Merged(a, b), Merged(b, a));
  ExpectNear(Merged(Merged(a, b), c), Merged(a, Merged(b, c)));
}

TEST_F(MergeTest, TheEmptyPartialIsTheIdentity) {
  const Partial a = Over(3, 20);
  for (const Partial& merged : {Merged(a, Partial()), Merged(Partial(), a)}) {
    EXPECT_EQ(merged.lse, a.lse);
    EXPECT_EQ(merged.output, a.output);
  }
  const Partial none = Merged(Partial(), Partial());
  EXPECT_EQ(none.lse, kEmptyLse);
  for (float x : none.output) EXPECT_EQ(x, 0.0f);
}

TEST_F(MergeTest, AnEmptySideContributesNothingWhateverItHolds) {
  Partial garbage;
  garbage.output.assign(kDim, NAN);
  const Partial a = Over(3, 20);
  EXPECT_EQ(Merged(a, garbage).output, a.output);
  EXPECT_EQ(Merged(garbage, a).output, a.output);
  for (float x : Merged(garbage, garbage).output) EXPECT_EQ(x, 0.0f);
}

TEST_F(MergeTest, FarApartLsesDoNotOverflow) {
  Partial high = Over(0, 10);
  Partial low = Over(10, 20);
  high.lse = 3e4f;
  low.lse = -3e4f;
  EXPECT_EQ(Merged(high, low).output, high.output);
  EXPECT_EQ(Merged(low, high).output, high.output);
  EXPECT_EQ(Merged(low, high).lse, 3e4f);
}

TEST_F(MergeTest, TheReferenceKnowsVisibleRanges) {
  const int64_t begin = 5;
  const int64_t end = 33;
  double output[kDim];
  double lse;
  AttentionRef({.queries = query_.data(),
                .query_stride = kDim,
                .num_queries = 1,
                .keys = View(keys_),
                .values = View(values_),
                .scale = 1,
                .visible_begin = {&begin, 1},
                .visible_end = {&end, 1}},
               output, &lse);
  const Partial sliced = Over(begin, end);
  EXPECT_FLOAT_EQ(static_cast<float>(lse), sliced.lse);
  for (int i = 0; i < kDim; ++i) EXPECT_EQ(static_cast<float>(output[i]), sliced.output[i]);
}

}  // namespace
}  // namespace sounder::attention
