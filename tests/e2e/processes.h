// The program's own binaries as child processes of a test: started, watched, stopped, reaped.
//
// Nothing here sleeps: waits are for a child's output, for its end, or for a condition that is
// asked for again and again until it holds or a deadline passes.
#ifndef SOUNDER_TESTS_E2E_PROCESSES_H_
#define SOUNDER_TESTS_E2E_PROCESSES_H_

#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sounder::e2e {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Arguments = std::vector<std::string>;

// Where the build put its binaries: "sounder_node" -> ".../bin/sounder_node".
std::string Binary(const std::string& name);

// Asks until `holds` says yes; false once the deadline has passed. Asks at least once.
bool Eventually(const std::function<bool()>& holds, std::chrono::nanoseconds deadline = seconds(5));

// A child. Killed and reaped with this object; killed by the kernel if this process dies.
class Process {
 public:
  // Runs `program` (a path, or a name to find) with stdout and stderr kept here. own_group: as the
  // leader of a process group of its own; with_input: its stdin is what Send sends, otherwise
  // empty. CHECKs that it could be started.
  Process(const std::string& program, const Arguments& arguments, bool own_group = false,
          bool with_input = false);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  const std::string& command() const { return command_; }

  // Waits for a whole line of stdout that begins with `prefix`; empty if none came by the deadline
  // or before stdout ended.
  std::optional<std::string> WaitForLine(const std::string& prefix, milliseconds deadline);
  void Signal(int signal);
  // To its stdin; CHECKs that it was taken. CloseInput: there will be no more.
  void Send(const std::string& text);
  void CloseInput();
  // The exit status, or minus the signal that ended it; empty while it runs past the deadline.
  std::optional<int> Wait(milliseconds deadline);
  bool running() const { return pid_ > 0; }

  // What it has written so far.
  const std::string& Output();
  std::string Errors() const;

 private:
  bool ReadOutput(milliseconds patience);  // false: nothing came

  std::string command_;
  pid_t pid_ = -1;
  int exit_ = 0;      // once it was reaped
  int process_ = -1;  // becomes readable when the child ends
  int input_ = -1;    // its stdin
  int output_ = -1;   // its stdout
  int errors_ = -1;   // a file in memory
  bool output_ended_ = false;
  std::string text_;
};

// What a program that was run to its end left.
struct Ran {
  int exit = -1;  // -1000: it did not end in time and was killed
  std::string output;
  std::string errors;
  double seconds = 0;
};
Ran RunProgram(const std::string& binary, const Arguments& arguments,
               milliseconds deadline = seconds(20));

// Control, data and HTTP address of a node.
struct NodeAddresses {
  std::string control = "127.0.0.1:0";
  std::string data = "127.0.0.1:0";
  std::string http = "127.0.0.1:0";
};

// A running sounder_node.
class Node {
 public:
  // Options a test gives beyond the addresses. Starts it and waits for its ready line; CHECKs that
  // it came, after printing what the node said.
  explicit Node(Arguments options = {}, NodeAddresses wanted = {});

  const NodeAddresses& addresses() const { return addresses_; }
  const std::string& control() const { return addresses_.control; }
  Process& process() { return *process_; }

  void Kill();  // SIGKILL, and waits for its end
  void Stop();  // SIGSTOP, and waits until it stands still
  void Continue() { process_->Signal(SIGCONT); }
  // A new process with the same options at the same addresses.
  void Restart();

 private:
  const Arguments options_;
  NodeAddresses addresses_;
  std::unique_ptr<Process> process_;
};

// "127.0.0.1:1,127.0.0.1:2": their control addresses.
std::string ControlList(const std::vector<std::unique_ptr<Node>>& nodes);
std::vector<std::unique_ptr<Node>> StartNodes(int count, const Arguments& options = {});

// A directory that is removed with this object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  std::string Path(const std::string& name) const { return path_ + "/" + name; }
  // Writes a file and returns its path.
  std::string Write(const std::string& name, const std::string& text) const;

 private:
  std::string path_;
};

std::string ReadFile(const std::string& path);

// An HTTP GET, or any bytes sent to a TCP port: what came back. status 0: no answer in time.
struct HttpAnswer {
  int status = 0;
  std::string body;
};
HttpAnswer HttpGet(const std::string& address, const std::string& path);
// Sends `bytes`, reads until the peer closes or `patience` passes; what it said.
std::string Exchange(const std::string& address, const std::string& bytes, milliseconds patience);
// The value of a metric in Prometheus' text; empty if it is not there.
std::optional<double> Metric(const std::string& exposition, const std::string& name);
// The same of a node that runs: it must be there.
double MetricOf(const Node& node, const std::string& name);

// Open file descriptors and threads of a process ("self" or a pid).
struct Resources {
  int descriptors = 0;
  int threads = 0;
  friend bool operator==(const Resources&, const Resources&) = default;
};
Resources ResourcesOf(const std::string& process);
// Resident memory of a process, KiB: now, and the most it ever was.
int64_t ResidentKib(pid_t pid);
int64_t PeakResidentKib(pid_t pid);

// A connected TCP socket, closed with this object; -1 inside if the connection was refused.
class Socket {
 public:
  explicit Socket(const std::string& address);
  Socket(Socket&& other) noexcept : socket_(std::exchange(other.socket_, -1)) {}
  ~Socket();
  bool connected() const { return socket_ >= 0; }
  // False once the peer has gone.
  bool Send(const std::string& bytes);
  bool HungUp() const;

 private:
  int socket_;
};

}  // namespace sounder::e2e

#endif  // SOUNDER_TESTS_E2E_PROCESSES_H_
