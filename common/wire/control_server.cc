#include "common/wire/control_server.h"

#include <kj/async-io.h>

#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/transport/address.h"
#include "common/wire/control_codec.h"
#include "common/wire/control_connections.h"
#include "common/wire/kj_inbox.h"

namespace sounder::wire {
namespace {

// std::function wants copyable captures; kj promises want movable values: T travels boxed.
template <typename T>
using Boxed = std::shared_ptr<absl::StatusOr<T>>;

// A promise of the kj thread and the reply that fulfils it, from any thread and at any time, also
// after the end of the server.
template <typename T>
std::pair<kj::Promise<Boxed<T>>, Reply<T>> PromiseReply(const std::shared_ptr<KjInbox>& inbox) {
  using Fulfiller = kj::Own<kj::PromiseFulfiller<Boxed<T>>>;
  auto pair = kj::newPromiseAndFulfiller<Boxed<T>>();
  // Shared by the copies of the reply. Dies on the kj thread, or when nothing is left of that one.
  const std::shared_ptr<Fulfiller> fulfiller(new Fulfiller(kj::mv(pair.fulfiller)),
                                             [inbox](Fulfiller* old) {
                                               if (!inbox->Post([old] { delete old; })) delete old;
                                             });
  Reply<T> reply = [inbox, fulfiller](absl::StatusOr<T> value) {
    inbox->Post([fulfiller, boxed = std::make_shared<absl::StatusOr<T>>(std::move(value))] {
      (*fulfiller)->fulfill(Boxed<T>(boxed));
    });
  };
  return {kj::mv(pair.promise), std::move(reply)};
}

std::pair<kj::Promise<Boxed<bool>>, StatusReply> PromiseStatus(
    const std::shared_ptr<KjInbox>& inbox) {
  auto [promise, reply] = PromiseReply<bool>(inbox);
  StatusReply status_reply = [reply = std::move(reply)](absl::Status status) {
    if (status.ok()) {
      reply(true);
    } else {
      reply(std::move(status));
    }
  };
  return {kj::mv(promise), std::move(status_reply)};
}

SessionRef RefOf(const auto& in) { return {{in.getIdHigh(), in.getIdLow()}, in.getEpoch()}; }

SessionOp OpOf(const auto& in) { return {RefOf(in), in.getSequence(), in.getTenant()}; }

// Adapts the generated server interface to a ControlService.
class NodeAdapter final : public proto::Node::Server {
 public:
  NodeAdapter(ControlService* service, std::shared_ptr<KjInbox> inbox)
      : service_(service), inbox_(std::move(inbox)) {}

  kj::Promise<void> open(OpenContext context) override {
    absl::StatusOr<SessionSpec> spec = Get(context.getParams().getSpec());
    if (!spec.ok()) {
      Put(spec.status(), context.getResults().initStatus());
      return kj::READY_NOW;
    }
    auto [promise, reply] = PromiseReply<OpenResult>(inbox_);
    service_->Open(*spec, std::move(reply));
    return promise.then([context](const Boxed<OpenResult>& result) mutable {
      auto results = context.getResults();
      Put(result->status(), results.initStatus());
      if (!result->ok()) return;
      results.initResult().setSealRows((*result)->seal_rows);
      results.getResult().setMinIndexedRows((*result)->min_indexed_rows);
    });
  }

  kj::Promise<void> close(CloseContext context) override {
    const auto in = context.getParams();
    auto [promise, reply] = PromiseStatus(inbox_);
    service_->Close(OpOf(in), std::move(reply));
    return Finish(kj::mv(promise), context);
  }

  kj::Promise<void> fork(ForkContext context) override {
    const auto in = context.getParams();
    auto [promise, reply] = PromiseStatus(inbox_);
    const SessionRef child{{in.getChildHigh(), in.getChildLow()}, in.getChildEpoch()};
    service_->Fork({OpOf(in), in.getPosition(), child, in.getTtlSeconds()}, std::move(reply));
    return Finish(kj::mv(promise), context);
  }

  kj::Promise<void> truncate(TruncateContext context) override {
    const auto in = context.getParams();
    auto [promise, reply] = PromiseStatus(inbox_);
    service_->Truncate(OpOf(in), in.getPosition(), std::move(reply));
    return Finish(kj::mv(promise), context);
  }

  kj::Promise<void> adopt(AdoptContext context) override {
    const auto in = context.getParams();
    auto [promise, reply] = PromiseReply<SessionInfo>(inbox_);
    service_->Adopt({RefOf(in), in.getTenant(), in.getHolder()}, std::move(reply));
    return FinishInfo(kj::mv(promise), context);
  }

  kj::Promise<void> describe(DescribeContext context) override {
    const auto in = context.getParams();
    auto [promise, reply] = PromiseReply<SessionInfo>(inbox_);
    service_->Describe({RefOf(in), in.getTenant(), in.getKeepAlive()}, std::move(reply));
    return FinishInfo(kj::mv(promise), context);
  }

  kj::Promise<void> list(ListContext context) override {
    auto [promise, reply] = PromiseReply<std::vector<SessionInfo>>(inbox_);
    service_->List(std::move(reply));
    return promise.then([context](const Boxed<std::vector<SessionInfo>>& sessions) mutable {
      auto results = context.getResults();
      Put(sessions->status(), results.initStatus());
      if (!sessions->ok()) return;
      auto out = results.initSessions(static_cast<unsigned>((*sessions)->size()));
      for (unsigned i = 0; i < out.size(); ++i) Put((**sessions)[i], out[i]);
    });
  }

  kj::Promise<void> pin(PinContext context) override {
    const auto in = context.getParams();
    auto [promise, reply] = PromiseStatus(inbox_);
    service_->Pin({{in.getIdHigh(), in.getIdLow()}, in.getSeconds(), in.getSoft()},
                  std::move(reply));
    return Finish(kj::mv(promise), context);
  }

  kj::Promise<void> spill(SpillContext context) override {
    const auto in = context.getParams();
    auto [promise, reply] = PromiseStatus(inbox_);
    service_->Spill({in.getIdHigh(), in.getIdLow()}, std::move(reply));
    return Finish(kj::mv(promise), context);
  }

  kj::Promise<void> load(LoadContext context) override {
    const auto in = context.getParams();
    auto [promise, reply] = PromiseStatus(inbox_);
    service_->Load({in.getIdHigh(), in.getIdLow()}, std::move(reply));
    return Finish(kj::mv(promise), context);
  }

  kj::Promise<void> drain(DrainContext context) override {
    auto [promise, reply] = PromiseStatus(inbox_);
    service_->Drain(context.getParams().getOn(), std::move(reply));
    return Finish(kj::mv(promise), context);
  }

  kj::Promise<void> status(StatusContext context) override {
    auto [promise, reply] = PromiseReply<NodeStatus>(inbox_);
    service_->Status(std::move(reply));
    return promise.then([context](const Boxed<NodeStatus>& status) mutable {
      auto results = context.getResults();
      Put(status->status(), results.initStatus());
      if (status->ok()) Put(**status, results.initNode());
    });
  }

 private:
  template <typename Context>
  static kj::Promise<void> Finish(kj::Promise<Boxed<bool>> promise, Context context) {
    return promise.then([context](const Boxed<bool>& result) mutable {
      Put(result->status(), context.getResults().initStatus());
    });
  }

  template <typename Context>
  static kj::Promise<void> FinishInfo(kj::Promise<Boxed<SessionInfo>> promise, Context context) {
    return promise.then([context](const Boxed<SessionInfo>& info) mutable {
      auto results = context.getResults();
      Put(info->status(), results.initStatus());
      if (info->ok()) Put(**info, results.initInfo());
    });
  }

  ControlService* const service_;
  const std::shared_ptr<KjInbox> inbox_;  // shared with replies that may come late
};

std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

}  // namespace

ControlServer::ControlServer() : inbox_(std::make_shared<KjInbox>()) {}

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(const std::string& address,
                                                                    ControlService* service,
                                                                    const ControlLimits& limits) {
  if (const auto parsed = transport::ParseHostPort(address); !parsed.ok()) {
    return base::Annotate(parsed.status(), "cannot listen for control calls");
  }
  std::unique_ptr<ControlServer> server(new ControlServer());
  std::promise<absl::StatusOr<unsigned>> promise;  // moves to the thread, which may outlast us
  std::future<absl::StatusOr<unsigned>> port = promise.get_future();
  server->thread_ = std::thread([started = std::move(promise), inbox = server->inbox_, address,
                                 service, limits, server = server.get()]() mutable {
    bool reported = false;
    try {
      auto io = kj::setupAsyncIo();
      auto parsed = io.provider->getNetwork().parseAddress(address.c_str()).wait(io.waitScope);
      auto listener = parsed->listen();
      ControlConnections connections(io, kj::heap<NodeAdapter>(service, inbox), limits);
      server->connections_ = &connections;
      reported = true;
      started.set_value(listener->getPort());
      const auto accepting = connections.Accept(*listener).eagerlyEvaluate(nullptr);
      inbox->Serve(io);
    } catch (const kj::Exception& exception) {
      CHECK(!reported) << exception.getDescription().cStr();
      started.set_value(
          absl::UnavailableError(absl::StrCat("cannot listen on control address ", address, ": ",
                                              std::string(exception.getDescription().cStr()))));
    }
    inbox->Close();  // after the event loop, which still ends calls when it is destroyed
  });
  absl::StatusOr<unsigned> real_port = port.get();
  if (!real_port.ok()) {
    server->thread_.join();
    return real_port.status();
  }
  server->address_ = absl::StrCat(HostOf(address), ":", *real_port);
  return server;
}

bool ControlServer::WaitSent(base::Duration deadline) {
  const auto sent = std::make_shared<std::promise<void>>();  // may come after we have left
  std::future<void> done = sent->get_future();
  inbox_->Post([this, sent] { connections_->CallWhenSent([sent] { sent->set_value(); }); });
  return done.wait_for(deadline) == std::future_status::ready;
}

ControlServer::~ControlServer() {
  if (!thread_.joinable()) return;
  inbox_->Stop();
  thread_.join();
}

}  // namespace sounder::wire
