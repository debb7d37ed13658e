#include <cmath>
#include <utility>

#include "bench/generator/synthetic.h"
#include "bench/instructions/kernels.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"

namespace sounder::instructions {

Rows::Rows(int64_t n) {
  const generator::Head head =
      generator::Cache({.seed = 101, .dim = kDim, .group = kGroup, .n = n}).MakeHead(0, 0);
  constexpr int64_t kRowBytes = kDim * 2;
  memory::AlignedBuffer keys(n * kRowBytes);
  memory::AlignedBuffer values(n * kRowBytes);
  head.RowsAs(base::DType::kBF16, 0, n, keys.data(), values.data(), kRowBytes);
  auto made =
      kv_node::Segment::Create(0, n, kDim, base::DType::kBF16, std::move(keys), std::move(values));
  CHECK(made.ok()) << base::MessageOf(made.status());
  segment = *std::move(made);
  queries = head.Queries(0);
}

float Rows::scale() const { return 1 / std::sqrt(static_cast<float>(kDim)); }

}  // namespace sounder::instructions
