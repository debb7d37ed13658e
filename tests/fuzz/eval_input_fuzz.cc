// The tensor files of `sounderctl eval`.
#include <cmath>
#include <utility>
#include <vector>

#include "cli/eval_input.h"
#include "common/base/limits.h"
#include "tests/fuzz/tensor_file_input.h"

namespace sounder::fuzz {
namespace {

// Reads every element; all are finite.
void CheckRows(const memory::RowsView& rows, const cli::EvalInput& input) {
  CHECK(rows.rows == input.n && rows.dim == input.dim);
  for (int64_t row = 0; row < rows.rows; ++row) {
    for (int64_t i = 0; i < rows.dim; ++i) {
      const std::byte* const element =
          rows.data + row * rows.row_stride + i * static_cast<int64_t>(base::SizeOf(rows.dtype));
      CHECK(std::isfinite(base::LoadElement(element, rows.dtype)));
    }
  }
}

void CheckInput(const cli::EvalInput& input) {
  CHECK(input.steps > 0 && input.n >= 0 && input.n <= base::kMaxPositions);
  CHECK(input.dim >= 8 && input.dim <= base::kMaxHeadDim && input.dim % 8 == 0);
  CHECK(input.kv_heads > 0 && input.kv_heads <= base::kMaxKvHeads);
  CHECK(input.query_heads == input.group() * input.kv_heads);
  CHECK(input.group() > 0 && input.group() <= base::kMaxGroup);
  CHECK(input.q.size() == static_cast<size_t>(input.steps * input.query_heads * input.dim));
  for (const float value : input.q) CHECK(std::isfinite(value));
  CHECK(input.Query(input.steps - 1, input.query_heads - 1) + input.dim ==
        input.q.data() + input.q.size());
  for (int head = 0; head < input.kv_heads; ++head) {
    CheckRows(input.Keys(head), input);
    CheckRows(input.Values(head), input);
  }
}

}  // namespace

bool RunTarget(std::span<const std::byte> input) {
  const std::vector<std::byte> bytes = TensorFileOf(input);
  auto file = tensor_file::TensorFile::FromBytes("fuzz", bytes);
  if (!file.ok()) return false;
  const auto loaded = cli::LoadEvalInput(*std::move(file));
  if (!loaded.ok()) {
    CheckRefusal(loaded.status(), {absl::StatusCode::kInvalidArgument, absl::StatusCode::kNotFound,
                                   absl::StatusCode::kUnimplemented});
    return false;
  }
  CheckInput(*loaded);
  const cli::EvalInput converted = loaded->WithRowsAs(base::DType::kF32);
  CHECK(converted.dtype() == base::DType::kF32);
  CheckInput(converted);
  return true;
}

}  // namespace sounder::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return sounder::fuzz::MutateJson(data, size, max_size, seed);
}
