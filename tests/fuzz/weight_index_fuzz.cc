// model.safetensors.index.json, folded.
#include <set>
#include <string>

#include "gpu_worker/model/weight_files.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/mutations.h"
#include "tests/fuzz/target.h"

namespace sounder::fuzz {

bool RunTarget(std::span<const std::byte> input) {
  const auto shards = gpu_worker::ParseWeightIndex(Unfold(AsText(input)));
  if (!shards.ok()) {
    CheckRefusal(shards.status());
    return false;
  }
  std::set<std::string> names;
  for (const auto& [tensor, shard] : *shards) {
    // Nothing that leads out of the directory, or that a system call would read otherwise.
    CHECK(!shard.empty() && shard != "." && shard.find("..") == shard.npos) << shard;
    CHECK(shard.find_first_of(std::string("/\\\0", 3)) == shard.npos) << shard;
    names.insert(shard);
  }
  CHECK(names.size() <= 4096);
  nlohmann::json json;
  json["weight_map"] = *shards;
  const auto again = gpu_worker::ParseWeightIndex(json.dump());
  CHECK(again.ok() && *again == *shards) << again.status().ToString();
  return true;
}

}  // namespace sounder::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return sounder::fuzz::MutateJson(data, size, max_size, seed);
}
