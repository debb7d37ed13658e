#include "common/wire/control_client.h"

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/transport/address.h"
#include "common/wire/control_codec.h"
#include "common/wire/kj_inbox.h"

namespace sounder::wire {

// Runs calls on a kj event loop of its own. One call at a time; each is bounded by the deadline,
// which counts the wait for its turn and a second attempt.
class ControlClient::Loop {
 public:
  Loop(std::string address, base::Duration deadline)
      : address_(std::move(address)),
        malformed_(transport::ParseHostPort(address_).status()),
        deadline_(deadline) {
    thread_ = std::thread([this] {
      {
        auto io = kj::setupAsyncIo();
        auto calls = kj::heap<kj::TaskSet>(failure_);
        io_ = &io;
        calls_ = calls.get();
        inbox_.Serve(io);
        calls = nullptr;
        connection_ = nullptr;
      }
      inbox_.Close();
    });
  }

  ~Loop() {
    inbox_.Stop();
    thread_.join();
  }

  // Runs `call(client)` -> kj::Promise<T> on the loop and waits for its value. A connection that
  // was lost since the last call is made anew, once.
  template <typename T, typename Call>
  absl::StatusOr<T> Run(Call call) {
    if (!malformed_.ok()) return malformed_;
    const base::Time until = clock_.Now() + deadline_;
    const Turn turn(this, until);
    if (!turn.taken()) return Late();
    const bool reused = connection_ != nullptr;  // only the loop changes it, and it is idle now
    bool lost = false;
    absl::StatusOr<T> result = RunOnce<T>(call, until, &lost);
    if (reused && lost) result = RunOnce<T>(call, until, &lost);
    return result;
  }

 private:
  // The right to use the loop, waited for until `until` at most.
  class Turn {
   public:
    Turn(Loop* loop, base::Time until) : loop_(loop) {
      std::unique_lock lock(loop_->mutex_);
      taken_ = loop_->free_.wait_until(lock, until, [this] { return !loop_->busy_; });
      if (taken_) loop_->busy_ = true;
    }
    ~Turn() {
      if (!taken_) return;
      {
        std::lock_guard lock(loop_->mutex_);
        loop_->busy_ = false;
      }
      loop_->free_.notify_one();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    bool taken() const { return taken_; }

   private:
    Loop* const loop_;
    bool taken_ = false;
  };

  absl::Status Late() const {
    return absl::DeadlineExceededError(absl::StrCat("node ", address_,
                                                    " did not answer a control call within ",
                                                    deadline_.count() / 1000000, " ms"));
  }

  struct NoFailure final : kj::TaskSet::ErrorHandler {
    void taskFailed(kj::Exception&& exception) override {
      CHECK(false) << exception.getDescription().cStr();
    }
  };

  struct Connection {
    explicit Connection(kj::Own<kj::AsyncIoStream> opened)
        : stream(kj::mv(opened)), rpc(*stream), client(rpc.bootstrap().castAs<proto::Node>()) {}
    kj::Own<kj::AsyncIoStream> stream;
    capnp::TwoPartyClient rpc;
    proto::Node::Client client;
  };

  // How a call ended; written by the loop, read by the caller.
  template <typename T>
  struct Outcome {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;  // guarded by mutex; the rest is the loop's until then
    bool lost = false;
    absl::StatusOr<T> result = absl::UnknownError("no answer");
  };

  template <typename T, typename Call>
  absl::StatusOr<T> RunOnce(Call& call, base::Time until, bool* lost) {
    Outcome<T> outcome;
    inbox_.Post([this, &call, until, &outcome] {
      calls_->add(Ask(call, until, &outcome).then([&outcome] {
        std::lock_guard lock(outcome.mutex);
        outcome.done = true;
        outcome.changed.notify_all();
      }));
    });
    std::unique_lock lock(outcome.mutex);
    outcome.changed.wait(lock, [&outcome] { return outcome.done; });
    *lost = outcome.lost;
    return std::move(outcome.result);
  }

  // On the loop. Ends by `until`, never with an exception.
  template <typename T, typename Call>
  kj::Promise<void> Ask(Call& call, base::Time until, Outcome<T>* outcome) {
    const base::Duration left = std::max(until - clock_.Now(), base::Duration(0));
    auto timeout = io_->provider->getTimer()
                       .afterDelay(left.count() * kj::NANOSECONDS)
                       .then([this, outcome]() { outcome->result = Late(); });
    return kj::evalNow([this] { return Connected(); })
        .then([this, &call]() { return call(connection_->client); })
        .then([outcome](T value) { outcome->result = std::move(value); })
        .exclusiveJoin(kj::mv(timeout))
        .catch_([this, outcome](kj::Exception&& exception) {
          outcome->lost = exception.getType() == kj::Exception::Type::DISCONNECTED;
          outcome->result = absl::UnavailableError(
              absl::StrCat("node ", address_, " (control): ", exception.getDescription().cStr()));
        })
        .then([this, outcome]() {
          if (!outcome->result.ok()) connection_ = nullptr;
        });
  }

  kj::Promise<void> Connected() {
    if (connection_ != nullptr) return kj::READY_NOW;
    return io_->provider->getNetwork()
        .parseAddress(address_.c_str())
        .then([](kj::Own<kj::NetworkAddress> address) {
          auto connecting = address->connect();
          return connecting.attach(kj::mv(address));
        })
        .then([this](kj::Own<kj::AsyncIoStream> stream) {
          connection_ = std::make_unique<Connection>(kj::mv(stream));
        });
  }

  const std::string address_;
  const absl::Status malformed_;  // OK if the address can be one
  const base::Duration deadline_;
  const base::SteadyClock clock_;
  std::mutex mutex_;
  std::condition_variable free_;
  bool busy_ = false;  // guarded by mutex_
  NoFailure failure_;
  KjInbox inbox_;
  // The loop's; between calls the holder of the turn may look.
  kj::AsyncIoContext* io_ = nullptr;
  kj::TaskSet* calls_ = nullptr;
  std::unique_ptr<Connection> connection_;
  std::thread thread_;
};

namespace {

template <typename Response>
absl::StatusOr<bool> StatusOnly(Response& response) {
  const absl::Status status = Get(response.getStatus());
  if (!status.ok()) return status;
  return true;
}

template <typename Response>
absl::StatusOr<SessionInfo> InfoOf(Response& response) {
  const absl::Status status = Get(response.getStatus());
  if (!status.ok()) return status;
  return Get(response.getInfo());
}

// Names the node in an answer's error.
absl::Status Named(const std::string& address, const absl::Status& status) {
  const std::string message = base::MessageOf(status);
  if (status.ok() || message.find(address) != std::string::npos) return status;
  return base::Annotate(status, "node " + address);
}

void PutRef(auto& request, const base::SessionId& id) {
  request.setIdHigh(id.high);
  request.setIdLow(id.low);
}

void PutHolder(auto& request, const SessionRef& session, uint32_t tenant) {
  PutRef(request, session.id);
  request.setEpoch(session.epoch);
  request.setTenant(tenant);
}

void PutOp(auto& request, const SessionOp& op) {
  PutHolder(request, op.session, op.tenant);
  request.setSequence(op.sequence);
}

// The body of a call whose answer is a status alone; `fill` fills the request.
template <typename Fill>
auto StatusCall(Fill fill) {
  return [fill](proto::Node::Client& client) {
    auto request = fill(client);
    return request.send().then([](auto response) { return StatusOnly(response); });
  };
}

template <typename T>
absl::StatusOr<T> Flatten(const std::string& address, absl::StatusOr<absl::StatusOr<T>> nested) {
  if (!nested.ok()) return Named(address, nested.status());
  if (!nested->ok()) return Named(address, nested->status());
  return *std::move(*nested);
}

absl::Status FlattenStatus(const std::string& address,
                           absl::StatusOr<absl::StatusOr<bool>> nested) {
  return Flatten(address, std::move(nested)).status();
}

}  // namespace

ControlClient::ControlClient(std::string address, base::Duration deadline)
    : address_(address), loop_(std::make_unique<Loop>(std::move(address), deadline)) {}

ControlClient::~ControlClient() = default;

absl::StatusOr<OpenResult> ControlClient::Open(const SessionSpec& spec) {
  using Result = absl::StatusOr<OpenResult>;
  return Flatten(address_, loop_->Run<Result>([&spec](proto::Node::Client& client) {
    auto request = client.openRequest();
    Put(spec, request.initSpec());
    return request.send().then([](auto response) -> Result {
      const absl::Status status = Get(response.getStatus());
      if (!status.ok()) return status;
      return OpenResult{response.getResult().getSealRows(),
                        response.getResult().getMinIndexedRows()};
    });
  }));
}

absl::Status ControlClient::Close(const SessionOp& op) {
  return FlattenStatus(
      address_, loop_->Run<absl::StatusOr<bool>>(StatusCall([&op](proto::Node::Client& client) {
        auto request = client.closeRequest();
        PutOp(request, op);
        return request;
      })));
}

absl::Status ControlClient::Fork(const ForkCall& call) {
  return FlattenStatus(
      address_, loop_->Run<absl::StatusOr<bool>>(StatusCall([&call](proto::Node::Client& client) {
        auto request = client.forkRequest();
        PutOp(request, call.op);
        request.setPosition(call.position);
        request.setChildHigh(call.child.id.high);
        request.setChildLow(call.child.id.low);
        request.setChildEpoch(call.child.epoch);
        request.setTtlSeconds(call.ttl_seconds);
        return request;
      })));
}

absl::Status ControlClient::Truncate(const SessionOp& op, base::Position position) {
  return FlattenStatus(
      address_, loop_->Run<absl::StatusOr<bool>>(StatusCall([&](proto::Node::Client& client) {
        auto request = client.truncateRequest();
        PutOp(request, op);
        request.setPosition(position);
        return request;
      })));
}

absl::StatusOr<SessionInfo> ControlClient::Adopt(const AdoptCall& call) {
  using Result = absl::StatusOr<SessionInfo>;
  return Flatten(address_, loop_->Run<Result>([&call](proto::Node::Client& client) {
    auto request = client.adoptRequest();
    PutHolder(request, call.session, call.tenant);
    request.setHolder(call.holder);
    return request.send().then([](auto response) { return InfoOf(response); });
  }));
}

absl::StatusOr<SessionInfo> ControlClient::Describe(const DescribeCall& call) {
  using Result = absl::StatusOr<SessionInfo>;
  return Flatten(address_, loop_->Run<Result>([&call](proto::Node::Client& client) {
    auto request = client.describeRequest();
    PutHolder(request, call.session, call.tenant);
    request.setKeepAlive(call.keep_alive);
    return request.send().then([](auto response) { return InfoOf(response); });
  }));
}

absl::StatusOr<std::vector<SessionInfo>> ControlClient::List() {
  using Result = absl::StatusOr<std::vector<SessionInfo>>;
  return Flatten(address_, loop_->Run<Result>([](proto::Node::Client& client) {
    return client.listRequest().send().then([](auto response) -> Result {
      const absl::Status status = Get(response.getStatus());
      if (!status.ok()) return status;
      std::vector<SessionInfo> sessions;
      for (const auto info : response.getSessions()) {
        absl::StatusOr<SessionInfo> session = Get(info);
        if (!session.ok()) return session.status();
        sessions.push_back(*std::move(session));
      }
      return sessions;
    });
  }));
}

absl::Status ControlClient::Pin(const PinCall& call) {
  return FlattenStatus(
      address_, loop_->Run<absl::StatusOr<bool>>(StatusCall([&](proto::Node::Client& client) {
        auto request = client.pinRequest();
        PutRef(request, call.session);
        request.setSeconds(call.seconds);
        request.setSoft(call.soft);
        return request;
      })));
}

absl::Status ControlClient::Spill(const base::SessionId& session) {
  return FlattenStatus(
      address_, loop_->Run<absl::StatusOr<bool>>(StatusCall([&](proto::Node::Client& client) {
        auto request = client.spillRequest();
        PutRef(request, session);
        return request;
      })));
}

absl::Status ControlClient::Load(const base::SessionId& session) {
  return FlattenStatus(
      address_, loop_->Run<absl::StatusOr<bool>>(StatusCall([&](proto::Node::Client& client) {
        auto request = client.loadRequest();
        PutRef(request, session);
        return request;
      })));
}

absl::Status ControlClient::Drain(bool on) {
  return FlattenStatus(
      address_, loop_->Run<absl::StatusOr<bool>>(StatusCall([on](proto::Node::Client& client) {
        auto request = client.drainRequest();
        request.setOn(on);
        return request;
      })));
}

absl::StatusOr<NodeStatus> ControlClient::Status() {
  using Result = absl::StatusOr<NodeStatus>;
  return Flatten(address_, loop_->Run<Result>([](proto::Node::Client& client) {
    return client.statusRequest().send().then([](auto response) -> Result {
      const absl::Status status = Get(response.getStatus());
      if (!status.ok()) return status;
      return Get(response.getNode());
    });
  }));
}

}  // namespace sounder::wire
