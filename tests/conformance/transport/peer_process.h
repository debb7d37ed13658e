// A transport_peer (peer_main.cc) as a child process.
#ifndef SOUNDER_TESTS_CONFORMANCE_TRANSPORT_PEER_PROCESS_H_
#define SOUNDER_TESTS_CONFORMANCE_TRANSPORT_PEER_PROCESS_H_

#include <sys/types.h>

#include <string>

namespace sounder::transport {

// Killed when destroyed.
class PeerProcess {
 public:
  // Returns when it listens; CHECK-fails if it cannot. It sends back `copies` of each message.
  PeerProcess(const std::string& tls, const std::string& address, int copies = 1);
  ~PeerProcess();
  PeerProcess(const PeerProcess&) = delete;
  PeerProcess& operator=(const PeerProcess&) = delete;

  const std::string& address() const { return address_; }
  void Signal(int signal);
  void Kill();   // SIGKILL, and waits until it is gone
  int Finish();  // ends its input; its exit status

 private:
  pid_t pid_ = -1;
  int input_ = -1;
  std::string address_;
};

}  // namespace sounder::transport

#endif  // SOUNDER_TESTS_CONFORMANCE_TRANSPORT_PEER_PROCESS_H_
