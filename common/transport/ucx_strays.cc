#include "common/transport/ucx_strays.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/transport/address.h"
#include "common/transport/ucx_handles.h"

namespace sounder::transport {
namespace {

std::vector<int> OpenDescriptors() {
  std::vector<int> descriptors;
  DIR* folder = ::opendir("/proc/self/fd");
  if (folder == nullptr) return descriptors;
  while (const dirent* entry = ::readdir(folder)) {
    if (entry->d_name[0] != '.') descriptors.push_back(std::atoi(entry->d_name));
  }
  ::closedir(folder);
  return descriptors;
}

std::optional<sockaddr_storage> NameOf(int fd, decltype(&::getsockname) get) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (get(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return std::nullopt;
  if (address.ss_family != AF_INET && address.ss_family != AF_INET6) return std::nullopt;
  return address;
}

uint16_t PortOf(const sockaddr_storage& address) {
  return ntohs(address.ss_family == AF_INET
                   ? reinterpret_cast<const sockaddr_in*>(&address)->sin_port
                   : reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port);
}

bool Listens(int fd) {
  int listening = 0;
  socklen_t length = sizeof listening;
  return ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) == 0 && listening != 0;
}

bool HasSent(int fd) {
  tcp_info info{};
  socklen_t length = sizeof info;
  return ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0 ||
         info.tcpi_bytes_received > 0;
}

struct Stray {
  base::Time since;
  int fd;
  uint64_t inode;
  std::string peer;
};

uint64_t InodeOf(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

// Only if the number still means that socket: UCX and others close and open all the time. A
// duplicate of our own means the same socket for as long as we look.
bool ShutDown(const Stray& stray) {
  const FileDescriptor own(::fcntl(stray.fd, F_DUPFD_CLOEXEC, 0));
  if (own.get() < 0)
    return InodeOf(stray.fd) == stray.inode && ::shutdown(stray.fd, SHUT_RDWR) == 0;
  return InodeOf(own.get()) == stray.inode && ::shutdown(own.get(), SHUT_RDWR) == 0;
}

}  // namespace

std::set<uint16_t> ListeningPorts() {
  std::set<uint16_t> ports;
  for (const int fd : OpenDescriptors()) {
    if (!Listens(fd)) continue;
    if (const auto local = NameOf(fd, ::getsockname)) ports.insert(PortOf(*local));
  }
  return ports;
}

void UcxStrays::AddListener(uint16_t port) {
  const std::lock_guard lock(mutex_);
  listeners_.insert(port);
}

void UcxStrays::AddDataPort(uint16_t port) {
  const std::lock_guard lock(mutex_);
  data_ports_.insert(port);
}

std::vector<std::string> UcxStrays::Close(
    base::Time now, base::Duration patience, size_t most,
    const std::function<bool(const std::string&)>& is_connection) {
  const std::lock_guard lock(mutex_);
  std::map<uint64_t, Seen> seen;
  std::vector<Stray> strays;
  for (const int fd : OpenDescriptors()) {
    const auto local = NameOf(fd, ::getsockname);
    if (!local.has_value()) continue;
    const uint16_t port = PortOf(*local);
    const bool listener = listeners_.contains(port);
    if (!listener && !data_ports_.contains(port)) continue;
    const auto remote = NameOf(fd, ::getpeername);
    if (!remote.has_value() || Listens(fd)) continue;
    std::string peer = FormatSocketAddress(*remote);
    if (listener ? is_connection(peer) : HasSent(fd)) continue;
    const uint64_t inode = InodeOf(fd);
    const auto known = seen_.find(inode);
    const Seen entry = known == seen_.end() ? Seen{now} : known->second;
    seen.emplace(inode, entry);
    if (!entry.ended) strays.push_back({entry.since, fd, inode, std::move(peer)});
  }
  seen_ = std::move(seen);
  std::sort(strays.begin(), strays.end(),
            [](const Stray& a, const Stray& b) { return a.since < b.since; });
  std::vector<std::string> closed;
  for (size_t i = 0; i < strays.size(); ++i) {
    const bool late = now - strays[i].since >= patience;
    const bool beyond = strays.size() - i > most;
    if ((!late && !beyond) || !ShutDown(strays[i])) continue;
    seen_[strays[i].inode].ended = true;
    closed.push_back(absl::StrCat(
        strays[i].peer,
        late ? " connected and never became a connection of the data plane"
             : " was among too many that had not become connections of the data plane"));
  }
  return closed;
}

}  // namespace sounder::transport
