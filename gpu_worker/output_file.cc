#include "gpu_worker/output_file.h"

#include <cerrno>
#include <cstring>

namespace sounder::gpu_worker {

OutputFile::~OutputFile() {
  if (file_ != nullptr && file_ != stdout) std::fclose(file_);
}

absl::Status OutputFile::Open(const std::string& path) {
  name_ = path.empty() ? "stdout" : path;
  file_ = path.empty() ? stdout : std::fopen(path.c_str(), "w");
  if (file_ != nullptr) return absl::OkStatus();
  return absl::NotFoundError(path + ": cannot be written: " + std::strerror(errno));
}

void OutputFile::Write(const std::string& text) {
  if (!status_.ok()) return;
  const bool written = std::fwrite(text.data(), 1, text.size(), file_) == text.size();
  if (written && std::fflush(file_) == 0) return;
  status_ = absl::UnavailableError("not everything could be written to " + name_ + ": " +
                                   std::strerror(errno));
}

}  // namespace sounder::gpu_worker
