#include "cli/status_command.h"

#include <cstdio>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/exit_codes.h"
#include "cli/table.h"
#include "common/base/absl_text.h"
#include "common/base/thread_executor.h"
#include "common/config/host_port.h"
#include "common/config/option_set.h"
#include "common/transport/ucx_transport.h"
#include "common/wire/control_client.h"
#include "common/wire/data_client.h"
#include "common/wire/status_json.h"

namespace sounder::cli {
namespace {

struct StatusOptions {
  std::vector<std::string> nodes;
  base::Duration deadline = std::chrono::seconds(2);
  transport::UcxOptions ucx;
  bool sessions = false;
  bool json = false;
};

// One node as seen from here.
struct NodeView {
  std::string control;
  absl::StatusOr<wire::NodeStatus> status = absl::UnknownError("");
  absl::StatusOr<std::vector<wire::SessionInfo>> sessions = std::vector<wire::SessionInfo>();
  // Of a data connection made for this purpose.
  absl::StatusOr<transport::ConnectionInfo> connection = absl::UnavailableError("not tried");
};

// Reaches the node's data plane once and asks what carries the connection.
absl::StatusOr<transport::ConnectionInfo> Probe(wire::DataClient* data, base::Executor* executor,
                                                const std::string& address,
                                                base::Duration deadline) {
  std::mutex mutex;
  const std::unique_ptr<base::Condition> changed = executor->NewCondition();
  bool answered = false;
  absl::Status status;
  const wire::DataClient::NodeIndex node = data->AddNode(address);
  data->Ping(node, deadline, [&](absl::Status result) {
    std::lock_guard lock(mutex);
    status = std::move(result);
    answered = true;
    changed->NotifyAll();
  });
  std::unique_lock lock(mutex);
  while (!changed->WaitFor(lock, deadline, [&] { return answered; })) {
  }
  if (!status.ok()) return status;
  return data->Describe(node);
}

// What the nodes say of themselves, all asked at once: one that is away costs its deadline once.
std::vector<NodeView> AskAll(const StatusOptions& options) {
  std::vector<NodeView> views(options.nodes.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < views.size(); ++i) {
    views[i].control = options.nodes[i];
    threads.emplace_back([&options, view = &views[i]] {
      wire::ControlClient control(view->control, options.deadline);
      view->status = control.Status();
      if (view->status.ok() && options.sessions) view->sessions = control.List();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return views;
}

std::vector<NodeView> Look(const StatusOptions& options) {
  std::vector<NodeView> views = AskAll(options);
  base::ThreadExecutor executor(1, "status");
  auto transport = std::make_unique<transport::UcxTransport>(options.ucx);
  wire::DataClient data(transport.get(), &executor);
  const absl::Status started = transport->Start(&data);
  for (NodeView& view : views) {
    if (!view.status.ok()) continue;
    if (!started.ok()) {
      view.connection = base::Annotate(started, "--ucx-tls");
      continue;
    }
    const std::string data_address = config::ReachableData(view.control, view.status->data_address);
    view.connection = Probe(&data, &executor, data_address, options.deadline);
  }
  transport.reset();
  return views;
}

std::string Mebibytes(uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / 1048576);
  return text;
}

// "0123...cdef at 4096"; "-" for a session that is no fork.
std::string ForkedFrom(const wire::SessionInfo& session) {
  if (session.fork_position < 0) return "-";
  return absl::StrCat(session.parent.ToString(), " at ", session.fork_position);
}

std::string TransportOf(const NodeView& view) {
  if (!view.connection.ok()) return "unreachable: " + base::MessageOf(view.connection.status());
  return view.connection->transport;
}

void PrintText(const std::vector<NodeView>& views) {
  Table nodes({"node", "version", "data", "transport", "sessions", "memory", "limit", "rows",
               "indexes", "threads", "simd", "up"});
  for (const NodeView& view : views) {
    if (!view.status.ok()) {  // why is said on stderr
      nodes.AddRow({view.control, "away", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-"});
      continue;
    }
    const wire::NodeStatus& status = *view.status;
    nodes.AddRow({view.control, status.version + (status.draining ? " (draining)" : ""),
                  status.data_address, TransportOf(view), static_cast<int64_t>(status.sessions),
                  Mebibytes(status.memory_used), Mebibytes(status.memory_limit),
                  Mebibytes(status.row_bytes), Mebibytes(status.index_bytes),
                  static_cast<int64_t>(status.threads), status.simd,
                  absl::StrCat(status.uptime_seconds, " s")});
  }
  std::fputs(nodes.ToText().c_str(), stdout);
  Table connections({"node", "connection from", "transport"});
  Table sessions({"node", "session", "model", "positions", "rows", "segments", "row bytes", "index",
                  "index bytes", "shared bytes", "forked from"});
  bool any_connection = false;
  bool any_session = false;
  for (const NodeView& view : views) {
    if (!view.status.ok()) continue;
    for (const wire::NodeConnection& connection : view.status->connections) {
      connections.AddRow({view.control, connection.peer, connection.transport});
      any_connection = true;
    }
    if (!view.sessions.ok()) continue;
    for (const wire::SessionInfo& session : *view.sessions) {
      sessions.AddRow({view.control, session.spec.session.id.ToString(), session.spec.model.name,
                       absl::StrCat("[", session.first_position, ", ", session.end_position, ")"),
                       static_cast<int64_t>(session.rows), static_cast<int64_t>(session.segments),
                       static_cast<int64_t>(session.row_bytes), wire::IndexText(session.spec),
                       static_cast<int64_t>(session.index_bytes),
                       static_cast<int64_t>(session.shared_bytes), ForkedFrom(session)});
      any_session = true;
    }
  }
  if (any_connection) std::printf("\n%s", connections.ToText().c_str());
  if (any_session) std::printf("\n%s", sessions.ToText().c_str());
}

nlohmann::json ToJson(const NodeView& view) {
  if (!view.status.ok()) {
    return {{"node", view.control}, {"error", base::MessageOf(view.status.status())}};
  }
  nlohmann::json json = wire::ToJson(*view.status);
  json["node"] = view.control;
  json["transport"] = TransportOf(view);
  if (view.connection.ok()) json["transport_detail"] = view.connection->detail;
  if (!view.sessions.ok()) {
    json["session_list_error"] = base::MessageOf(view.sessions.status());
    return json;
  }
  json["session_list"] = nlohmann::json::array();
  for (const wire::SessionInfo& session : *view.sessions) {
    json["session_list"].push_back(wire::ToJson(session));
  }
  return json;
}

// Says on stderr what could not be had from the node; the exit status for it.
int Report(const NodeView& view) {
  const auto report = [&view](const char* what, const absl::Status& status) {
    std::fprintf(stderr, "sounderctl: node %s: %s: %s\n", view.control.c_str(), what,
                 base::MessageOf(status).c_str());
    return kExitUnavailable;
  };
  if (!view.status.ok()) {
    std::fprintf(stderr, "sounderctl: %s\n", base::MessageOf(view.status.status()).c_str());
    return ExitCodeOf(view.status.status());
  }
  int exit = kExitOk;
  if (!view.sessions.ok()) exit = report("listing its sessions", view.sessions.status());
  if (!view.connection.ok()) exit = report("its data plane", view.connection.status());
  return exit;
}

int Run(int argc, const char* const* argv, const config::Environment& environment) {
  StatusOptions options;
  config::OptionSet set("sounderctl status", "Shows nodes, sessions, memory and transports.");
  set.AddList("nodes", &options.nodes, "control addresses of the nodes, host:port");
  set.Require("nodes");
  set.AddCheck([&options] { return config::CheckAddresses("--nodes", options.nodes); });
  set.AddDuration("deadline", &options.deadline, "how long a node may take to answer");
  set.AddText("ucx_tls", &options.ucx.tls, "transports to try: auto, tcp, shm, or a UCX_TLS list");
  set.AddBool("sessions", &options.sessions, "list the sessions too");
  set.AddBool("json", &options.json, "print one JSON array");
  if (std::optional<int> exit = set.ParseOrExit(argc, argv, environment)) return *exit;
  const std::vector<NodeView> views = Look(options);
  if (options.json) {
    nlohmann::json json = nlohmann::json::array();
    for (const NodeView& view : views) json.push_back(ToJson(view));
    std::printf("%s\n", json.dump(2).c_str());
  } else {
    PrintText(views);
  }
  int exit = kExitOk;
  for (const NodeView& view : views) {
    if (const int each = Report(view); each != kExitOk) exit = each;
  }
  return exit;
}

}  // namespace

config::Command StatusCommand() { return {"status", "nodes, sessions, memory, transports", Run}; }

}  // namespace sounder::cli
