#include "cli/session_command.h"

#include <cstdio>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/exit_codes.h"
#include "cli/table.h"
#include "common/base/absl_text.h"
#include "common/config/host_port.h"
#include "common/config/option_set.h"
#include "common/wire/control_client.h"
#include "common/wire/status_json.h"

namespace sounder::cli {
namespace {

struct SessionOptions {
  std::vector<std::string> nodes;
  std::string session;
  base::Duration deadline = std::chrono::seconds(10);
  int64_t tenant = 0;
  base::Duration pin_for = std::chrono::minutes(10);
  bool soft = false;
  bool json = false;

  base::SessionId id() const { return *base::SessionId::Parse(session); }  // checked before
};

// Nodes answer when all rows are moved, at the pace of their disks.
constexpr base::Duration kMoveDeadline = std::chrono::minutes(5);
constexpr char kMoveDeadlineHelp[] =
    "how long a node may take to move all of it: some seconds for each GiB; it goes on when that "
    "has passed";

void Declare(config::OptionSet& set, SessionOptions* options,
             const char* deadline_help = "how long a node may take to answer") {
  set.AddList("nodes", &options->nodes, "control addresses of the nodes, host:port");
  set.Require("nodes");
  set.AddText("session", &options->session, "the session's id, 32 hexadecimal digits");
  set.Require("session");
  set.AddDuration("deadline", &options->deadline, deadline_help);
  set.AddCheck([options]() -> absl::Status {
    if (!base::SessionId::Parse(options->session).has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("--session '", options->session,
                                                     "', expected 32 hexadecimal digits, as ",
                                                     "`sounderctl status --sessions` shows"));
    }
    return config::CheckAddresses("--nodes", options->nodes);
  });
}

// Asks the nodes one after the other. A node that does not hold the session says so; somebody must.
int ForEachNode(const SessionOptions& options,
                const std::function<absl::Status(wire::ControlClient&)>& ask) {
  int exit = kExitOk;
  int holders = 0;
  for (const std::string& node : options.nodes) {
    wire::ControlClient control(node, options.deadline);
    const absl::Status status = ask(control);
    if (status.ok()) ++holders;
    if (status.ok() || absl::IsNotFound(status)) continue;
    std::fprintf(stderr, "sounderctl: %s\n", base::MessageOf(status).c_str());
    exit = ExitCodeOf(status);
  }
  if (holders > 0 || exit != kExitOk) return exit;
  std::fprintf(stderr, "sounderctl: session %s is on none of the nodes\n", options.session.c_str());
  return kExitBadInput;
}

std::string Durable(const wire::SessionInfo& info) {
  return info.durable_position < 0 ? "no" : absl::StrCat("up to position ", info.durable_position);
}

std::string OrNo(bool has, const std::string& text) { return has ? text : "no"; }

std::string ToText(const std::string& node, const wire::SessionInfo& info) {
  Table table({"session", info.spec.session.id.ToString()});
  const auto add = [&table](const char* name, const std::string& value) {
    table.AddRow({name, value});
  };
  add("node", node);
  add("model", info.spec.model.name);
  add("epoch", absl::StrCat(info.spec.session.epoch));
  add("positions", absl::StrCat("[", info.first_position, ", ", info.end_position, ")"));
  add("token ids", absl::StrCat(info.tokens));
  add("rows", absl::StrCat(info.rows));
  add("segments", absl::StrCat(info.segments, ": ", info.hot_segments(), " hot, ",
                               info.warm_segments, " warm, ", info.cold_segments, " cold"));
  add("memory", absl::StrCat(info.row_bytes, " bytes of rows, ", info.index_bytes, " of indexes"));
  add("disk", absl::StrCat(info.stored_bytes, " bytes"));
  add("durable", Durable(info));
  add("pinned", OrNo(info.pinned_seconds > 0, absl::StrCat(info.pinned_softly ? "softly " : "",
                                                           "for ", info.pinned_seconds, " s")));
  add("expires",
      OrNo(info.spec.ttl_seconds > 0, absl::StrCat("in ", info.ttl_remaining_seconds, " s")));
  return table.ToText();
}

int Describe(int argc, const char* const* argv, const config::Environment& environment) {
  SessionOptions options;
  config::OptionSet set("sounderctl describe",
                        "Shows what nodes hold of a session: where, and what of it is durable.");
  Declare(set, &options);
  set.AddInt("tenant", &options.tenant, "whose session it is", {.min = 0, .max = UINT32_MAX});
  set.AddBool("json", &options.json, "print one JSON array");
  if (std::optional<int> exit = set.ParseOrExit(argc, argv, environment)) return *exit;
  nlohmann::json json = nlohmann::json::array();
  const int exit = ForEachNode(options, [&](wire::ControlClient& control) -> absl::Status {
    wire::DescribeCall call;
    call.session.id = options.id();
    call.tenant = static_cast<uint32_t>(options.tenant);
    const absl::StatusOr<wire::SessionInfo> info = control.Describe(call);
    if (!info.ok()) return info.status();
    if (options.json) {
      json.push_back(wire::ToJson(*info));
      json.back()["node"] = control.address();
    } else {
      std::printf("%s\n", ToText(control.address(), *info).c_str());
    }
    return absl::OkStatus();
  });
  if (options.json) std::printf("%s\n", json.dump(2).c_str());
  return exit;
}

int Pin(int argc, const char* const* argv, const config::Environment& environment) {
  SessionOptions options;
  config::OptionSet set("sounderctl pin",
                        "Keeps a session in its nodes' memory, also the rows to come.");
  Declare(set, &options);
  set.AddDuration("for", &options.pin_for, "how long; 0s: no longer",
                  {.min = base::Duration(0), .max = std::chrono::hours(24 * 365)});
  set.AddBool("soft", &options.soft, "let it leave memory when nothing else can");
  if (std::optional<int> exit = set.ParseOrExit(argc, argv, environment)) return *exit;
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(options.pin_for);
  return ForEachNode(options, [&](wire::ControlClient& control) {
    return control.Pin({options.id(), static_cast<uint32_t>(seconds.count()), options.soft});
  });
}

int Spill(int argc, const char* const* argv, const config::Environment& environment) {
  SessionOptions options;
  config::OptionSet set("sounderctl spill",
                        "Moves a session from its nodes' memory to their disks.");
  options.deadline = kMoveDeadline;
  Declare(set, &options, kMoveDeadlineHelp);
  if (std::optional<int> exit = set.ParseOrExit(argc, argv, environment)) return *exit;
  return ForEachNode(options,
                     [&](wire::ControlClient& control) { return control.Spill(options.id()); });
}

int Load(int argc, const char* const* argv, const config::Environment& environment) {
  SessionOptions options;
  config::OptionSet set("sounderctl load",
                        "Brings a session to its nodes' memory before it is attended.");
  options.deadline = kMoveDeadline;
  Declare(set, &options, kMoveDeadlineHelp);
  if (std::optional<int> exit = set.ParseOrExit(argc, argv, environment)) return *exit;
  return ForEachNode(options,
                     [&](wire::ControlClient& control) { return control.Load(options.id()); });
}

}  // namespace

config::Command DescribeCommand() { return {"describe", "what nodes hold of a session", Describe}; }
config::Command PinCommand() { return {"pin", "keeps a session in memory", Pin}; }
config::Command SpillCommand() { return {"spill", "moves a session to disk", Spill}; }
config::Command LoadCommand() { return {"load", "brings a session to memory", Load}; }

}  // namespace sounder::cli
