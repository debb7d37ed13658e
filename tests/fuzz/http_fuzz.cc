// Requests to the HTTP server: the input, unfolded, is what a client sends before it stops sending.
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <set>
#include <stdexcept>
#include <string>

#include "common/config/logging.h"
#include "common/http/dispatch.h"
#include "tests/fuzz/mutations.h"
#include "tests/fuzz/target.h"

namespace sounder::fuzz {
namespace {

using http::Dispatcher;
using http::Request;
using http::Response;

const http::RouteTable& Routes() {
  static const http::RouteTable routes = {
      {"/ok",
       [](const Request&) {
         return Response{200, "text/plain", "fine\n"};
       }},
      {"/query",
       [](const Request& request) {
         CHECK(request.path == "/query") << request.path;
         Response response;
         for (const auto& [name, value] : request.query) response.body += name + "=" + value + "\n";
         return response;
       }},
      {"/throws", [](const Request&) -> Response { throw std::runtime_error("on purpose"); }},
  };
  return routes;
}

// What comes back for these bytes.
std::string Exchange(std::string_view sent) {
  static const Dispatcher dispatcher = [] {
    config::SetLogLevel(config::LogLevel::kOff);  // the route that throws is logged
    return Dispatcher(Routes());
  }();
  int sockets[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
  CHECK(send(sockets[0], sent.data(), sent.size(), MSG_DONTWAIT) ==
        static_cast<ssize_t>(sent.size()));
  CHECK(shutdown(sockets[0], SHUT_WR) == 0);
  dispatcher.Exchange(sockets[1], std::chrono::steady_clock::now() + std::chrono::seconds(10));
  close(sockets[1]);
  std::string answer;
  char part[4096];
  for (ssize_t count; (count = recv(sockets[0], part, sizeof part, 0)) > 0;) {
    answer.append(part, static_cast<size_t>(count));
  }
  close(sockets[0]);
  return answer;
}

// The value of a header, by its exact name; empty where it is missing. It is there at most once.
std::string HeaderOf(const std::string& head, const std::string& name) {
  const std::string mark = "\r\n" + name + ": ";
  const size_t at = head.find(mark);
  if (at == head.npos) return "";
  CHECK(head.find(mark, at + 1) == head.npos) << head;
  const size_t begin = at + mark.size();
  return head.substr(begin, head.find("\r\n", begin) - begin);
}

}  // namespace

bool RunTarget(std::span<const std::byte> input) {
  const std::string sent = Unfold(AsText(input).substr(0, 4 * http::kMaxRequestBytes));
  std::string answer = Exchange(sent);
  if (answer.empty()) return false;  // gave up
  constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
  if (answer.starts_with(kContinue)) answer.erase(0, kContinue.size());  // was asked for
  // One answer, of a status that we give or the library gives to what it cannot read, and its end.
  CHECK(answer.starts_with("HTTP/1.1 ")) << answer;
  int status = 0;
  std::from_chars(answer.data() + 9, answer.data() + 12, status);
  static const std::set<int> statuses = {200, 400, 404, 405, 414, 416, 417, 500};
  CHECK(statuses.contains(status)) << answer;
  const size_t end = answer.find("\r\n\r\n");
  CHECK(end != answer.npos) << answer;
  const std::string head = answer.substr(0, end + 2);
  CHECK(HeaderOf(head, "Connection") == "close") << answer;
  const size_t body = answer.size() - end - 4;
  const std::string length = HeaderOf(head, "Content-Length");
  const bool whole = length == std::to_string(body);
  CHECK(whole || (body == 0 && sent.find("HEAD") != sent.npos)) << answer;
  if (status == 200) CHECK(HeaderOf(head, "Cache-Control") == "no-store") << answer;
  return status == 200;
}

}  // namespace sounder::fuzz
