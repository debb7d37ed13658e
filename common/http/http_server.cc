#include "common/http/http_server.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iterator>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "common/base/status_macros.h"
#include "common/config/host_port.h"

namespace sounder::http {
namespace {

constexpr int kBacklog = 512;

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
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = listener;
  if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) != 0) {
    const std::string reason = ErrnoText();
    if (epoll >= 0) close(epoll);
    close(listener);
    return absl::UnavailableError("http cannot wait for connections: " + reason);
  }
  return std::unique_ptr<HttpServer>(
      new HttpServer(options, std::move(routes), listener, epoll, where.ToString()));
}

HttpServer::HttpServer(const HttpServerOptions& options, RouteTable routes, int listener, int epoll,
                       std::string address)
    : options_(options),
      routes_(std::move(routes)),
      dispatcher_(routes_),
      listener_(listener),
      epoll_(epoll),
      address_(std::move(address)),
      executor_(std::make_unique<base::ThreadExecutor>(options.threads, "http")),
      acceptor_([this] { Loop(); }) {}

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
    close(epoll_);
  });
}

void HttpServer::Loop() {
  while (true) {
    int patience = -1;  // ms
    if (!waiting_.empty()) {
      const auto left = waiting_.front().deadline - std::chrono::steady_clock::now();
      patience = static_cast<int>(std::clamp<int64_t>(
          std::chrono::ceil<std::chrono::milliseconds>(left).count(), 0, 60'000));
    }
    epoll_event events[32];
    const int count = epoll_wait(epoll_, events, 32, patience);
    {
      std::lock_guard lock(mutex_);
      if (stopping_) break;
    }
    bool connecting = false;
    for (int i = 0; i < count; ++i) {
      if (events[i].data.fd == listener_) {
        connecting = true;
      } else {
        OnReadable(events[i].data.fd);
      }
    }
    if (connecting) Accept();  // last: it may cut off what was not read yet
    const base::Time now = std::chrono::steady_clock::now();
    while (!waiting_.empty() && waiting_.front().deadline <= now) {
      CutOff(waiting_.begin(), "slow", "the request was not complete in time");
    }
  }
  while (!waiting_.empty()) {
    CloseSocket(waiting_.front().socket);
    waiting_.pop_front();
  }
}

void HttpServer::Accept() {
  const int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (socket >= 0) return Admit(socket);
  if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
  // Others concern that one connection. This one stays in the backlog: do not spin on it while
  // descriptors are short.
  Refused("descriptors", std::string("accept failed: ") + std::strerror(errno));
  poll(nullptr, 0, 50);
}

void HttpServer::Admit(int socket) {
  bool full;
  {
    std::lock_guard lock(mutex_);
    full = connections_.size() >= static_cast<size_t>(options_.max_connections);
  }
  const std::string many = "more than " + std::to_string(options_.max_connections) + " connections";
  if (full && waiting_.empty()) {
    constexpr std::string_view kBusy =
        "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    // Best effort: a fresh socket has room for it.
    [[maybe_unused]] const ssize_t sent =
        send(socket, kBusy.data(), kBusy.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    close(socket);
    return Refused("limit", many);
  }
  if (full) CutOff(waiting_.begin(), "limit", many + ", and the request was not complete");
  {
    std::lock_guard lock(mutex_);
    connections_.insert(socket);
  }
  waiting_.push_back({socket, std::chrono::steady_clock::now() + options_.exchange_timeout});
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLRDHUP | EPOLLET;  // an event for every arrival
  event.data.fd = socket;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, socket, &event) != 0) {
    CutOff(std::prev(waiting_.end()), "descriptors", "epoll: " + ErrnoText());
  }
}

// Hands the connection to a thread once nothing of its request can be missing.
void HttpServer::OnReadable(int socket) {
  const auto waiting = std::find_if(waiting_.begin(), waiting_.end(),
                                    [&](const Waiting& each) { return each.socket == socket; });
  if (waiting == waiting_.end()) return;  // cut off in this round
  std::array<char, kMaxRequestBytes> bytes;
  const ssize_t count = recv(socket, bytes.data(), bytes.size(), MSG_PEEK | MSG_DONTWAIT);
  const std::string_view request(bytes.data(), count > 0 ? static_cast<size_t>(count) : 0);
  const bool ended = count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR);
  if (!ended && request.size() < bytes.size() &&
      request.find("\r\n\r\n") == std::string_view::npos) {
    return;
  }
  epoll_ctl(epoll_, EPOLL_CTL_DEL, socket, nullptr);
  waiting_.erase(waiting);
  if (ended) return CloseSocket(socket);
  executor_->Run([this, socket] { Serve(socket); });
}

void HttpServer::CutOff(std::list<Waiting>::iterator waiting, const std::string& cause,
                        const std::string& what) {
  CloseSocket(waiting->socket);
  waiting_.erase(waiting);
  Refused(cause, what);
}

void HttpServer::CloseSocket(int socket) {
  std::lock_guard lock(mutex_);
  connections_.erase(socket);  // before the number can be given to another connection
  close(socket);
}

void HttpServer::Serve(int socket) {
  dispatcher_.Exchange(socket, std::chrono::steady_clock::now() + options_.exchange_timeout);
  CloseSocket(socket);
}

void HttpServer::Refused(const std::string& cause, const std::string& what) const {
  if (options_.refused != nullptr) options_.refused(cause, what);
}

}  // namespace sounder::http
