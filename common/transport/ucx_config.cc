#include "common/transport/ucx_config.h"

#include <ucs/config/global_opts.h>
#include <ucs/debug/debug.h>
#include <ucs/debug/log_def.h>

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "common/config/log_throttle.h"
#include "common/config/logging.h"
#include "common/transport/ucx_status.h"

namespace sounder::transport {
namespace {

// ucp_config_modify knows the settings of UCP by their names in the environment without UCX_, but
// those of the transports only without the transport's prefix.
// A setting of a transport that is not in use makes UCX complain, so each has a condition.
struct Setting {
  const char* variable;  // in the environment
  const char* name;      // for ucp_config_modify
  std::string value;
};

// Whether the comma-separated list names one of `transports`.
bool Uses(const std::string& tls, std::initializer_list<const char*> transports) {
  for (const char* transport : transports) {
    if (("," + tls + ",").find(absl::StrCat(",", transport, ",")) != std::string::npos) return true;
  }
  return false;
}

std::vector<Setting> SettingsOf(const UcxOptions& options) {
  // Not shared memory by itself: a process that dies while it writes into the queue we share with
  // it leaves the queue blocked for all others, for good.
  const std::string tls = options.tls == "auto"  ? "^sm"
                          : options.tls == "shm" ? "posix,tcp"
                                                 : options.tls;
  const bool tcp = Uses(tls, {"^sm", "all", "tcp"});
  const bool shared_memory = Uses(tls, {"all", "posix", "sysv", "mm", "sm", "shm"});
  std::vector<Setting> settings = {
      {"UCX_TLS", "TLS", tls},
      // Or a restarted node cannot listen on its port for a minute.
      {"UCX_TCP_CM_REUSEADDR", "CM_REUSEADDR", "y"},
      // One device per connection: a second TCP "rail" over loopback only costs.
      {"UCX_MAX_RNDV_RAILS", "MAX_RNDV_RAILS", "1"},
  };
  if (shared_memory) {
    // Or shared memory is not used between endpoints that want to hear of failures.
    settings.push_back({"UCX_POSIX_ERROR_HANDLING", "MM_ERROR_HANDLING", "y"});
  }
  if (tcp) {
    // Larger segments keep a decode step's messages in one piece: 1.4-2.7 GiB/s for 64 KiB
    // messages instead of 0.7-1.1.
    settings.push_back({"UCX_TCP_TX_SEG_SIZE", "TX_SEG_SIZE", "64K"});
    settings.push_back({"UCX_TCP_RX_SEG_SIZE", "RX_SEG_SIZE", "128K"});
    // A peer that dies while the kernel has half of a message sent without copying stops UCX (and
    // us) at an assertion: 22 of 50 runs of the test that kills a peer under load, 0 of 50 with
    // copies, which cost nothing that could be measured.
    settings.push_back({"UCX_ZCOPY_THRESH", "ZCOPY_THRESH", "inf"});
    // UCX writes what arrives for a "put" to the address that the peer names, also after the
    // receive was cancelled and its buffer freed (and also if the peer never had that address from
    // us).
    settings.push_back({"UCX_TCP_PUT_ENABLE", "PUT_ENABLE", "n"});
    // Or a data connection to a dead host blocks the progress thread.
    settings.push_back({"UCX_TCP_CONN_NB", "CONN_NB", "y"});
  }
  if (!options.net_devices.empty()) {
    settings.push_back({"UCX_NET_DEVICES", "NET_DEVICES", options.net_devices});
  }
  if (tcp && !options.port_range.empty()) {
    settings.push_back({"UCX_TCP_PORT_RANGE", "PORT_RANGE", options.port_range});
  }
  return settings;
}

// UCX takes these signals when it is loaded; crashes are the program's own business. A process does
// this once: UCX complains about a second time.
void LeaveSignalsAlone() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (std::getenv("UCX_ERROR_SIGNALS") != nullptr ||
        std::getenv("UCX_HANDLE_ERRORS") != nullptr) {
      return;  // the user has a wish of his own
    }
    for (const int signal : {SIGILL, SIGSEGV, SIGBUS, SIGFPE}) ucs_debug_disable_signal(signal);
  });
}

// UCX's messages in our log: by itself it writes to stdout, where answers go.
ucs_log_func_rc_t LogOfUcx(const char* file, unsigned line_number, const char* /*function*/,
                           ucs_log_level_t level, const ucs_log_component_config_t* component,
                           const char* format, va_list arguments) {
  // What it prints on request, and the last words before it aborts, are its own.
  if (level == UCS_LOG_LEVEL_FATAL || level >= UCS_LOG_LEVEL_PRINT) return UCS_LOG_FUNC_RC_CONTINUE;
  if (component != nullptr && level > component->log_level) return UCS_LOG_FUNC_RC_STOP;
  char text[1024];
  std::vsnprintf(text, sizeof text, format, arguments);
  const char* slash = std::strrchr(file, '/');
  const std::string message =
      absl::StrCat("UCX: ", text, " (", slash == nullptr ? file : slash + 1, ":", line_number, ")");
  if (level <= UCS_LOG_LEVEL_WARN) {
    // Some of these are said for every stray that connects.
    static config::LogThrottle throttle;
    const auto line =
        throttle.Admit(absl::StrCat(file, ":", line_number), message, base::SteadyClock().Now());
    if (line.has_value()) config::LogWarning(*line);
  } else if (level <= UCS_LOG_LEVEL_INFO) {
    config::LogInfo(message);
  } else {
    config::LogDebug(message);
  }
  return UCS_LOG_FUNC_RC_STOP;
}

void TakeLog() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (std::getenv("UCX_LOG_FILE") == nullptr) ucs_log_push_handler(LogOfUcx);
  });
}

// Beyond this many sockets UCX cannot watch another one, and closes its descriptor twice: between
// the two another thread may have been given the number, and loses its socket. The default is
// 1,024; whoever connects 1,000 times and says nothing gets there.
void RaiseEventLimit() {
  if (std::getenv("UCX_ASYNC_MAX_EVENTS") == nullptr) {
    (void)ucs_global_opts_set_value("ASYNC_MAX_EVENTS", "65536");
  }
}

}  // namespace

absl::StatusOr<UcxContext> CreateUcxContext(const UcxOptions& options) {
  LeaveSignalsAlone();
  TakeLog();
  RaiseEventLimit();

  ucp_config_t* raw_config = nullptr;
  RETURN_IF_ERROR(
      StatusFromUcx(ucp_config_read(nullptr, nullptr, &raw_config), "reading UCX's settings"));
  const UcxConfig config(raw_config);
  for (const Setting& setting : SettingsOf(options)) {
    if (std::getenv(setting.variable) != nullptr) continue;
    RETURN_IF_ERROR(
        StatusFromUcx(ucp_config_modify(config.get(), setting.name, setting.value.c_str()),
                      absl::StrCat("setting ", setting.variable, "=", setting.value)));
  }
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  ucp_context_h context = nullptr;
  RETURN_IF_ERROR(
      StatusFromUcx(ucp_init(&params, config.get(), &context),
                    absl::StrCat("starting UCX with transports \"", options.tls, "\"")));
  return UcxContext(context);
}

}  // namespace sounder::transport
