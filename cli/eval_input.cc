#include "cli/eval_input.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/tensor_file/tensor_header.h"
#include "common/tensor_file/tensor_writer.h"

namespace sounder::cli {
namespace {

using tensor_file::ShapeText;
using tensor_file::TensorView;

absl::StatusOr<TensorView> FindRank3(const tensor_file::TensorFile& file, const std::string& name,
                                     const std::string& axes) {
  auto tensor = file.Find(name);
  if (!tensor.ok()) return tensor.status();
  if (tensor->shape.size() != 3) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor ", name, " has shape ",
                                                   ShapeText(tensor->shape), ", expected ", axes));
  }
  return tensor;
}

absl::Status CheckFinite(const std::string& path, const std::string& name,
                         const TensorView& tensor) {
  const size_t size = base::SizeOf(tensor.dtype);
  for (int64_t i = 0; i < tensor.elements(); ++i) {
    if (std::isfinite(base::LoadElement(tensor.data.data() + i * size, tensor.dtype))) continue;
    const int64_t d2 = tensor.shape[2], d1 = tensor.shape[1];
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", name, "[", i / d2 / d1, ", ",
                                                   i / d2 % d1, ", ", i % d2,
                                                   "] is not a finite number"));
  }
  return absl::OkStatus();
}

absl::Status CheckShapes(const TensorView& q, const TensorView& k, const TensorView& v) {
  const auto refuse = [](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  };
  if (k.shape != v.shape) {
    return refuse("k has shape ", ShapeText(k.shape), " and v ", ShapeText(v.shape),
                  ", expected the same [n, kv heads, dim]");
  }
  if (k.dtype != v.dtype) {
    return refuse("k is ", std::string(base::NameOf(k.dtype)), " and v ",
                  std::string(base::NameOf(v.dtype)), ", expected the same dtype");
  }
  const int64_t dim = k.shape[2];
  if (q.shape[2] != dim) {
    return refuse("q has dim ", q.shape[2], " and k dim ", dim, ", expected the same");
  }
  if (dim < 8 || dim > base::kMaxHeadDim || dim % 8 != 0) {
    return refuse("dim is ", dim, ", expected a multiple of 8 in [8, ", base::kMaxHeadDim, "]");
  }
  if (q.shape[0] == 0) return refuse("q has no queries: shape ", ShapeText(q.shape));
  const int64_t query_heads = q.shape[1], kv_heads = k.shape[1];
  if (kv_heads < 1 || kv_heads > base::kMaxKvHeads) {
    return refuse(kv_heads, " kv heads, expected 1 to ", base::kMaxKvHeads);
  }
  const int64_t most = int64_t{base::kMaxGroup} * kv_heads;
  if (query_heads < 1 || query_heads > most || query_heads % kv_heads != 0) {
    return refuse(query_heads, " query heads over ", kv_heads, " kv heads, expected a multiple of ",
                  kv_heads, " in [", kv_heads, ", ", most, "]");
  }
  if (k.shape[0] > base::kMaxPositions) return refuse("n is ", k.shape[0]);
  return absl::OkStatus();
}

}  // namespace

memory::RowsView EvalInput::RowsOf(const TensorView& tensor, int kv_head) const {
  const int64_t row_bytes = dim * static_cast<int64_t>(base::SizeOf(tensor.dtype));
  return {.data = n == 0 ? nullptr : tensor.data.data() + kv_head * row_bytes,
          .rows = n,
          .row_stride = row_bytes * kv_heads,
          .dim = dim,
          .dtype = tensor.dtype};
}

EvalInput EvalInput::WithRowsAs(base::DType dtype) const {
  const auto convert = [dtype](const TensorView& rows, std::vector<std::byte>& bytes) {
    std::vector<float> values(static_cast<size_t>(rows.elements()));
    tensor_file::CopyToF32(rows, values);
    bytes = tensor_file::EncodeAs(dtype, values);
    return TensorView{.dtype = dtype, .shape = rows.shape, .data = bytes};
  };
  EvalInput input;
  input.k = convert(k, input.converted_k);
  input.v = convert(v, input.converted_v);
  input.q = q;
  input.steps = steps;
  input.n = n;
  input.query_heads = query_heads;
  input.kv_heads = kv_heads;
  input.dim = dim;
  return input;
}

absl::StatusOr<EvalInput> LoadEvalInput(std::unique_ptr<tensor_file::TensorFile> file) {
  EvalInput input;
  input.file = std::move(file);
  const std::string& path = input.file->path();
  ASSIGN_OR_RETURN(const TensorView q, FindRank3(*input.file, "q", "[steps, query heads, dim]"));
  ASSIGN_OR_RETURN(input.k, FindRank3(*input.file, "k", "[n, kv heads, dim]"));
  ASSIGN_OR_RETURN(input.v, FindRank3(*input.file, "v", "[n, kv heads, dim]"));
  RETURN_IF_ERROR(base::Annotate(CheckShapes(q, input.k, input.v), path));
  RETURN_IF_ERROR(CheckFinite(path, "q", q));
  RETURN_IF_ERROR(CheckFinite(path, "k", input.k));
  RETURN_IF_ERROR(CheckFinite(path, "v", input.v));
  input.steps = q.shape[0];
  input.query_heads = static_cast<int>(q.shape[1]);
  input.dim = static_cast<int>(q.shape[2]);
  input.n = input.k.shape[0];
  input.kv_heads = static_cast<int>(input.k.shape[1]);
  input.q.resize(q.elements());
  tensor_file::CopyToF32(q, input.q);
  return input;
}

absl::StatusOr<EvalInput> LoadEvalInput(const std::string& path) {
  ASSIGN_OR_RETURN(auto file, tensor_file::TensorFile::Open(path));
  return LoadEvalInput(std::move(file));
}

}  // namespace sounder::cli
