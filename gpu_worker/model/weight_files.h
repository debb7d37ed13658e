// The weights of a Hugging Face directory: model.safetensors, or model.safetensors.index.json and
// the shards it names.
#ifndef SOUNDER_GPU_WORKER_MODEL_WEIGHT_FILES_H_
#define SOUNDER_GPU_WORKER_MODEL_WEIGHT_FILES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/tensor_file/tensor_file.h"

namespace sounder::gpu_worker {

// The shard of each tensor, from the text of an index: {"weight_map": {"tensor": "file", ...}}.
// INVALID_ARGUMENT for a shard that is not a plain file name (it must not lead out of the
// directory) or for more than 4,096 of them. Any text is safe. Pure.
absl::StatusOr<std::map<std::string, std::string>> ParseWeightIndex(std::string_view json_text);

// Immutable, thread safe. Views live as long as the object.
class WeightFiles {
 public:
  // The single file wins over the index, as in transformers. NOT_FOUND if there is neither or a
  // shard is missing; INVALID_ARGUMENT for a shard name that is not a plain file name.
  static absl::StatusOr<std::unique_ptr<WeightFiles>> Open(const std::string& directory);

  // The tensor, of exactly this shape, or an error naming file, tensor and expectation.
  absl::StatusOr<tensor_file::TensorView> Find(const std::string& name,
                                               const std::vector<int64_t>& shape) const;

 private:
  absl::Status OpenIndex(const std::string& directory);

  std::string source_;  // the file that lists the tensors, for messages
  std::map<std::string, std::unique_ptr<tensor_file::TensorFile>> files_;  // by file name
  std::map<std::string, const tensor_file::TensorFile*> file_of_;          // by tensor name
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_MODEL_WEIGHT_FILES_H_
