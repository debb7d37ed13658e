// One HTTP exchange on a connected socket: the only place that knows the HTTP library.
#ifndef SOUNDER_COMMON_HTTP_DISPATCH_H_
#define SOUNDER_COMMON_HTTP_DISPATCH_H_

#include <cstddef>

#include "common/base/clock.h"
#include "common/http/route.h"

namespace sounder::http {

// Bytes of a request's first line and headers together; longer ones are cut off.
inline constexpr size_t kMaxRequestBytes = 16 * 1024;

class Dispatcher {
 public:
  // `routes` must outlive the dispatcher.
  explicit Dispatcher(const RouteTable& routes);
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // Reads one request from `socket`, answers it and says that the connection closes: 404 for
  // unknown paths (naming the known), 405 for methods but GET and HEAD, 500 where a route throws.
  // Bodies are not read. Gives up, quietly, when `deadline` (steady clock) passes, however the
  // bytes trickle in. Leaves the socket open. Thread safe.
  void Exchange(int socket, base::Time deadline) const;

 private:
  class Parser;
  Parser* const parser_;  // owned
};

}  // namespace sounder::http

#endif  // SOUNDER_COMMON_HTTP_DISPATCH_H_
