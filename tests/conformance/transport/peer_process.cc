#include "tests/conformance/transport/peer_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/check.h"

namespace sounder::transport {

PeerProcess::PeerProcess(const std::string& tls, const std::string& address, int copies) {
  int input[2], output[2];
  CHECK(::pipe2(input, O_CLOEXEC) == 0 && ::pipe2(output, O_CLOEXEC) == 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output[1], STDOUT_FILENO);
  std::string program = SOUNDER_TRANSPORT_PEER, tls_argument = tls, address_argument = address;
  std::string copies_argument = std::to_string(copies);
  char* arguments[] = {program.data(), tls_argument.data(), address_argument.data(),
                       copies_argument.data(), nullptr};
  CHECK(::posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments, environ) == 0)
      << program;
  posix_spawn_file_actions_destroy(&actions);
  ::close(input[0]);
  ::close(output[1]);
  input_ = input[1];
  char byte;
  while (::read(output[0], &byte, 1) == 1 && byte != '\n') address_.push_back(byte);
  ::close(output[0]);
  CHECK(!address_.empty()) << "the peer could not listen on " << address;
}

PeerProcess::~PeerProcess() { Kill(); }

void PeerProcess::Signal(int signal) { CHECK(::kill(pid_, signal) == 0); }

void PeerProcess::Kill() {
  if (pid_ > 0) Signal(SIGKILL);
  (void)Finish();
}

int PeerProcess::Finish() {
  if (input_ >= 0) ::close(input_);
  input_ = -1;
  int status = 0;
  if (pid_ > 0) CHECK(::waitpid(pid_, &status, 0) == pid_);
  pid_ = -1;
  return status;
}

}  // namespace sounder::transport
