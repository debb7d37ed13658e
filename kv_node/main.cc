// sounder_node: the wiring diagram of a KV node.
#include <signal.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/freed_memory.h"
#include "common/base/limits.h"
#include "common/base/open_files.h"
#include "common/base/status_macros.h"
#include "common/base/thread_executor.h"
#include "common/config/environment.h"
#include "common/config/host_port.h"
#include "common/config/logging.h"
#include "common/config/option_report.h"
#include "common/config/option_set.h"
#include "common/config/version.h"
#include "common/http/endpoints.h"
#include "common/http/http_server.h"
#include "common/kernels/simd_level.h"
#include "common/metrics/registry.h"
#include "common/transport/ucx_transport.h"
#include "common/wire/control_server.h"
#include "common/wire/status_json.h"
#include "kv_node/node_limits.h"
#include "kv_node/node_store.h"
#include "kv_node/server/data_server.h"
#include "kv_node/server/node_service.h"
#include "kv_node/server/probe.h"
#include "kv_node/server/store_metrics.h"
#include "kv_node/session/session_map.h"
#include "kv_node/tuning/schedule_cache.h"
#include "kv_node/tuning/start_schedule.h"

#ifdef __SANITIZE_ADDRESS__
// A node ends without destroying its UCX workers (see ShutDown): what UCX keeps of a connection
// that a client is just opening is not lost by us.
extern "C" const char* __lsan_default_suppressions() { return "leak:libucs.so\n"; }
extern "C" const char* __lsan_default_options() { return "print_suppressions=0"; }
#endif

namespace sounder::kv_node {
namespace {

constexpr int kExitUnavailable = 4;

struct Options {
  std::string control_address = "127.0.0.1:7400";
  std::string data_address = "127.0.0.1:7401";
  std::string http_address = "127.0.0.1:7402";
  int64_t memory = int64_t{4} << 30;
  int64_t threads = std::max(1u, std::thread::hardware_concurrency());
  int64_t seal_rows = 4096;
  int64_t min_indexed_rows = 1024;
  int64_t max_sessions = 4096;
  int64_t index_backlog_rows = 262144;
  int64_t message_memory = int64_t{512} << 20;
  int64_t max_attends = 1024;
  base::Duration close_deadline = std::chrono::seconds(2);
  NodeLimits limits;
  StoreOptions store;
  transport::UcxOptions ucx;
  std::string simd = "best";
  std::string tuning = "auto";
  std::string tuning_cache;
  std::string log_level = "info";
};

void Declare(config::OptionSet& set, Options* options) {
  set.AddText("control", &options->control_address, "control plane, host:port; port 0 picks one");
  set.AddText("data", &options->data_address, "data plane (UCX), host:port; port 0 picks one");
  set.AddText("http", &options->http_address,
              "/metrics, /healthz and the like, host:port; port 0 picks one");
  set.AddBytes("memory", &options->memory, "cap on rows and indexes held in memory",
               {.min = int64_t{1} << 20});
  set.AddInt("threads", &options->threads, "threads that attend and build indexes",
             {.min = 1, .max = 1024});
  set.AddInt("seal_rows", &options->seal_rows,
             "rows of a segment, for sessions that leave it to the node; larger segments index "
             "better, smaller ones seal earlier",
             {.min = 16, .max = base::kMaxSegmentRows});
  set.AddInt("min_indexed_rows", &options->min_indexed_rows,
             "shorter segments get no index and are attended exactly",
             {.min = 1, .max = base::kMaxSegmentRows});
  set.AddInt("index_backlog_rows", &options->index_backlog_rows,
             "rows (counted per layer and kv head) that may wait for their index before appends "
             "are acknowledged late, so that a prompt does not outrun its indexes",
             {.min = 0});
  set.AddBytes("message_memory", &options->message_memory,
               "cap on requests and answers of the data plane held in memory, beside --memory; "
               "what does not fit is refused",
               {.min = int64_t{1} << 20});
  set.AddInt("max_attends", &options->max_attends,
             "attends taken on at once; what comes beyond is refused", {.min = 1});
  set.AddInt("max_sessions", &options->max_sessions, "sessions held at once", {.min = 1});
  set.AddDuration("close_deadline", &options->close_deadline,
                  "how long closes, forks and truncates wait for appends in flight");
  DeclareStore(set, &options->store);
  DeclareLimits(set, &options->limits);
  set.AddText(
      "ucx_tls", &options->ucx.tls,
      "transports: auto (all but shared memory), tcp, shm, or a UCX_TLS list such as rc,tcp");
  set.AddText("ucx_devices", &options->ucx.net_devices,
              "network devices, as in UCX_NET_DEVICES; empty: lo if --data is on it, or else all");
  set.AddText("ucx_port_range", &options->ucx.port_range, "ports of data connections, lo-hi");
  set.AddDuration("ucx_spin", &options->ucx.spin,
                  "how long the data plane polls before it sleeps; longer is faster and burns CPU");
  set.AddBool("require_rdma", &options->ucx.require_rdma, "refuse connections without RDMA");
  set.AddText("simd", &options->simd,
              "instruction set: best, or a level this machine has (AVX2, ...)");
  set.AddText("tuning", &options->tuning,
              "schedule of the kernels (speed only, never results): auto finds the fastest on this "
              "CPU, in up to a second, and keeps it; off; or fields, as `sounderctl tune` shows");
  set.AddText("tuning_cache", &options->tuning_cache,
              "file where the schedule is kept; empty: found at every start");
  config::AddLogOptions(set, &options->log_level);
  set.AddCheck([options]() -> absl::Status {
    RETURN_IF_ERROR(CheckTuning(options->tuning));
    RETURN_IF_ERROR(config::CheckAddresses("--control", {options->control_address}));
    RETURN_IF_ERROR(config::CheckAddresses("--data", {options->data_address}));
    return config::CheckAddresses("--http", {options->http_address});
  });
}

// Blocks the signals that end the process, so that only the wait below sees them.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signals;
}

// Closes sessions whose writers are gone, and sockets of strangers, every second.
void Sweep(SessionMap* sessions, transport::UcxTransport* transport, base::Executor* executor) {
  const size_t closed = sessions->CloseExpired();
  if (closed > 0) config::LogInfo(absl::StrCat("closed ", closed, " sessions past their TTL"));
  transport->CloseStrays();
  executor->RunAt(executor->clock().Now() + std::chrono::seconds(1),
                  [sessions, transport, executor] { Sweep(sessions, transport, executor); });
}

int Fail(const std::string& what, const absl::Status& status) {
  std::fprintf(stderr, "sounder_node: %s: %s\n", what.c_str(), base::MessageOf(status).c_str());
  return kExitUnavailable;
}

// UCX opens a port on every device it may use, whatever address --data has. A node on loopback is
// meant for this machine, unless the options speak of devices or of RDMA.
transport::UcxOptions DataPlaneOptions(const Options& options, ServerProbe* probe) {
  transport::UcxOptions ucx = options.ucx;
  Limit(options.limits, probe, &ucx);
  const bool any_device = ucx.tls == "auto" || ucx.tls == "tcp" || ucx.tls == "shm";
  const std::string host = config::ParseHostPort(options.data_address)->host;  // checked before
  const bool loopback = host == "localhost" || host.rfind("127.", 0) == 0;
  if (loopback && any_device && ucx.net_devices.empty() && !ucx.require_rdma) {
    ucx.net_devices = "lo";
  }
  return ucx;
}

absl::StatusOr<std::unique_ptr<http::HttpServer>> StartHttp(const Options& options,
                                                            const config::OptionSet& set,
                                                            const NodeService& service,
                                                            const metrics::Registry& registry,
                                                            ServerProbe* probe) {
  http::RouteTable routes;
  http::EndpointSources sources;
  sources.registry = &registry;
  sources.health = [] { return absl::OkStatus(); };
  sources.ready = [&service] {
    if (service.shutting_down()) return ShuttingDown();
    return service.draining() ? absl::UnavailableError("draining") : absl::OkStatus();
  };
  sources.status_json = [&service] { return wire::ToJson(service.CurrentStatus()).dump(2); };
  sources.conf_json = [&set] { return config::ConfJson(set.Values()); };
  http::AddStandardEndpoints(routes, sources);
  return http::HttpServer::Create(HttpOptionsOf(options.limits, options.http_address, probe),
                                  std::move(routes));
}

SessionMapOptions MapOptions(const Options& options) {
  SessionMapOptions map;
  map.seal_rows = static_cast<uint32_t>(options.seal_rows);
  map.min_indexed_rows = static_cast<uint32_t>(options.min_indexed_rows);
  const auto memory = static_cast<uint64_t>(options.memory);
  map.memory_bytes = SessionBytes(options.store, memory);
  map.tiers.write_bytes_per_second = static_cast<uint64_t>(options.store.spill_rate);
  map.journal = options.store.journal;
  map.max_sessions = static_cast<size_t>(options.max_sessions);
  // Where there are two threads, one is always free for attends.
  map.index.builds = static_cast<int>(std::max<int64_t>(1, options.threads - 1));
  map.index.backlog_rows = options.index_backlog_rows;
  return map;
}

DataServerOptions ServerOptions(const Options& options) {
  DataServerOptions server;
  server.intake.message_bytes = static_cast<uint64_t>(options.message_memory);
  server.max_attends = static_cast<uint64_t>(options.max_attends);
  return server;
}

// The data plane. Its destructor is the end of a start that failed, before anybody could connect:
// no request is taken any more, the executor does what was taken, which may still send, and then
// the transport goes. What the transport and the executor call is destroyed after them. (A node
// that was ready ends by ShutDown.)
struct DataPlane {
  // `store` null: there is none. It outlives the data plane.
  DataPlane(const Options& options, const kernels::KernelSchedule& schedule,
            metrics::Registry& registry, NodeStore* store)
      : executor(
            std::make_unique<base::ThreadExecutor>(static_cast<int>(options.threads), "attend")),
        sessions(MapOptions(options), executor.get(), store ? store->stores() : SessionStores()),
        probe(registry, sessions),
        transport(std::make_unique<transport::UcxTransport>(DataPlaneOptions(options, &probe))),
        server(transport.get(), &sessions, executor.get(), static_cast<int>(options.threads),
               &probe, schedule, ServerOptions(options), store ? store->rows() : nullptr) {}
  ~DataPlane() {
    server.Stop();
    sessions.CloseAll(absl::UnavailableError("the node is shutting down"));
    server.WaitIdle();
    executor.reset();
    transport.reset();
  }

  std::unique_ptr<base::ThreadExecutor> executor;
  SessionMap sessions;
  ServerProbe probe;
  std::unique_ptr<transport::UcxTransport> transport;
  DataServer server;
};

// Ends a node that was ready. Requests in flight are answered, or refused with the reason, within
// the deadline; connections are told goodbye. Then the process ends without destroying anything:
// UCX (1.13, TCP) crashes or hangs when a listener or its worker ends while a client is just
// connecting, and clients do, all the more when they lose a node.
[[noreturn]] void ShutDown(const Options& options, DataPlane& data, NodeService& service,
                           wire::ControlServer& control) {
  constexpr auto kGoodbye = std::chrono::seconds(1);  // UCX's linger, and some
  const base::Clock& clock = data.executor->clock();
  const base::Time until = clock.Now() + options.limits.shutdown_deadline;
  service.ShutDown();
  data.server.Stop();
  // What still waits then, say for rows that can no longer come, is told why in the rest of the
  // time.
  const bool in_time = data.server.WaitAnswered(until - options.limits.shutdown_deadline / 4);
  MakeDurable(data.sessions, *data.executor, until - options.limits.shutdown_deadline / 8, until);
  data.sessions.CloseAll(ShuttingDown());
  if (!in_time && !data.server.WaitAnswered(until)) {
    config::LogWarning("requests in flight did not end within --shutdown-deadline");
  }
  if (!data.server.CloseConnections(clock.Now() + kGoodbye)) {
    config::LogWarning("some data connections did not take leave");
  }
  if (!control.WaitSent(kGoodbye)) config::LogWarning("some control answers were not sent");
  config::LogInfo("stopped");
  config::FlushLog(kGoodbye);
#ifdef __SANITIZE_ADDRESS__
  __lsan_do_leak_check();  // as at an ordinary exit
#endif
  std::fflush(nullptr);
  ::_exit(0);
}

void WaitForSignal(const sigset_t& signals) {
  int signal_number = 0;
  sigwait(&signals, &signal_number);
  config::LogInfo(std::string("stopping on ") + strsignal(signal_number));
  signal(SIGINT, SIG_DFL);  // a second signal ends the process at once
  signal(SIGTERM, SIG_DFL);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

void AddMetrics(metrics::Registry& registry) {
  metrics::AddProcessMetrics(registry);
  registry.AddCounterCallback("sounder_log_dropped_messages_total",
                              "Log lines dropped because stderr did not take them fast enough.",
                              [] { return static_cast<double>(config::DroppedLogLines()); });
  registry.AddGaugeCallback("sounder_log_queued_messages", "Log lines not written yet.",
                            [] { return static_cast<double>(config::QueuedLogLines()); });
}

int Run(const Options& options, const config::OptionSet& set) {
  const sigset_t signals = BlockSignals();
  // Before there are other threads: up to --memory is used.
  if (!options.store.folder.empty()) base::ReturnFreedMemory();
  const config::AsyncLog log;  // ends last
  base::RaiseOpenFileLimit();
  metrics::Registry registry;
  AddMetrics(registry);
  const absl::StatusOr<StartSchedule> start = ScheduleAtStart(options.tuning, options.tuning_cache);
  if (!start.ok()) return Fail("--tuning", start.status());
  config::LogInfo(absl::StrCat("kernel schedule: ", start->source));
  absl::StatusOr<std::unique_ptr<NodeStore>> store =
      NodeStore::Open(options.store, static_cast<uint64_t>(options.memory));
  if (!store.ok()) return Fail("--store", store.status());
  DataPlane data(options, start->schedule, registry, store->get());
  if (*store != nullptr) {
    AddStoreMetrics(registry, data.sessions, *(*store)->rows());
    if (absl::Status status = (*store)->Restore(&data.sessions); !status.ok()) {
      return Fail("--store", status);
    }
  }
  std::mutex identity_mutex;
  wire::NodeStatus identity;  // guarded by identity_mutex
  identity.version = config::Version();
  identity.threads = static_cast<uint32_t>(options.threads);
  identity.simd = kernels::CurrentSimdLevel();
  if (*store != nullptr) identity.store = (*store)->description();
  NodeService service(&data.sessions, data.executor.get(), options.close_deadline, [&] {
    wire::NodeStatus status;
    {
      std::lock_guard lock(identity_mutex);
      status = identity;
    }
    status.connections = data.server.Connections();
    return status;
  });
  const auto set_address = [&](std::string wire::NodeStatus::*field, const std::string& address) {
    std::lock_guard lock(identity_mutex);
    identity.*field = address;
  };

  if (absl::Status status = data.transport->Start(&data.server); !status.ok()) {
    return Fail("cannot start the data plane", status);
  }
  absl::StatusOr<std::unique_ptr<http::HttpServer>> http =
      StartHttp(options, set, service, registry, &data.probe);
  if (!http.ok()) return Fail("http", http.status());
  set_address(&wire::NodeStatus::http_address, (*http)->address());

  absl::StatusOr<std::unique_ptr<wire::ControlServer>> control = wire::ControlServer::Start(
      options.control_address, &service, ControlLimitsOf(options.limits, &data.probe));
  if (!control.ok()) return Fail("control plane", control.status());
  set_address(&wire::NodeStatus::control_address, (*control)->address());

  // Last: UCX does not survive the end of a listener that a client is just connecting to. Until
  // then the control plane says that the node is starting.
  absl::StatusOr<std::string> data_address = data.transport->Listen(options.data_address);
  if (!data_address.ok()) return Fail("data plane", data_address.status());
  set_address(&wire::NodeStatus::data_address, *data_address);

  data.server.StartHeartbeats(options.limits.heartbeat);
  Sweep(&data.sessions, data.transport.get(), data.executor.get());
  std::printf("ready control=%s data=%s http=%s\n", (*control)->address().c_str(),
              data_address->c_str(), (*http)->address().c_str());
  std::fflush(stdout);
  config::LogInfo("ready: " + config::VersionLine());

  WaitForSignal(signals);
  ShutDown(options, data, service, **control);
}

}  // namespace
}  // namespace sounder::kv_node

int main(int argc, char** argv) {
  using namespace sounder;
  const config::Environment environment = config::EnvironmentFromProcess();
  kv_node::Options options;
  options.tuning_cache = kv_node::DefaultScheduleFile(environment);
  config::OptionSet set("sounder_node", "Keeps shards of KV caches and attends to them in place.");
  kv_node::Declare(set, &options);
  if (std::optional<int> exit = set.ParseOrExit(argc, argv, environment)) return *exit;
  config::SetLogLevel(options.log_level);
  if (absl::Status status = kernels::ForceSimdLevel(options.simd); !status.ok()) {
    std::fprintf(stderr, "sounder_node: --simd: %s\n", base::MessageOf(status).c_str());
    return config::kExitUsage;
  }
  return kv_node::Run(options, set);
}
