#include "common/http/dispatch.h"

#include <httplib.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>

#include "common/config/logging.h"

namespace sounder::http {
namespace {

// Waits until `socket` is ready for `events` or the deadline passes.
bool WaitFor(int socket, short events, base::Time deadline) {
  while (true) {
    const auto left = deadline - std::chrono::steady_clock::now();
    const auto left_ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
    if (left_ms <= 0) return false;
    pollfd entry = {socket, events, 0};
    const int ready = poll(&entry, 1, static_cast<int>(std::min<int64_t>(left_ms, 60'000)));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

// A socket whose whole exchange has one deadline and a bound on what is read. (The library's own
// stream has a time limit per read, which a client that sends a byte a second never meets.)
class DeadlineStream final : public httplib::Stream {
 public:
  DeadlineStream(int socket, base::Time deadline) : socket_(socket), deadline_(deadline) {}

  bool is_readable() const override { return begin_ < end_ || WaitFor(socket_, POLLIN, deadline_); }
  bool is_writable() const override { return WaitFor(socket_, POLLOUT, deadline_); }

  ssize_t read(char* target, size_t size) override {
    if (begin_ == end_ && !Fill()) return -1;
    const size_t count = std::min(size, end_ - begin_);
    std::copy_n(buffer_.data() + begin_, count, target);
    begin_ += count;
    return static_cast<ssize_t>(count);
  }

  ssize_t write(const char* source, size_t size) override {
    while (WaitFor(socket_, POLLOUT, deadline_)) {
      const ssize_t sent = send(socket_, source, size, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent >= 0) return sent;
      if (errno != EINTR && errno != EAGAIN) return -1;
    }
    return -1;
  }

  // Nothing here asks who the client is.
  void get_remote_ip_and_port(std::string& ip, int& port) const override {
    ip.clear();
    port = 0;
  }
  void get_local_ip_and_port(std::string& ip, int& port) const override {
    ip.clear();
    port = 0;
  }
  socket_t socket() const override { return socket_; }

  // Says goodbye and reads what the client still sends, so that the kernel does not answer those
  // bytes with a reset that would overtake our response.
  void Finish() {
    shutdown(socket_, SHUT_WR);
    while (Fill()) {
    }
  }

 private:
  bool Fill() {
    while (total_ < kMaxRequestBytes && WaitFor(socket_, POLLIN, deadline_)) {
      const ssize_t count = recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
      if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (count <= 0) return false;
      begin_ = 0;
      end_ = static_cast<size_t>(count);
      total_ += end_;
      return true;
    }
    return false;
  }

  const int socket_;
  const base::Time deadline_;
  std::array<char, 4096> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  size_t total_ = 0;
};

Response Answer(const RouteTable& routes, const httplib::Request& request) {
  if (request.method != "GET" && request.method != "HEAD") {
    return {405, "text/plain; charset=utf-8", "only GET and HEAD are answered here\n"};
  }
  const auto route = routes.find(request.path);
  if (route == routes.end()) {
    Response missing = {404, "text/plain; charset=utf-8", "no such path; there are:\n"};
    for (const auto& [path, unused] : routes) missing.body += path + "\n";
    return missing;
  }
  Request ours;
  ours.path = request.path;
  for (const auto& [name, value] : request.params) ours.query.emplace(name, value);
  try {
    return route->second(ours);
  } catch (const std::exception& error) {
    config::LogError("http route failed path=" + request.path + " error=" + error.what());
    return {500, "text/plain; charset=utf-8", "internal error\n"};
  }
}

}  // namespace

// The library's server without its sockets and threads: it parses a request and writes a response.
class Dispatcher::Parser final : public httplib::Server {
 public:
  explicit Parser(const RouteTable& routes) {
    // Answered before the library would read a body or match regular expressions.
    set_pre_routing_handler(
        [&routes](const httplib::Request& request, httplib::Response& response) {
          const Response answer = Answer(routes, request);
          response.status = answer.status;
          if (answer.status == 405) response.set_header("Allow", "GET, HEAD");
          response.set_header("Cache-Control", "no-store");
          response.set_header("X-Content-Type-Options", "nosniff");
          response.set_content(answer.body, answer.content_type);
          return httplib::Server::HandlerResponse::Handled;
        });
  }

  void Exchange(DeadlineStream& stream) {
    bool closed = false;
    // The library would send every range that a client asks for, the same bytes as often as it
    // likes, and call the answer whole.
    const auto ignore_ranges = [](httplib::Request& request) { request.ranges.clear(); };
    if (process_request(stream, /*close_connection=*/true, closed, ignore_ranges)) stream.Finish();
  }
};

Dispatcher::Dispatcher(const RouteTable& routes) : parser_(new Parser(routes)) {}
Dispatcher::~Dispatcher() { delete parser_; }

void Dispatcher::Exchange(int socket, base::Time deadline) const {
  DeadlineStream stream(socket, deadline);
  parser_->Exchange(stream);
}

}  // namespace sounder::http
