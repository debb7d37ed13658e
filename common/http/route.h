// What an HTTP server answers with, as plain values.
#ifndef SOUNDER_COMMON_HTTP_ROUTE_H_
#define SOUNDER_COMMON_HTTP_ROUTE_H_

#include <functional>
#include <map>
#include <string>

namespace sounder::http {

struct Request {
  std::string path;                          // decoded, without the query: "/status"
  std::map<std::string, std::string> query;  // decoded; the first of equal names
};

struct Response {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// Called from the server's threads, several at once.
using Route = std::function<Response(const Request&)>;

// Path -> what answers a GET (or HEAD) of it. Paths match exactly.
using RouteTable = std::map<std::string, Route>;

}  // namespace sounder::http

#endif  // SOUNDER_COMMON_HTTP_ROUTE_H_
