#include "gpu_worker/model/weight_files.h"

#include <filesystem>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/status_macros.h"
#include "gpu_worker/model/json_fields.h"

namespace sounder::gpu_worker {
namespace {

using nlohmann::json;
using tensor_file::TensorFile;
using tensor_file::TensorView;

constexpr size_t kMaxIndexBytes = size_t{64} << 20;
constexpr size_t kMaxShards = 4096;

// A name that cannot leave the directory.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name != "." && name.find("..") == name.npos &&
         name.find('/') == name.npos && name.find('\\') == name.npos &&
         name.find('\0') == name.npos;
}

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> ParseWeightIndex(std::string_view json_text) {
  ASSIGN_OR_RETURN(const json index, ParseJsonObject(json_text));
  const json* map = JsonFields(index).Find("weight_map");
  if (map == nullptr || !map->is_object()) {
    return absl::InvalidArgumentError("weight_map must be an object of tensor and file names");
  }
  std::map<std::string, std::string> shards;
  std::set<std::string> names;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get<std::string>())) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", tensor, "' is in shard ",
                                                     Show(shard), ", expected a plain file name"));
    }
    shards[tensor] = shard.get<std::string>();
    names.insert(shards[tensor]);
  }
  if (names.size() > kMaxShards) {
    return absl::InvalidArgumentError(
        absl::StrCat("names ", names.size(), " shards, at most ", kMaxShards, " are read"));
  }
  return shards;
}

absl::StatusOr<std::unique_ptr<WeightFiles>> WeightFiles::Open(const std::string& directory) {
  std::unique_ptr<WeightFiles> weights(new WeightFiles());
  const std::string single = directory + "/model.safetensors";
  const std::string index = directory + "/model.safetensors.index.json";
  if (!Exists(single) && !Exists(index)) {
    return absl::NotFoundError(
        absl::StrCat(directory, ": has no model.safetensors and no model.safetensors.index.json"));
  }
  if (!Exists(single)) {
    weights->source_ = index;
    RETURN_IF_ERROR(weights->OpenIndex(directory));
    return weights;
  }
  weights->source_ = single;
  ASSIGN_OR_RETURN(std::unique_ptr<TensorFile> file, TensorFile::Open(single));
  for (const std::string& name : file->names()) weights->file_of_[name] = file.get();
  weights->files_[single] = std::move(file);
  return weights;
}

absl::Status WeightFiles::OpenIndex(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(source_, kMaxIndexBytes));
  auto shards = ParseWeightIndex(text);
  if (!shards.ok()) return base::Annotate(shards.status(), source_);
  for (const auto& [tensor, shard] : *shards) {
    std::unique_ptr<TensorFile>& file = files_[shard];
    if (file == nullptr) {
      ASSIGN_OR_RETURN(file, TensorFile::Open(directory + "/" + shard));
    }
    file_of_[tensor] = file.get();
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorView> WeightFiles::Find(const std::string& name,
                                             const std::vector<int64_t>& shape) const {
  const auto found = file_of_.find(name);
  if (found == file_of_.end()) {
    return absl::NotFoundError(absl::StrCat(source_, ": there is no tensor '", name,
                                            "', expected one of shape ",
                                            tensor_file::ShapeText(shape)));
  }
  return found->second->Find(name, shape);
}

}  // namespace sounder::gpu_worker
