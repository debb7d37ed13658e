// The blocked float64 reference of `eval` against the plain one of common/attention.
#include "cli/eval_reference.h"

#include <gtest/gtest.h>

#include <cmath>

#include "common/attention/attention_ref.h"
#include "common/memory/aligned_buffer.h"
#include "tests/cli/qkv_file.h"

namespace sounder::cli {
namespace {

TEST(EvalReferenceTest, AgreesWithThePlainReference) {
  for (const base::DType dtype : {base::DType::kF32, base::DType::kF16, base::DType::kBF16}) {
    Qkv data{.steps = 5, .n = 77, .query_heads = 1, .kv_heads = 1, .dim = 24, .dtype = dtype};
    data.Fill(11);
    for (float& x : data.q) x *= 20;  // logits of hundreds
    const auto k = tensor_file::EncodeAs(dtype, data.k);
    const auto v = tensor_file::EncodeAs(dtype, data.v);
    const int64_t stride = 24 * static_cast<int64_t>(base::SizeOf(dtype));
    const memory::RowsView keys{k.data(), data.n, stride, 24, dtype};
    const memory::RowsView values{v.data(), data.n, stride, 24, dtype};
    std::vector<const float*> queries;
    for (int64_t i = 0; i < data.steps; ++i) queries.push_back(&data.q[i * 24]);
    std::vector<double> outputs(data.steps * 24), lse(data.steps);
    attention::AttentionRef({.queries = data.q.data(),
                             .query_stride = 24,
                             .num_queries = static_cast<int>(data.steps),
                             .keys = keys,
                             .values = values,
                             .scale = 0.2,
                             .visible_begin = {},
                             .visible_end = {}},
                            outputs.data(), lse.data());
    const auto whole = ReferenceAttention(queries, keys, values, 0.2);
    auto parts = ReferenceAttention(queries, keys.Slice(40, 77), values.Slice(40, 77), 0.2);
    const auto first = ReferenceAttention(queries, keys.Slice(0, 40), values.Slice(0, 40), 0.2);
    for (size_t i = 0; i < queries.size(); ++i) {
      parts[i].Merge(first[i]);
      EXPECT_NEAR(whole[i].Lse(), lse[i], 1e-12 * std::abs(lse[i]));
      EXPECT_NEAR(parts[i].Lse(), lse[i], 1e-12 * std::abs(lse[i]));
      for (int j = 0; j < 24; ++j) {
        EXPECT_NEAR(whole[i].Output()[j], outputs[i * 24 + j], 1e-12);
        EXPECT_NEAR(parts[i].Output()[j], outputs[i * 24 + j], 1e-12);
      }
    }
  }
}

TEST(EvalReferenceTest, NoRowsAreTheEmptySet) {
  ReferenceState empty(8), other(8);
  EXPECT_EQ(empty.Lse(), -INFINITY);
  EXPECT_EQ(empty.Output(), std::vector<double>(8, 0.0));
  empty.Merge(other);
  EXPECT_EQ(empty.Lse(), -INFINITY);
  const std::vector<double> value(8, 3.0);
  other.Add(-5, value.data());
  empty.Merge(other);
  EXPECT_DOUBLE_EQ(empty.Lse(), -5);
  EXPECT_EQ(empty.Output(), value);
  other.Merge(ReferenceState(8));
  EXPECT_DOUBLE_EQ(other.Lse(), -5);
}

}  // namespace
}  // namespace sounder::cli
