// The input of `sounderctl eval`: queries, keys and values of one layer, from a safetensors file.
#ifndef SOUNDER_CLI_EVAL_INPUT_H_
#define SOUNDER_CLI_EVAL_INPUT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/memory/rows_view.h"
#include "common/tensor_file/tensor_file.h"

namespace sounder::cli {

// Tensors q [steps, query_heads, dim], k and v [n, kv_heads, dim]. Query head h belongs to kv head
// h / group(). Immutable after LoadEvalInput, thread safe.
struct EvalInput {
  std::unique_ptr<tensor_file::TensorFile> file;  // holds the bytes of k and v, or these do:
  std::vector<std::byte> converted_k;
  std::vector<std::byte> converted_v;
  tensor_file::TensorView k;
  tensor_file::TensorView v;
  std::vector<float> q;  // [steps, query_heads, dim]
  int64_t steps = 0;
  int64_t n = 0;
  int query_heads = 0;
  int kv_heads = 0;
  int dim = 0;

  int group() const { return query_heads / kv_heads; }
  base::DType dtype() const { return k.dtype; }
  // Rows of one kv head, in the file's dtype.
  memory::RowsView Keys(int kv_head) const { return RowsOf(k, kv_head); }
  memory::RowsView Values(int kv_head) const { return RowsOf(v, kv_head); }
  // The query of (step, query head), f32[dim]. Those of one kv head's group are adjacent.
  const float* Query(int64_t step, int query_head) const {
    return q.data() + (step * query_heads + query_head) * dim;
  }

  // The same with k and v converted, in memory of its own.
  EvalInput WithRowsAs(base::DType dtype) const;

 private:
  memory::RowsView RowsOf(const tensor_file::TensorView& tensor, int kv_head) const;
};

// Refuses, saying what was found and what was expected: files that are no safetensors files,
// missing tensors, shapes that do not fit each other, k and v of different dtypes, dims that are no
// multiple of 8 in [8, 512], no query, elements that are not finite.
absl::StatusOr<EvalInput> LoadEvalInput(const std::string& path);
// The same from an open file.
absl::StatusOr<EvalInput> LoadEvalInput(std::unique_ptr<tensor_file::TensorFile> file);

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_EVAL_INPUT_H_
