#include "tests/e2e/processes.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/base/check.h"

namespace sounder::e2e {
namespace {

using Clock = std::chrono::steady_clock;

int MillisecondsUntil(Clock::time_point end) {
  const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now()).count();
  return static_cast<int>(std::max<int64_t>(0, left));
}

void Close(int* descriptor) {
  if (*descriptor >= 0) ::close(*descriptor);
  *descriptor = -1;
}

// A connected socket, or -1.
int ConnectTo(const std::string& address) {
  const size_t colon = address.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  if (::inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr) != 1) return -1;
  int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket >= 0 && ::connect(socket, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) {
    Close(&socket);
  }
  return socket;
}

// A port of 127.0.0.1 that nobody listens on, below those that the kernel gives to connections
// (from 32768 on): a node that starts again at its address must not find a connection there, such
// as a client's that reached itself while it asked for the node's port.
int UnusedPort() {
  constexpr int kFirst = 16'000;
  constexpr int kPorts = 16'000;
  static int next = static_cast<int>(::getpid()) * 61 % kPorts;
  for (int tries = 0; tries < kPorts; ++tries) {
    const int port = kFirst + next;
    next = (next + 1) % kPorts;
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    at.sin_port = htons(static_cast<uint16_t>(port));
    int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool unused = ::bind(socket, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0;
    Close(&socket);
    if (unused) return port;
  }
  CHECK(false) << "every port from " << kFirst << " on is in use";
}

// State letter of a process: R, S, T (stopped), Z, ...
char StateOf(pid_t pid) {
  const std::string stat = ReadFile("/proc/" + std::to_string(pid) + "/stat");
  const size_t name_end = stat.rfind(") ");
  return name_end == std::string::npos ? '?' : stat[name_end + 2];
}

}  // namespace

std::string Binary(const std::string& name) { return SOUNDER_E2E_BINARIES "/" + name; }

bool Eventually(const std::function<bool()>& holds, std::chrono::nanoseconds deadline) {
  const Clock::time_point end = Clock::now() + deadline;
  while (!holds()) {
    if (Clock::now() >= end) return false;
    ::poll(nullptr, 0, 5);
  }
  return true;
}

Process::Process(const std::string& program, const Arguments& arguments, bool own_group,
                 bool with_input) {
  int input[2] = {-1, -1};
  if (with_input) CHECK(::pipe2(input, O_CLOEXEC) == 0);
  input_ = input[1];
  int output[2];
  CHECK(::pipe2(output, O_CLOEXEC) == 0);
  output_ = output[0];
  errors_ = ::memfd_create("stderr", MFD_CLOEXEC);
  CHECK(errors_ >= 0);
  // setpriv: the child dies with us whatever happens to us.
  std::vector<std::string> words = {"setpriv", "--pdeathsig", "KILL", program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  command_ = program;
  for (const std::string& argument : arguments) command_ += " " + argument;
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (with_input) {
    posix_spawn_file_actions_adddup2(&actions, input[0], STDIN_FILENO);
  } else {
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  }
  posix_spawn_file_actions_adddup2(&actions, output[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors_, STDERR_FILENO);
  posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  if (own_group) {
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attributes, 0);
  }
  const int error = ::posix_spawnp(&pid_, "setpriv", &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  Close(&output[1]);
  Close(&input[0]);
  CHECK(error == 0) << command_ << ": " << std::strerror(error);
  process_ = static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0));  // glibc has it for C only
  CHECK(process_ >= 0) << command_;
}

Process::~Process() {
  if (running()) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  // ThreadSanitizer reports and goes on; who is killed never says so by its exit status.
  const std::string errors = Errors();
  EXPECT_EQ(errors.find("Sanitizer: "), std::string::npos) << command_;
  if (testing::Test::HasFailure()) {
    std::printf("-- stderr of %s\n%s", command_.c_str(), errors.c_str());
  }
  Close(&process_);
  Close(&input_);
  Close(&output_);
  Close(&errors_);
}

bool Process::ReadOutput(milliseconds patience) {
  if (output_ended_) return false;
  pollfd wait[] = {{output_, POLLIN, 0}, {process_, POLLIN, 0}};
  ::poll(wait, 2, static_cast<int>(patience.count()));
  if (wait[0].revents == 0) return false;
  char buffer[65536];
  const ssize_t size = ::read(output_, buffer, sizeof buffer);
  if (size > 0) text_.append(buffer, static_cast<size_t>(size));
  output_ended_ = size == 0;
  return size > 0;
}

std::optional<std::string> Process::WaitForLine(const std::string& prefix, milliseconds deadline) {
  const Clock::time_point end = Clock::now() + deadline;
  size_t begin = 0;
  for (;;) {
    for (size_t stop; (stop = text_.find('\n', begin)) != std::string::npos; begin = stop + 1) {
      if (text_.compare(begin, prefix.size(), prefix) == 0) {
        return text_.substr(begin, stop - begin);
      }
    }
    if (Clock::now() >= end) return std::nullopt;
    if (!ReadOutput(milliseconds(MillisecondsUntil(end))) &&
        (output_ended_ || Wait(milliseconds(0)))) {
      if (!ReadOutput(milliseconds(0))) return std::nullopt;
    }
  }
}

void Process::Send(const std::string& text) {
  for (size_t sent = 0; sent < text.size();) {
    const ssize_t size = ::write(input_, text.data() + sent, text.size() - sent);
    CHECK(size > 0) << command_ << ": " << std::strerror(errno);
    sent += static_cast<size_t>(size);
  }
}

void Process::CloseInput() { Close(&input_); }

void Process::Signal(int signal) {
  CHECK(running()) << command_;
  CHECK(::kill(pid_, signal) == 0) << command_;
}

std::optional<int> Process::Wait(milliseconds deadline) {
  const Clock::time_point end = Clock::now() + deadline;
  while (running()) {
    ReadOutput(milliseconds(0));  // or a full pipe would keep it from ending
    pollfd wait[] = {{process_, POLLIN, 0}, {output_ended_ ? -1 : output_, POLLIN, 0}};
    ::poll(wait, 2, MillisecondsUntil(end));
    if (wait[0].revents != 0) {
      int status = 0;
      CHECK(::waitpid(pid_, &status, 0) == pid_) << command_;
      exit_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
      pid_ = -1;
      while (ReadOutput(milliseconds(0))) {
      }
    } else if (Clock::now() >= end) {
      return std::nullopt;
    }
  }
  return exit_;
}

const std::string& Process::Output() {
  while (ReadOutput(milliseconds(0))) {
  }
  return text_;
}

std::string Process::Errors() const { return ReadFile("/proc/self/fd/" + std::to_string(errors_)); }

Ran RunProgram(const std::string& binary, const Arguments& arguments, milliseconds deadline) {
  const Clock::time_point begin = Clock::now();
  Process process(Binary(binary), arguments);
  Ran ran;
  ran.exit = process.Wait(deadline).value_or(-1000);
  ran.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  ran.output = process.Output();
  ran.errors = process.Errors();
  return ran;
}

Node::Node(Arguments options, NodeAddresses wanted)
    : options_(std::move(options)), addresses_(std::move(wanted)) {
  for (std::string* address : {&addresses_.control, &addresses_.data, &addresses_.http}) {
    if (*address == "127.0.0.1:0") *address = "127.0.0.1:" + std::to_string(UnusedPort());
  }
  Restart();
}

void Node::Restart() {
  Arguments arguments = {"--control", addresses_.control, "--data",     addresses_.data,
                         "--http",    addresses_.http,    "--ucx-spin", "5us"};
  if (std::find(options_.begin(), options_.end(), "--tuning") == options_.end()) {
    arguments.insert(arguments.end(), {"--tuning", "off"});  // a part of a second at every start
  }
  arguments.insert(arguments.end(), options_.begin(), options_.end());
  process_ = nullptr;  // the one before
  process_ = std::make_unique<Process>(Binary("sounder_node"), arguments);
  const std::optional<std::string> line = process_->WaitForLine("ready ", seconds(20));
  CHECK(line.has_value()) << process_->command() << " did not become ready:\n"
                          << process_->Errors();
  std::istringstream words(line->substr(6));
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    const std::string value = word.substr(equals + 1);
    if (word.compare(0, equals, "control") == 0) addresses_.control = value;
    if (word.compare(0, equals, "data") == 0) addresses_.data = value;
    if (word.compare(0, equals, "http") == 0) addresses_.http = value;
  }
}

void Node::Kill() {
  process_->Signal(SIGKILL);
  CHECK(process_->Wait(seconds(10)).has_value()) << process_->command();
}

void Node::Stop() {
  process_->Signal(SIGSTOP);
  CHECK(Eventually([&] { return StateOf(process_->pid()) == 'T'; })) << process_->command();
}

std::string ControlList(const std::vector<std::unique_ptr<Node>>& nodes) {
  std::string list;
  for (const auto& node : nodes) list += (list.empty() ? "" : ",") + node->control();
  return list;
}

std::vector<std::unique_ptr<Node>> StartNodes(int count, const Arguments& options) {
  std::vector<std::unique_ptr<Node>> nodes;
  for (int i = 0; i < count; ++i) nodes.push_back(std::make_unique<Node>(options));
  return nodes;
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = std::filesystem::temp_directory_path() / "sounder_e2e.XXXXXX";
  CHECK(::mkdtemp(pattern.data()) != nullptr) << pattern;
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryFolder::Write(const std::string& name, const std::string& text) const {
  std::ofstream(Path(name)) << text;
  return Path(name);
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string Exchange(const std::string& address, const std::string& bytes, milliseconds patience) {
  int socket = ConnectTo(address);
  std::string answer;
  if (socket < 0) return answer;
  const Clock::time_point end = Clock::now() + patience;
  size_t sent = 0;
  for (;;) {
    if (sent < bytes.size()) {
      const ssize_t size =
          ::send(socket, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (size > 0) sent += static_cast<size_t>(size);
      if (size < 0 && errno != EAGAIN) break;
    }
    const bool more = sent < bytes.size();
    pollfd wait{socket, static_cast<short>(more ? POLLIN | POLLOUT : POLLIN), 0};
    if (::poll(&wait, 1, MillisecondsUntil(end)) <= 0) break;
    if ((wait.revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
    char buffer[16384];
    const ssize_t size = ::recv(socket, buffer, sizeof buffer, MSG_DONTWAIT);
    if (size == 0 || (size < 0 && errno != EAGAIN)) break;
    if (size > 0) answer.append(buffer, static_cast<size_t>(size));
  }
  Close(&socket);
  return answer;
}

HttpAnswer HttpGet(const std::string& address, const std::string& path) {
  const std::string text = Exchange(
      address, "GET " + path + " HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", seconds(5));
  HttpAnswer answer;
  const size_t head_end = text.find("\r\n\r\n");
  if (text.size() < 12 || head_end == std::string::npos) return answer;
  answer.status = std::atoi(text.substr(9, 3).c_str());
  answer.body = text.substr(head_end + 4);
  return answer;
}

std::optional<double> Metric(const std::string& exposition, const std::string& name) {
  std::istringstream lines(exposition);
  for (std::string line; std::getline(lines, line);) {
    if (line.compare(0, name.size() + 1, name + " ") == 0) {
      return std::stod(line.substr(name.size() + 1));
    }
  }
  return std::nullopt;
}

double MetricOf(const Node& node, const std::string& name) {
  const auto value = Metric(HttpGet(node.addresses().http, "/metrics").body, name);
  CHECK(value.has_value()) << name;
  return *value;
}

Resources ResourcesOf(const std::string& process) {
  const auto count = [&](const char* folder) {
    int entries = 0;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator("/proc/" + process + "/" + folder)) {
      ++entries;
    }
    return entries;
  };
  return {count("fd"), count("task")};
}

namespace {

int64_t KibOf(pid_t pid, const std::string& field) {
  std::istringstream lines(ReadFile("/proc/" + std::to_string(pid) + "/status"));
  for (std::string line; std::getline(lines, line);) {
    if (line.compare(0, field.size(), field) == 0) return std::atoll(line.c_str() + field.size());
  }
  return -1;
}

}  // namespace

int64_t ResidentKib(pid_t pid) { return KibOf(pid, "VmRSS:"); }
int64_t PeakResidentKib(pid_t pid) { return KibOf(pid, "VmHWM:"); }

Socket::Socket(const std::string& address) : socket_(ConnectTo(address)) {}

Socket::~Socket() { Close(&socket_); }

bool Socket::Send(const std::string& bytes) {
  if (socket_ < 0 || HungUp()) return false;
  const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  return sent >= 0 || errno == EAGAIN;
}

bool Socket::HungUp() const {
  pollfd entry{socket_, POLLRDHUP, 0};
  return socket_ < 0 ||
         (::poll(&entry, 1, 0) > 0 && (entry.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0);
}

}  // namespace sounder::e2e
