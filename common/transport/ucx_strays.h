// Finds TCP sockets on UCX's ports that are no connection of ours, and ends them. UCX 1.13 keeps
// whoever connects and says nothing (a scanner, a client that vanished half-way) for ever, and says
// nothing of it to us.
#ifndef SOUNDER_COMMON_TRANSPORT_UCX_STRAYS_H_
#define SOUNDER_COMMON_TRANSPORT_UCX_STRAYS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "common/base/clock.h"

namespace sounder::transport {

// Ports on which this process listens for TCP connections.
std::set<uint16_t> ListeningPorts();

// Thread safe. Looks at the descriptors of the whole process, some microseconds for each.
class UcxStrays {
 public:
  // A port for which UCX reports who connects.
  void AddListener(uint16_t port);
  // A port of UCX's own, where connected peers open a second connection.
  void AddDataPort(uint16_t port);

  // Shuts down what is there for `patience` without having become a connection (`is_connection`
  // knows the peers' addresses; on data ports: without having sent a byte), and the oldest of those
  // beyond `most`. UCX then sees the end of the stream and frees the rest. What was ended and why.
  std::vector<std::string> Close(base::Time now, base::Duration patience, size_t most,
                                 const std::function<bool(const std::string&)>& is_connection);

 private:
  std::mutex mutex_;  // guards everything below
  std::set<uint16_t> listeners_;
  std::set<uint16_t> data_ports_;
  struct Seen {
    base::Time since;
    bool ended = false;  // shut down; UCX has not closed it yet
  };
  std::map<uint64_t, Seen> seen_;  // by inode of the socket
};

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_UCX_STRAYS_H_
