#include "common/http/http_server.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "common/base/status_macros.h"
#include "common/config/host_port.h"
#include "common/config/logging.h"

namespace sounder::http {
namespace {

constexpr int kBacklog = 64;

std::string ErrnoText() { return std::strerror(errno); }

int BoundPort(int socket) {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                                             : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

// A socket that listens at one of the addresses of the host, or -1 with errno.
int ListenAt(const addrinfo& address) {
  const int listener = socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
                              address.ai_protocol);
  if (listener < 0) return -1;
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, address.ai_addr, address.ai_addrlen) == 0 && listen(listener, kBacklog) == 0) {
    return listener;
  }
  const int error = errno;
  close(listener);
  errno = error;
  return -1;
}

absl::StatusOr<int> Listen(const config::HostPort& where) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(where.port);
  if (const int error = getaddrinfo(where.host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return absl::UnavailableError("http cannot listen at " + where.ToString() + ": " +
                                  gai_strerror(error));
  }
  int listener = -1;
  for (const addrinfo* entry = found; entry != nullptr && listener < 0; entry = entry->ai_next) {
    listener = ListenAt(*entry);
  }
  const std::string reason = ErrnoText();
  freeaddrinfo(found);
  if (listener >= 0) return listener;
  return absl::UnavailableError("http cannot listen at " + where.ToString() + ": " + reason);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Create(const HttpServerOptions& options,
                                                               RouteTable routes) {
  if (options.threads < 1 || options.max_connections < 1 || options.exchange_timeout.count() <= 0) {
    return absl::InvalidArgumentError("http server at " + options.address +
                                      ": threads, max_connections and exchange_timeout must be "
                                      "positive");
  }
  ASSIGN_OR_RETURN(config::HostPort where, config::ParseHostPort(options.address));
  ASSIGN_OR_RETURN(const int listener, Listen(where));
  where.port = BoundPort(listener);
  return std::unique_ptr<HttpServer>(
      new HttpServer(options, std::move(routes), listener, where.ToString()));
}

HttpServer::HttpServer(const HttpServerOptions& options, RouteTable routes, int listener,
                       std::string address)
    : options_(options),
      routes_(std::move(routes)),
      dispatcher_(routes_),
      listener_(listener),
      address_(std::move(address)),
      executor_(std::make_unique<base::ThreadExecutor>(options.threads, "http")),
      acceptor_([this] { AcceptLoop(); }) {}

HttpServer::~HttpServer() { Stop(); }

void HttpServer::Stop() {
  std::call_once(stopped_, [this] {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      for (const int socket : connections_) shutdown(socket, SHUT_RDWR);
    }
    shutdown(listener_, SHUT_RDWR);  // wakes the acceptor
    acceptor_.join();
    executor_.reset();  // runs what waits (its sockets are shut down) and joins
    close(listener_);
  });
}

void HttpServer::AcceptLoop() {
  while (true) {
    pollfd entry = {listener_, POLLIN, 0};
    poll(&entry, 1, -1);
    const int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    const int error = errno;
    {
      std::lock_guard lock(mutex_);
      if (stopping_) {
        if (socket >= 0) close(socket);
        return;
      }
    }
    if (socket >= 0) {
      Admit(socket);
    } else if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM) {
      // The connection stays in the backlog: do not spin on it while descriptors are short.
      config::LogWarning(std::string("http accept failed error=") + std::strerror(error));
      poll(nullptr, 0, 50);
    }  // others concern that one connection
  }
}

void HttpServer::Admit(int socket) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_ || connections_.size() >= static_cast<size_t>(options_.max_connections)) {
      constexpr std::string_view kBusy =
          "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
      // Best effort: a fresh socket has room for it.
      [[maybe_unused]] const ssize_t sent =
          send(socket, kBusy.data(), kBusy.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      close(socket);
      return;
    }
    connections_.insert(socket);
  }
  executor_->Run([this, socket] { Serve(socket); });
}

void HttpServer::Serve(int socket) {
  dispatcher_.Exchange(socket, std::chrono::steady_clock::now() + options_.exchange_timeout);
  std::lock_guard lock(mutex_);
  connections_.erase(socket);  // before the number can be given to another connection
  close(socket);
}

}  // namespace sounder::http
