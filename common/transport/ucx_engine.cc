#include "common/transport/ucx_engine.h"

#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/transport/ucx_config.h"
#include "common/transport/ucx_status.h"

namespace sounder::transport {
namespace {

// Shared memory's wake-ups are lost between network namespaces (its signal socket is an abstract
// Unix socket), so we never sleep longer.
constexpr auto kMaxSleep = std::chrono::milliseconds(100);

// Nobody wakes a sender whose shared-memory queue has room again. It looks for itself: all the time
// for this long, then once in this long.
constexpr auto kPollSends = std::chrono::milliseconds(1);

absl::Status SystemError(const char* what) {
  return absl::InternalError(absl::StrCat(what, ": ", std::strerror(errno)));
}

// With IPv6 addresses UCX 1.13 over TCP fails to connect and damages the heap.
absl::StatusOr<SocketAddress> ResolveIpv4(const HostPort& address) {
  ASSIGN_OR_RETURN(const SocketAddress resolved, Resolve(address));
  if (resolved.storage.ss_family == AF_INET) return resolved;
  return absl::UnimplementedError(
      absl::StrCat(FormatHostPort(address),
                   " is an IPv6 address, which the data plane cannot use; expected one "
                   "with an IPv4 address"));
}

}  // namespace

// ---- any thread -------------------------------------------------------------------------------

absl::Status UcxEngine::Start() {
  const std::lock_guard lock(start_mutex_);
  if (started_.has_value()) return *started_;
  std::promise<absl::Status> started;
  std::future<absl::Status> status = started.get_future();
  thread_ = std::thread([this, &started] { Run(&started); });
  started_ = status.get();
  if (!started_->ok()) thread_.join();
  return *started_;
}

UcxEngine::~UcxEngine() {
  if (!thread_.joinable()) return;
  CHECK(std::this_thread::get_id() != thread_.get_id()) << "destroyed by a callback of its own";
  Post({.work = [this] { stopping_ = true; }});
  thread_.join();
}

absl::StatusOr<std::unique_ptr<UcxPort>> UcxEngine::AddPort(TransportEvents* events) {
  CHECK(events != nullptr);
  RETURN_IF_ERROR(Start());
  return std::unique_ptr<UcxPort>(new UcxPort{.engine = this, .events = events});
}

void UcxEngine::RemovePort(UcxPort& port) {
  CHECK(std::this_thread::get_id() != thread_.get_id())
      << "a transport must not be destroyed by a callback of its engine";
  std::future<void> retired = port.retired.get_future();
  port.stopping.store(true);
  Post({.work = [this, &port] {
    StopListening(port);
    for (auto& [id, connection] : connections_) {
      if (connection->port == &port) BeginClose(*connection);
    }
    retiring_.push_back(&port);
  }});
  retired.wait();
}

void UcxEngine::Post(Command command) {
  {
    const std::lock_guard lock(commands_mutex_);
    commands_.push_back(std::move(command));
    has_commands_.store(true);
  }
  // Either we see that the thread sleeps, or it sees has_commands_ before it does.
  if (sleeping_.exchange(false)) {
    const uint64_t one = 1;
    CHECK(::write(wake_.get(), &one, sizeof(one)) == sizeof(one)) << std::strerror(errno);
  }
}

absl::StatusOr<std::string> UcxEngine::Listen(UcxPort& port, const std::string& address) {
  ASSIGN_OR_RETURN(const HostPort parsed, ParseHostPort(address));
  ASSIGN_OR_RETURN(const SocketAddress resolved, ResolveIpv4(parsed));
  if (std::this_thread::get_id() == thread_.get_id()) return ListenHere(port, resolved, address);
  std::promise<absl::StatusOr<std::string>> promise;
  std::future<absl::StatusOr<std::string>> result = promise.get_future();
  Post({.work = [&] { promise.set_value(ListenHere(port, resolved, address)); }});
  return result.get();
}

absl::StatusOr<ConnectionId> UcxEngine::Connect(UcxPort& port, const std::string& address) {
  ASSIGN_OR_RETURN(const HostPort parsed, ParseHostPort(address));
  if (parsed.port == 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot connect to port 0 of ", address));
  }
  // Or a user who connects again whenever a connection ends would never end.
  if (port.stopping.load()) return StoppingError();
  const ConnectionId id = next_connection_.fetch_add(1);
  {
    const std::lock_guard lock(infos_mutex_);
    infos_[id] = {&port, std::nullopt};
  }
  Post({.work = [this, &port, id, address, resolved = ResolveIpv4(parsed)] {
    if (resolved.ok() && !port.stopping.load()) return ConnectHere(port, id, *resolved, address);
    UcxConnection& connection = Add(port, id, address);
    connection.announced = true;
    Fail(connection, resolved.ok() ? StoppingError() : resolved.status());
  }});
  return id;
}

void UcxEngine::Close(UcxPort& port, ConnectionId connection) {
  Post({.work = [this, &port, connection] {
    const auto found = connections_.find(connection);
    if (found != connections_.end() && found->second->port == &port) BeginClose(*found->second);
  }});
}

absl::StatusOr<ConnectionInfo> UcxEngine::Describe(UcxPort& port, ConnectionId connection) {
  const std::lock_guard lock(infos_mutex_);
  const auto found = infos_.find(connection);
  if (found == infos_.end() || found->second.first != &port) {
    return absl::NotFoundError(absl::StrCat("connection ", connection, " is gone"));
  }
  if (!found->second.second.has_value()) {
    return absl::UnavailableError(absl::StrCat("connection ", connection, " is still being made"));
  }
  return *found->second.second;
}

size_t UcxEngine::CloseStrays() {
  const auto is_connection = [this](const std::string& peer) {
    const std::lock_guard lock(infos_mutex_);
    return accepted_peers_.contains(peer);
  };
  const std::vector<std::string> closed = strays_.Close(clock_.Now(), options_.connect_timeout,
                                                        options_.connections_max, is_connection);
  for (const std::string& what : closed) {
    if (options_.refused != nullptr) options_.refused("stray", what);
  }
  return closed.size();
}

// ---- the progress thread ----------------------------------------------------------------------

absl::Status UcxEngine::Open() {
  wake_ = FileDescriptor(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  epoll_ = FileDescriptor(::epoll_create1(EPOLL_CLOEXEC));
  if (wake_.get() < 0 || epoll_.get() < 0) return SystemError("making the wake-up descriptors");
  ASSIGN_OR_RETURN(context_, CreateUcxContext(options_));

  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_EVENTS;
  params.thread_mode = UCS_THREAD_MODE_SINGLE;
  params.events = UCP_WAKEUP_RX | UCP_WAKEUP_TX;
  ucp_worker_h worker = nullptr;
  const std::set<uint16_t> before = ListeningPorts();
  RETURN_IF_ERROR(
      StatusFromUcx(ucp_worker_create(context_.get(), &params, &worker),
                    absl::StrCat("making a UCX worker with transports \"", options_.tls, "\"")));
  worker_.reset(worker);
  for (const uint16_t port : ListeningPorts()) {
    if (!before.contains(port)) strays_.AddDataPort(port);
  }

  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                       UCP_AM_HANDLER_PARAM_FIELD_ARG | UCP_AM_HANDLER_PARAM_FIELD_FLAGS;
  handler.id = kActiveMessageId;
  handler.cb = &UcxEngine::OnActiveMessage;
  handler.arg = this;
  handler.flags = UCP_AM_FLAG_WHOLE_MSG;
  RETURN_IF_ERROR(StatusFromUcx(ucp_worker_set_am_recv_handler(worker, &handler),
                                "registering for active messages"));
  int ucx_fd = -1;
  RETURN_IF_ERROR(StatusFromUcx(ucp_worker_get_efd(worker, &ucx_fd), "UCX's event descriptor"));
  for (const int fd : {ucx_fd, wake_.get()}) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return SystemError("epoll_ctl");
  }
  return absl::OkStatus();
}

void UcxEngine::Run(std::promise<absl::Status>* started) {
  pthread_setname_np(pthread_self(), "ucx-engine");
  const absl::Status status = Open();
  started->set_value(status);
  base::Time last_work = clock_.Now();
  while (status.ok() && !stopping_) {
    now_ = clock_.Now();
    if (Turn()) {
      last_work = now_;
    } else if (now_ < rest_until_) {
      std::this_thread::sleep_for(rest_until_ - now_);
    } else if (polled_sends_ > 0 && now_ - last_work < kPollSends) {
      ::sched_yield();
    } else if (now_ - last_work >= options_.spin) {
      Sleep();
    }
  }
  worker_.reset();
  abandoned_.clear();  // UCX no longer knows of their buffers
  context_.reset();
}

void UcxEngine::Rest(base::Duration pause) {
  CHECK(std::this_thread::get_id() == thread_.get_id()) << "not inside OnMessage";
  rest_until_ = std::max(rest_until_, now_ + pause);
}

bool UcxEngine::Turn() {
  bool worked = RunCommands();
  worked |= ucp_worker_progress(worker_.get()) != 0;
  worked |= AcceptRequests();
  if (std::exchange(receives_ended_, false)) StartReceives();
  worked |= RunTimers();
  worked |= RunFinishedSends();
  worked |= StepTouched();
  if (!retiring_.empty()) RetirePorts();
  return worked;
}

// Lets go of the transports whose connections are closed and whose last calls are answered.
void UcxEngine::RetirePorts() {
  if (has_commands_.load() || !finished_sends_.empty()) return;
  std::erase_if(retiring_, [](UcxPort* port) {
    if (port->connections > 0) return false;
    port->retired.set_value();  // its owner may be gone now
    return true;
  });
}

void UcxEngine::Sleep() {
  sleeping_.store(true);
  const bool asleep = !has_commands_.load() && ucp_worker_arm(worker_.get()) == UCS_OK;
  if (asleep) {
    base::Duration sleep = polled_sends_ > 0 ? kPollSends : kMaxSleep;
    if (!deadlines_.empty()) {
      sleep =
          std::clamp<base::Duration>(deadlines_.begin()->first - now_, base::Duration(0), sleep);
    }
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(sleep);
    epoll_event events[2];
    const int count = ::epoll_wait(epoll_.get(), events, 2, static_cast<int>(ms.count()));
    for (int i = 0; i < count; ++i) {
      if (events[i].data.fd != wake_.get()) continue;
      uint64_t ignored;
      if (::read(wake_.get(), &ignored, sizeof(ignored)) < 0) CHECK(errno == EAGAIN);
    }
  }
  sleeping_.store(false);
}

bool UcxEngine::RunCommands() {
  if (!has_commands_.load(std::memory_order_relaxed)) return false;
  std::vector<Command> commands;
  {
    const std::lock_guard lock(commands_mutex_);
    commands.swap(commands_);
    has_commands_.store(false);
  }
  for (Command& command : commands) {
    if (command.send != nullptr) {
      SendHere(*command.port, command.connection, std::move(command.send));
    } else {
      command.work();
    }
  }
  return true;
}

bool UcxEngine::RunTimers() {
  bool worked = false;
  while (!deadlines_.empty() && deadlines_.begin()->first <= now_) {
    UcxConnection& connection = *connections_.at(deadlines_.begin()->second);
    SetDeadline(connection, base::kNever);
    Expire(connection);
    worked = true;
  }
  return worked;
}

bool UcxEngine::RunFinishedSends() {
  if (finished_sends_.empty()) return false;
  std::vector<std::pair<SendDone, absl::Status>> finished;
  finished.swap(finished_sends_);
  for (auto& [done, status] : finished) done(std::move(status));
  return true;
}

bool UcxEngine::StepTouched() {
  if (touched_.empty()) return false;
  std::vector<UcxConnection*> touched;
  touched.swap(touched_);
  for (UcxConnection* connection : touched) {
    connection->touched = false;
    Step(*connection);
  }
  return true;
}

void UcxEngine::Touch(UcxConnection& connection) {
  if (connection.touched) return;
  connection.touched = true;
  touched_.push_back(&connection);
}

void UcxEngine::SetDeadline(UcxConnection& connection, base::Time deadline) {
  if (connection.deadline != base::kNever) deadlines_.erase({connection.deadline, connection.id});
  connection.deadline = deadline;
  if (deadline != base::kNever) deadlines_.emplace(deadline, connection.id);
}

}  // namespace sounder::transport
