// A text that is written as it comes and must not be lost silently: to a file, or to stdout.
#ifndef SOUNDER_GPU_WORKER_OUTPUT_FILE_H_
#define SOUNDER_GPU_WORKER_OUTPUT_FILE_H_

#include <cstdio>
#include <string>

#include "absl/status/status.h"

namespace sounder::gpu_worker {

// Not thread safe.
class OutputFile {
 public:
  OutputFile() = default;
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Once. Empties the file at `path`; an empty path is stdout. NOT_FOUND if it cannot be written.
  absl::Status Open(const std::string& path);
  // Hands the text to the system at once. After a failure nothing more is written.
  void Write(const std::string& text);
  // OK, or UNAVAILABLE with the first failure and the file's name.
  const absl::Status& status() const { return status_; }

 private:
  std::string name_;
  std::FILE* file_ = nullptr;
  absl::Status status_;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_OUTPUT_FILE_H_
