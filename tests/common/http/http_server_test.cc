#include "common/http/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <latch>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>

#include "common/base/absl_text.h"
#include "common/config/host_port.h"
#include "common/config/logging.h"

namespace sounder::http {
namespace {

using namespace std::chrono_literals;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

RouteTable Routes() {
  RouteTable routes;
  routes["/hello"] = [](const Request& request) -> Response {
    const auto name = request.query.find("name");
    return {200, "text/plain", "hello " + (name == request.query.end() ? "" : name->second)};
  };
  routes["/large"] = [](const Request&) -> Response {
    return {200, "text/plain", std::string(3 << 20, 'x')};
  };
  routes["/throws"] = [](const Request&) -> Response { throw std::runtime_error("secret"); };
  return routes;
}

std::unique_ptr<HttpServer> Start(HttpServerOptions options = {}, RouteTable routes = Routes()) {
  auto server = HttpServer::Create(options, std::move(routes));
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

int PortOf(const HttpServer& server) { return config::ParseHostPort(server.address())->port; }

// A bare connection, for what a well-behaved client never does.
class RawClient {
 public:
  explicit RawClient(const HttpServer& server) : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(PortOf(server)));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~RawClient() { close(socket_); }
  bool connected() const { return connected_; }
  bool Send(const std::string& text) {
    return send(socket_, text.data(), text.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(text.size());
  }
  bool HangsUpWithin(std::chrono::milliseconds time) {
    pollfd entry = {socket_, POLLRDHUP, 0};
    return poll(&entry, 1, static_cast<int>(time.count())) > 0;
  }
  // Everything until the server closes.
  std::string ReadAll() {
    std::string text;
    char chunk[4096];
    for (ssize_t count; (count = recv(socket_, chunk, sizeof chunk, 0)) > 0;) {
      text.append(chunk, static_cast<size_t>(count));
    }
    return text;
  }

 private:
  const int socket_;
  bool connected_ = false;
};

TEST(HttpServer, AnswersGetAndHead) {
  const auto server = Start();
  httplib::Client client("127.0.0.1", PortOf(*server));
  const auto got = client.Get("/hello?name=a%20b");
  ASSERT_TRUE(got);
  EXPECT_EQ(got->status, 200);
  EXPECT_EQ(got->body, "hello a b");
  EXPECT_EQ(got->get_header_value("Content-Type"), "text/plain");
  EXPECT_EQ(got->get_header_value("Connection"), "close");
  const auto head = client.Head("/hello");
  ASSERT_TRUE(head);
  EXPECT_EQ(head->status, 200);
  EXPECT_EQ(head->body, "");
  const auto large = client.Get("/large");
  ASSERT_TRUE(large);
  EXPECT_EQ(large->body.size(), size_t{3} << 20);
}

TEST(HttpServer, RangesAreIgnored) {
  const auto server = Start();
  httplib::Client client("127.0.0.1", PortOf(*server));
  std::string many = "bytes=0-";
  for (int i = 0; i < 200; ++i) many += ",0-";
  for (const std::string& range : {std::string("bytes=0-3"), many}) {
    const auto got = client.Get("/hello?name=you", {{"Range", range}});
    ASSERT_TRUE(got);
    EXPECT_EQ(got->status, 200);
    EXPECT_EQ(got->body, "hello you");
    EXPECT_FALSE(got->has_header("Content-Range"));
  }
}

TEST(HttpServer, RefusesWhatItDoesNotServe) {
  const auto server = Start();
  httplib::Client client("127.0.0.1", PortOf(*server));
  const auto missing = client.Get("/nothing");
  ASSERT_TRUE(missing);
  EXPECT_EQ(missing->status, 404);
  EXPECT_THAT(missing->body, HasSubstr("/hello\n"));
  const auto posted = client.Post("/hello", "body", "text/plain");
  ASSERT_TRUE(posted);
  EXPECT_EQ(posted->status, 405);
  EXPECT_EQ(posted->get_header_value("Allow"), "GET, HEAD");
  config::SetLogLevel(config::LogLevel::kOff);
  const auto thrown = client.Get("/throws");
  config::SetLogLevel(config::LogLevel::kInfo);
  ASSERT_TRUE(thrown);
  EXPECT_EQ(thrown->status, 500);
  EXPECT_EQ(thrown->body, "internal error\n") << "details go to the log only";
}

TEST(HttpServer, ManyClientsAtOnce) {
  const auto server = Start();
  std::vector<std::thread> threads;
  std::atomic<int> good = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      httplib::Client client("127.0.0.1", PortOf(*server));
      for (int i = 0; i < 20; ++i) {
        const auto got = client.Get("/hello?name=x");
        if (got && got->body == "hello x") ++good;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 160);
}

TEST(HttpServer, HostileRequests) {
  const auto server = Start({.exchange_timeout = 300ms});
  const std::string get = "GET /hello HTTP/1.1\r\n";
  const std::vector<std::string> requests = {
      "\r\n\r\n",
      "nonsense\r\n\r\n",
      std::string(4096, '\0'),
      "GET " + std::string(20'000, 'a') + " HTTP/1.1\r\n\r\n",
      "GET /%zz%00%ff HTTP/1.1\r\n\r\n",
      get + "X: " + std::string(100'000, 'b') + "\r\n\r\n",
      get + "Range: bytes=" + std::string(8000, '1') + "-\r\n\r\n",
      get + "Range: bytes=0-0,0-0,0-0,0-0\r\n\r\n",
      get + "Content-Length: 18446744073709551615\r\n\r\n",
      get + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
      "POST /hello HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\nx",
      "GET /hello HTTP/9.9\r\n\r\n",
  };
  for (const std::string& request : requests) {
    RawClient client(*server);
    ASSERT_TRUE(client.connected());
    client.Send(request);
    EXPECT_THAT(client.ReadAll(), AnyOf("", StartsWith("HTTP/1.1 ")));
  }
  std::string many_headers = get;
  for (int i = 0; i < 20'000; ++i) many_headers += "X" + std::to_string(i) + ": y\r\n";
  RawClient flood(*server);
  flood.Send(many_headers);
  EXPECT_THAT(flood.ReadAll(), AnyOf("", StartsWith("HTTP/1.1 ")));
  httplib::Client client("127.0.0.1", PortOf(*server));
  EXPECT_TRUE(client.Get("/hello")) << "still serving";
}

TEST(HttpServer, AClientThatTricklesIsCutOff) {
  const auto server = Start({.threads = 1, .exchange_timeout = 200ms});
  RawClient slow(*server);
  std::thread trickle([&] {
    // A byte at a time until the server hangs up; each arrives well within any limit per read.
    while (slow.Send("G") && !slow.HangsUpWithin(5ms)) {
    }
  });
  httplib::Client client("127.0.0.1", PortOf(*server));
  EXPECT_TRUE(client.Get("/hello")) << "the only thread is free again after the timeout";
  trickle.join();
  RawClient silent(*server);
  EXPECT_EQ(silent.ReadAll(), "") << "a client that says nothing is cut off too";
}

// A server whose only thread is inside a request until `leave`.
struct BusyServer {
  explicit BusyServer(int max_connections) {
    RouteTable routes;
    routes["/wait"] = [this](const Request&) -> Response {
      if (!std::exchange(seen, true)) entered.count_down();
      leave.wait();
      return {200, "text/plain", "done"};
    };
    HttpServerOptions options = {
        .threads = 1, .max_connections = max_connections, .exchange_timeout = 60s};
    options.refused = [this](const std::string& cause, const std::string&) {
      std::lock_guard lock(mutex);
      causes.push_back(cause);
      refused.notify_all();
    };
    server = Start(options, std::move(routes));
  }
  // Waits for the first: who is refused may know it before the server says so.
  std::vector<std::string> Causes() {
    std::unique_lock lock(mutex);
    refused.wait_for(lock, 5s, [&] { return !causes.empty(); });
    return causes;
  }
  bool seen = false;
  std::latch entered{1};
  std::latch leave{1};
  std::mutex mutex;
  std::condition_variable refused;
  std::vector<std::string> causes;  // guarded by mutex
  std::unique_ptr<HttpServer> server;
};

TEST(HttpServer, ConnectionsBeyondTheBoundGet503) {
  BusyServer busy(2);
  RawClient first(*busy.server);
  ASSERT_TRUE(first.Send("GET /wait HTTP/1.1\r\n\r\n"));
  busy.entered.wait();
  RawClient second(*busy.server);  // complete, and waits for the thread
  ASSERT_TRUE(second.Send("GET /wait HTTP/1.1\r\n\r\n"));
  // Whether the server has read it shows in what becomes of the next ones.
  std::string answer;
  while (answer.empty()) answer = RawClient(*busy.server).ReadAll();
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(busy.Causes(), testing::Contains("limit"));
  busy.leave.count_down();
  EXPECT_THAT(first.ReadAll(), HasSubstr("done"));
}

// Who says nothing holds neither a thread nor, when places are short, a place.
TEST(HttpServer, WhoSaysNothingMakesRoomForWhoDoes) {
  std::atomic<int> cut_off = 0;
  HttpServerOptions options = {.threads = 1, .max_connections = 4, .exchange_timeout = 60s};
  options.refused = [&](const std::string& cause, const std::string&) {
    EXPECT_EQ(cause, "limit");
    ++cut_off;
  };
  const auto server = Start(options);
  std::vector<std::unique_ptr<RawClient>> silent;
  for (int i = 0; i < 40; ++i) {
    silent.push_back(std::make_unique<RawClient>(*server));
    if (i % 2 == 0) silent.back()->Send("GET /hello HT");
    httplib::Client client("127.0.0.1", PortOf(*server));
    EXPECT_TRUE(client.Get("/hello")) << "after " << i;
  }
  EXPECT_GE(cut_off, 36);
  EXPECT_EQ(silent[0]->ReadAll(), "");
}

TEST(HttpServer, StopCutsOffAndJoins) {
  auto server = Start({.threads = 1, .exchange_timeout = 1h});
  const std::string address = server->address();
  RawClient idle(*server);
  RawClient half(*server);
  ASSERT_TRUE(half.Send("GET /hel"));
  const auto begin = std::chrono::steady_clock::now();
  server->Stop();
  server->Stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
  EXPECT_EQ(half.ReadAll(), "");
  EXPECT_FALSE(RawClient(*server).connected());
  server.reset();
  // The port is free at once.
  EXPECT_NE(Start({.address = address}), nullptr);
}

TEST(HttpServer, AddressesThatCannotBeBound) {
  const auto server = Start();
  const auto second = HttpServer::Create({.address = server->address()}, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(base::MessageOf(second.status()), HasSubstr(server->address()));
  EXPECT_THAT(base::MessageOf(second.status()), HasSubstr("in use"));
  EXPECT_EQ(HttpServer::Create({.address = "nowhere"}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(HttpServer::Create({.address = "192.0.2.1:0"}, {}).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(HttpServer::Create({.threads = 0}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sounder::http
