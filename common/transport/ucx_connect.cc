#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/transport/ucx_engine.h"
#include "common/transport/ucx_status.h"

// How connections are made: listeners, requests, endpoints. On the engine's thread.
namespace sounder::transport {

absl::StatusOr<std::string> UcxEngine::ListenHere(UcxPort& port, const SocketAddress& address,
                                                  const std::string& text) {
  if (port.stopping.load()) return StoppingError();
  ucp_listener_params_t params{};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr.addr = reinterpret_cast<const sockaddr*>(&address.storage);
  params.sockaddr.addrlen = address.length;
  params.conn_handler.cb = &UcxEngine::OnConnectionRequest;
  params.conn_handler.arg = &port;
  ucp_listener_h listener = nullptr;
  const ucs_status_t status = ucp_listener_create(worker_.get(), &params, &listener);
  if (status == UCS_ERR_BUSY) {
    return absl::AlreadyExistsError(absl::StrCat("listening on ", text, ": the port is taken"));
  }
  RETURN_IF_ERROR(StatusFromUcx(status, absl::StrCat("listening on ", text)));
  port.listeners.emplace_back(listener);
  ucp_listener_attr_t attributes{};
  attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  RETURN_IF_ERROR(StatusFromUcx(ucp_listener_query(listener, &attributes),
                                absl::StrCat("the port of the listener on ", text)));
  const std::string real = FormatSocketAddress(attributes.sockaddr);
  strays_.AddListener(ParseHostPort(real)->port);
  return real;
}

void UcxEngine::OnConnectionRequest(ucp_conn_request_h request, void* argument) {
  UcxPort* port = static_cast<UcxPort*>(argument);
  port->engine->requests_.emplace_back(port, request);
}

void UcxEngine::StopListening(UcxPort& port) {
  std::erase_if(requests_, [&](const std::pair<UcxPort*, ucp_conn_request_h>& each) {
    if (each.first != &port) return false;
    (void)ucp_listener_reject(port.listeners.front().get(), each.second);
    return true;
  });
  port.listeners.clear();
}

bool UcxEngine::AcceptRequests() {
  bool worked = false;
  while (!requests_.empty()) {
    const auto [port, request] = requests_.front();
    requests_.pop_front();
    worked = true;
    ucp_conn_request_attr_t attributes{};
    attributes.field_mask = UCP_CONN_REQUEST_ATTR_FIELD_CLIENT_ADDR;
    const bool known = ucp_conn_request_query(request, &attributes) == UCS_OK;
    const std::string peer = known ? FormatSocketAddress(attributes.client_address) : "?";
    if (static_cast<size_t>(port->connections) >= options_.connections_max) {
      (void)ucp_listener_reject(port->listeners.front().get(), request);
      if (options_.refused != nullptr) {
        options_.refused(
            "limit", absl::StrCat(peer, ": more than ", options_.connections_max, " connections"));
      }
      continue;
    }
    const ConnectionId id = next_connection_.fetch_add(1);
    UcxConnection& connection = Add(*port, id, peer);
    connection.accepted = true;
    {
      const std::lock_guard lock(infos_mutex_);
      accepted_peers_.insert(peer);
    }
    ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
    params.conn_request = request;
    OpenEndpoint(connection, params);
  }
  return worked;
}

void UcxEngine::ConnectHere(UcxPort& port, ConnectionId id, const SocketAddress& address,
                            const std::string& peer) {
  UcxConnection& connection = Add(port, id, peer);
  connection.announced = true;
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr.addr = reinterpret_cast<const sockaddr*>(&address.storage);
  params.sockaddr.addrlen = address.length;
  OpenEndpoint(connection, params);
}

UcxConnection& UcxEngine::Add(UcxPort& port, ConnectionId id, std::string peer) {
  ++port.connections;
  auto connection = std::make_unique<UcxConnection>();
  connection->engine = this;
  connection->port = &port;
  connection->id = id;
  connection->peer = std::move(peer);
  return *connections_.emplace(id, std::move(connection)).first->second;
}

// Completes `params` with what all endpoints share. A failure ends the connection at its next Step.
void UcxEngine::OpenEndpoint(UcxConnection& connection, ucp_ep_params_t params) {
  params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &UcxEngine::OnEndpointError;
  params.err_handler.arg = &connection;
  const ucs_status_t status = ucp_ep_create(worker_.get(), &params, &connection.endpoint);
  if (status != UCS_OK) {
    connection.endpoint = nullptr;
    return Fail(connection, StatusFromUcx(status, absl::StrCat("connecting ", connection.peer)));
  }
  by_endpoint_.emplace(connection.endpoint, &connection);
  SetDeadline(connection, now_ + options_.connect_timeout);
  SendHello(connection);
}

void UcxEngine::OnEndpointError(void* argument, ucp_ep_h, ucs_status_t status) {
  UcxConnection& connection = *static_cast<UcxConnection*>(argument);
  const char* what = connection.hello_received ? "the connection with " : "connecting to ";
  absl::Status reason = StatusFromUcx(status, absl::StrCat(what, connection.peer));
  if (reason.code() != absl::StatusCode::kUnavailable) {
    reason = absl::UnavailableError(reason.message());
  }
  connection.engine->Fail(connection, std::move(reason));
}

}  // namespace sounder::transport
