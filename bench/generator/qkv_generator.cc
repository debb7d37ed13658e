// Writes synthetic queries, keys and values (synthetic.h) as a safetensors file: q [T, Hq, d] F32,
// k and v [n, Hkv, d].
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "bench/generator/synthetic.h"
#include "common/base/absl_text.h"
#include "common/base/limits.h"
#include "common/config/option_set.h"
#include "common/memory/aligned_buffer.h"
#include "common/tensor_file/tensor_writer.h"

namespace sounder::generator {
namespace {

struct ToolOptions {
  std::string family = "peaked";
  int64_t n = 65536;
  int64_t dim = 128;
  int64_t group = 4;
  int64_t kv_heads = 1;
  int64_t queries = 24;
  int64_t layer = 0;
  int64_t seed = 1;
  std::string dtype = "bf16";
  std::string output;
};

void Declare(config::OptionSet& set, ToolOptions& options) {
  set.AddText("family", &options.family, "shape of the attention",
              {"peaked", "flat", "mid", "sharp", "diffuse"});
  set.AddInt("n", &options.n, "positions", {.min = 1, .max = int64_t{1} << 26});
  set.AddInt("dim", &options.dim, "head dimension, a multiple of 8",
             {.min = 8, .max = base::kMaxHeadDim});
  set.AddInt("group", &options.group, "query heads per kv head",
             {.min = 1, .max = base::kMaxGroup});
  set.AddInt("kv_heads", &options.kv_heads, "kv heads", {.min = 1, .max = base::kMaxKvHeads});
  set.AddInt("queries", &options.queries, "decode steps", {.min = 1, .max = 1 << 20});
  set.AddInt("layer", &options.layer, "layer: other layers have other rows",
             {.min = 0, .max = base::kMaxLayers});
  set.AddInt("seed", &options.seed, "seed", {.min = 0});
  set.AddText("dtype", &options.dtype, "of k and v", {"f32", "f16", "bf16"});
  set.AddText("output", &options.output, "file to write");
  set.Require("output");
  set.AddCheck([&options] {
    if (options.dim % 8 == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--dim is ", options.dim, ", expected a multiple of 8"));
  });
}

absl::Status Write(const ToolOptions& options) {
  const Cache cache({.family = *ParseFamily(options.family),
                     .seed = static_cast<uint64_t>(options.seed),
                     .dim = static_cast<int>(options.dim),
                     .group = static_cast<int>(options.group),
                     .n = options.n});
  const base::DType dtype = *base::ParseDType(options.dtype);
  const size_t group_size = options.group * options.dim;
  const int64_t row_bytes = options.dim * static_cast<int64_t>(base::SizeOf(dtype));
  memory::AlignedBuffer k(options.n * options.kv_heads * row_bytes);
  memory::AlignedBuffer v(k.size());
  std::vector<float> q(options.queries * options.kv_heads * group_size);
  for (int64_t kv_head = 0; kv_head < options.kv_heads; ++kv_head) {
    const Head head = cache.MakeHead(static_cast<int>(options.layer), static_cast<int>(kv_head));
    head.RowsAs(dtype, 0, options.n, k.data() + kv_head * row_bytes, v.data() + kv_head * row_bytes,
                row_bytes * options.kv_heads);
    for (int64_t step = 0; step < options.queries; ++step) {
      const std::vector<float> queries = head.Queries(step);
      std::copy(queries.begin(), queries.end(),
                q.begin() + (step * options.kv_heads + kv_head) * group_size);
    }
  }
  const std::vector<int64_t> rows_shape = {options.n, options.kv_heads, options.dim};
  const std::vector<tensor_file::NamedTensor> tensors = {
      {"q",
       base::DType::kF32,
       {options.queries, options.kv_heads * options.group, options.dim},
       std::as_bytes(std::span(q))},
      {"k", dtype, rows_shape, k.bytes()},
      {"v", dtype, rows_shape, v.bytes()}};
  return tensor_file::WriteTensorFile(
      options.output, tensors,
      {{"family", options.family}, {"seed", std::to_string(options.seed)}, {"synthetic", "true"}});
}

}  // namespace
}  // namespace sounder::generator

int main(int argc, char** argv) {
  using namespace sounder;  // main of a tool
  generator::ToolOptions options;
  config::OptionSet set("qkv_generator", "Writes synthetic queries, keys and values.");
  generator::Declare(set, options);
  if (const auto exit = set.ParseOrExit(argc, argv, config::EnvironmentFromProcess())) return *exit;
  const absl::Status status = generator::Write(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "qkv_generator: %s\n", base::MessageOf(status).c_str());
  return 3;
}
