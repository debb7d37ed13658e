// A scratch copy of a golden model, to be damaged by a test.
#ifndef SOUNDER_TESTS_GPU_WORKER_MODEL_MODEL_FOLDER_H_
#define SOUNDER_TESTS_GPU_WORKER_MODEL_MODEL_FOLDER_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "nlohmann/json.hpp"

namespace sounder::gpu_worker {

// Removed with the object.
class ModelFolder {
 public:
  explicit ModelFolder(const std::string& golden)
      : path_(testing::TempDir() + "/" + golden + "." + std::to_string(getpid())) {
    std::filesystem::remove_all(path_);
    std::filesystem::copy("tests/golden/llama/" + golden, path_);
  }
  ~ModelFolder() { std::filesystem::remove_all(path_); }
  ModelFolder(const ModelFolder&) = delete;
  ModelFolder& operator=(const ModelFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

  // Rewrites a JSON file.
  void Edit(const std::string& name, const std::function<void(nlohmann::json&)>& change) {
    std::ifstream in(File(name));
    nlohmann::json value = nlohmann::json::parse(in);
    in.close();
    change(value);
    std::ofstream(File(name)) << value;
  }
  void Truncate(const std::string& name, uintmax_t bytes) {
    std::filesystem::resize_file(File(name), bytes);
  }
  void Remove(const std::string& name) { std::filesystem::remove(File(name)); }

 private:
  std::string path_;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_TESTS_GPU_WORKER_MODEL_MODEL_FOLDER_H_
