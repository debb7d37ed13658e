// Owners of UCX handles and file descriptors; nothing else. The order of destruction is the
// owner's business: listeners and requests before the worker, the worker before the context.
#ifndef SOUNDER_COMMON_TRANSPORT_UCX_HANDLES_H_
#define SOUNDER_COMMON_TRANSPORT_UCX_HANDLES_H_

#include <ucp/api/ucp.h>
#include <unistd.h>

#include <memory>
#include <utility>

namespace sounder::transport {

struct UcxDeleter {
  void operator()(ucp_config_t* config) const { ucp_config_release(config); }
  void operator()(ucp_context_h context) const { ucp_cleanup(context); }
  void operator()(ucp_worker_h worker) const { ucp_worker_destroy(worker); }
  void operator()(ucp_listener_h listener) const { ucp_listener_destroy(listener); }
};

using UcxConfig = std::unique_ptr<ucp_config_t, UcxDeleter>;
using UcxContext = std::unique_ptr<ucp_context, UcxDeleter>;
using UcxWorker = std::unique_ptr<ucp_worker, UcxDeleter>;
using UcxListener = std::unique_ptr<ucp_listener, UcxDeleter>;

class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_UCX_HANDLES_H_
