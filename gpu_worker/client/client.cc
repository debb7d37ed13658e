#include "gpu_worker/client/client.h"

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/attention/partial_output.h"
#include "common/base/absl_text.h"
#include "common/config/host_port.h"
#include "common/config/logging.h"
#include "common/config/version.h"
#include "gpu_worker/client/client_access.h"

namespace sounder::client {

class Network {
 public:
  explicit Network(std::shared_ptr<transport::UcxEngine> engine) : engine_(std::move(engine)) {}
  const std::shared_ptr<transport::UcxEngine>& engine() const { return engine_; }

 private:
  const std::shared_ptr<transport::UcxEngine> engine_;
};

std::shared_ptr<Network> MakeNetwork(const NetworkOptions& options) {
  transport::UcxOptions ucx;
  ucx.tls = options.tls;
  ucx.net_devices = options.devices;
  ucx.port_range = options.port_range;
  ucx.require_rdma = options.require_rdma;
  ucx.spin = options.spin;
  return std::make_shared<Network>(transport::MakeUcxEngine(std::move(ucx)));
}

Client::Client(std::shared_ptr<gpu_worker::KvConnection> connection)
    : connection_(std::move(connection)) {}

Client::~Client() = default;

Status Client::Connect(const ClientOptions& options, std::unique_ptr<Client>* client) {
  if (options.deadline.count() <= 0 || options.append_window_bytes <= 0) {
    return {Code::kInvalidArgument,
            absl::StrCat("deadline ", options.deadline.count(), " ns, append window ",
                         options.append_window_bytes, " bytes; expected above 0")};
  }
  if (absl::Status status = config::CheckAddresses("nodes", options.nodes); !status.ok()) {
    return gpu_worker::ToPublic(status);
  }
  gpu_worker::KvClientOptions kv_options;
  kv_options.deadline = options.deadline;
  kv_options.append_window_bytes = options.append_window_bytes;
  kv_options.seed = std::random_device{}();
  const std::shared_ptr<Network> network =
      options.network != nullptr ? options.network : MakeNetwork({});
  absl::StatusOr<std::unique_ptr<gpu_worker::KvConnection>> connection =
      gpu_worker::KvConnection::Connect(options.nodes, kv_options, network->engine());
  if (connection.ok()) client->reset(new Client(*std::move(connection)));
  return gpu_worker::ToPublic(connection.status());
}

Status Client::Open(const SessionOptions& options, std::unique_ptr<Session>* session) {
  const absl::StatusOr<gpu_worker::RemoteSessionOptions> wanted = gpu_worker::FromPublic(options);
  if (!wanted.ok()) return gpu_worker::ToPublic(wanted.status());
  absl::StatusOr<std::shared_ptr<gpu_worker::RemoteSession>> remote =
      connection_->client().Open(*wanted);
  if (!remote.ok()) return gpu_worker::ToPublic(remote.status());
  session->reset(new Session(std::make_shared<Session::State>(connection_, *std::move(remote))));
  return {};
}

Status Client::Adopt(SessionId id, uint32_t tenant, Adopted* adopted) {
  absl::StatusOr<gpu_worker::AdoptedSession> taken =
      connection_->client().Adopt({id.high, id.low}, tenant);
  if (!taken.ok()) return gpu_worker::ToPublic(taken.status());
  adopted->session.reset(
      new Session(std::make_shared<Session::State>(connection_, std::move(taken->session))));
  adopted->tokens = std::move(taken->tokens);
  return {};
}

void Client::KeepAlive() { connection_->client().KeepAlive(); }

void Merge(float* outputs, float* lse, const float* other_outputs, const float* other_lse,
           size_t heads, size_t dim) {
  for (size_t head = 0; head < heads; ++head) {
    attention::MergePartial(outputs + head * dim, lse + head, other_outputs + head * dim,
                            other_lse[head], static_cast<int>(dim));
  }
}

void SetLogLevel(LogLevel level) {
  static_assert(static_cast<int>(config::LogLevel::kOff) == static_cast<int>(LogLevel::kOff));
  config::SetLogLevel(static_cast<config::LogLevel>(level));
}

std::string Version() { return config::Version(); }

}  // namespace sounder::client

namespace sounder::gpu_worker {

std::unique_ptr<client::Client> ClientAccess::Make(std::shared_ptr<KvConnection> connection) {
  return std::unique_ptr<client::Client>(new client::Client(std::move(connection)));
}

}  // namespace sounder::gpu_worker
