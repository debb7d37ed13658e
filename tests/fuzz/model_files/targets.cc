#include "tests/fuzz/model_files/targets.h"

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/tensor_file/tensor_file.h"
#include "gpu_worker/model/model_config.h"
#include "gpu_worker/model/rope.h"
#include "gpu_worker/model/tokenizer.h"
#include "gpu_worker/model/weight_files.h"

namespace sounder::fuzz {
namespace {

std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

bool RunTensorFile(std::span<const std::byte> bytes) {
  const auto file = tensor_file::TensorFile::FromBytes("fuzz", bytes);
  if (!file.ok()) return false;
  size_t total = 0;
  for (const auto& [name, info] : (*file)->tensors()) {
    total += info.bytes;
    const auto view = (*file)->Find(name);
    CHECK(view.ok() == info.dtype.has_value()) << name;
    if (!view.ok()) continue;
    CHECK(tensor_file::CountElements(view->shape) == view->elements());
    std::vector<float> values(static_cast<size_t>(view->elements()));
    tensor_file::CopyToF32(*view, values);  // reads every byte
  }
  CHECK(total <= bytes.size());
  return true;
}

bool RunModelConfig(std::span<const std::byte> bytes) {
  const auto config = gpu_worker::ParseModelConfig(AsText(bytes));
  if (!config.ok()) return false;
  CHECK(config->num_query_heads % config->num_kv_heads == 0);
  CHECK(config->head_dim % 8 == 0 && config->head_dim <= base::kMaxHeadDim);
  CHECK(config->query_width() > 0 && config->kv_width() > 0);
  // Sizes of weights stay far from overflow.
  CHECK(config->vocab_size * config->hidden_size <= int64_t{1} << 44);
  CHECK(config->intermediate_size * config->hidden_size <= int64_t{1} << 40);
  for (const double frequency : gpu_worker::InverseFrequencies(*config)) {
    CHECK(std::isfinite(frequency) && frequency > 0) << frequency;
  }
  for (const int32_t token : config->eos_tokens) CHECK(token >= 0 && token < config->vocab_size);
  CHECK(!gpu_worker::CanonicalText(*config).empty());
  return true;
}

bool RunWeightIndex(std::span<const std::byte> bytes) {
  const auto shards = gpu_worker::ParseWeightIndex(AsText(bytes));
  if (!shards.ok()) return false;
  for (const auto& [tensor, shard] : *shards) {
    CHECK(shard.find('/') == shard.npos && shard.find("..") == shard.npos) << shard;
  }
  return true;
}

bool RunTokenizer(std::span<const std::byte> bytes) {
  const auto tokenizer = gpu_worker::Tokenizer::Parse(AsText(bytes));
  if (!tokenizer.ok()) return false;
  // The file itself is as good a text as any.
  const auto ids = (*tokenizer)->Encode(AsText(bytes));
  if (ids.ok()) {
    CHECK((*tokenizer)->Decode(*ids, true).ok());
    for (const int32_t id : *ids) CHECK(id >= 0 && id < (*tokenizer)->vocab_size());
  }
  std::vector<int32_t> all(100);
  std::iota(all.begin(), all.end(), -1);
  for (const int32_t id : all) {
    (void)(*tokenizer)->Decode({&id, 1});
  }
  return true;
}

}  // namespace

std::span<const Target> Targets() {
  static constexpr Target kTargets[] = {{"tensor_file", RunTensorFile},
                                        {"model_config", RunModelConfig},
                                        {"weight_index", RunWeightIndex},
                                        {"tokenizer", RunTokenizer}};
  return kTargets;
}

}  // namespace sounder::fuzz
