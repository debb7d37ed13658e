// A small HTTP server for people and monitoring: GET only, one request per connection, answers
// that fit in memory. Not for the data path. It keeps its bounds whatever clients do: so many
// connections (one more takes the place of the oldest whose request is not complete, or gets 503 if
// there is none), so long per exchange, so many bytes per request.
#ifndef SOUNDER_COMMON_HTTP_HTTP_SERVER_H_
#define SOUNDER_COMMON_HTTP_HTTP_SERVER_H_

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>

#include "absl/status/statusor.h"
#include "common/base/thread_executor.h"
#include "common/http/dispatch.h"
#include "common/http/route.h"

namespace sounder::http {

struct HttpServerOptions {
  std::string address = "127.0.0.1:0";  // host:port; port 0 picks one
  int threads = 2;                      // exchanges at once, >= 1
  int max_connections = 64;             // open at once, waiting ones included, >= 1
  // For the request to come, and again for the answer to be taken. A request that is not there yet
  // holds no thread.
  base::Duration exchange_timeout = std::chrono::seconds(5);
  // Told of each connection refused or cut off: a word for the cause, and a sentence. On the
  // server's threads; may be null.
  std::function<void(const std::string& cause, const std::string& what)> refused = {};
};

// Serves from creation until Stop or destruction. Uses the machine's sockets and clock. Thread
// safe.
class HttpServer {
 public:
  // UNAVAILABLE where the address cannot be bound (in use, not ours), INVALID_ARGUMENT for
  // malformed addresses and options out of range; both name the address.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Create(const HttpServerOptions& options,
                                                            RouteTable routes);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // "host:port" with the real port.
  const std::string& address() const { return address_; }

  // Cuts off exchanges in progress, closes all sockets and joins all threads. The first call
  // counts. Not from within a route.
  void Stop();

 private:
  // A connection whose request is not complete.
  struct Waiting {
    int socket = -1;
    base::Time deadline{};
  };
  HttpServer(const HttpServerOptions& options, RouteTable routes, int listener, int epoll,
             std::string address);
  void Loop();
  void Accept();
  void Admit(int socket);
  void OnReadable(int socket);
  void CutOff(std::list<Waiting>::iterator waiting, const std::string& cause,
              const std::string& what);
  void CloseSocket(int socket);
  void Serve(int socket);
  void Refused(const std::string& cause, const std::string& what) const;

  const HttpServerOptions options_;
  const RouteTable routes_;
  const Dispatcher dispatcher_;
  const int listener_;
  const int epoll_;  // the listener, and what waits
  const std::string address_;
  std::list<Waiting> waiting_;  // the acceptor's, in order of age
  std::mutex mutex_;            // guards the two below
  std::unordered_set<int> connections_;
  bool stopping_ = false;
  std::once_flag stopped_;
  std::unique_ptr<base::ThreadExecutor> executor_;
  std::thread acceptor_;
};

}  // namespace sounder::http

#endif  // SOUNDER_COMMON_HTTP_HTTP_SERVER_H_
