#include "tests/conformance/transport/world.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/thread_executor.h"
#include "common/base/virtual_executor.h"
#include "common/transport/faulty_transport.h"
#include "common/transport/loopback_transport.h"
#include "common/transport/ucx_transport.h"

namespace sounder::transport {
namespace {

constexpr auto kShortConnectTimeout = std::chrono::milliseconds(700);

class UcxWorld final : public World {
 public:
  explicit UcxWorld(std::string tls) {
    UcxOptions options;
    options.tls = std::move(tls);
    options.connect_timeout = kShortConnectTimeout;
    options.linger = std::chrono::milliseconds(300);
    engine_ = MakeUcxEngine(options);
  }
  ~UcxWorld() override {
    if (black_hole_ >= 0) ::close(black_hole_);
  }
  std::unique_ptr<Transport> NewTransport() override {
    return std::make_unique<UcxTransport>(engine_);
  }
  bool WaitFor(const std::function<bool()>& done) override { return pulse.WaitFor(done); }
  // The operating system accepts; nobody ever speaks.
  std::string BlackHole() override {
    black_hole_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    CHECK(::bind(black_hole_, generic, length) == 0);
    CHECK(::listen(black_hole_, 16) == 0);
    CHECK(::getsockname(black_hole_, generic, &length) == 0);
    return absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  }

 private:
  std::shared_ptr<UcxEngine> engine_;
  int black_hole_ = -1;
};

class LoopbackWorld : public World {
 public:
  explicit LoopbackWorld(std::unique_ptr<base::Executor> executor, bool faulty)
      : executor_(std::move(executor)),
        fabric_(executor_.get(), {.connect_timeout = kShortConnectTimeout}),
        faulty_(faulty) {}
  std::unique_ptr<Transport> NewTransport() override {
    auto inner = std::make_unique<LoopbackTransport>(&fabric_);
    if (!faulty_) return inner;
    return std::make_unique<FaultyTransport>(std::move(inner), executor_.get(), FaultOptions{},
                                             /*seed=*/1);
  }
  bool WaitFor(const std::function<bool()>& done) override { return pulse.WaitFor(done); }
  std::string BlackHole() override {
    swallower_ = std::make_unique<LoopbackTransport>(&fabric_);
    CHECK(swallower_->Start(&nobody_).ok());
    const std::string address = *swallower_->Listen(ListenAddress());
    fabric_.Freeze(address);
    return address;
  }

 protected:
  std::unique_ptr<base::Executor> executor_;

 private:
  LoopbackFabric fabric_;
  Recorder nobody_{&pulse};
  std::unique_ptr<LoopbackTransport> swallower_;
  const bool faulty_;
};

class VirtualWorld final : public LoopbackWorld {
 public:
  explicit VirtualWorld(bool faulty)
      : LoopbackWorld(std::make_unique<base::VirtualExecutor>(/*seed=*/7), faulty) {}
  bool WaitFor(const std::function<bool()>& done) override {
    return static_cast<base::VirtualExecutor*>(executor_.get())->RunUntil(done);
  }
};

}  // namespace

std::vector<WorldFactory> AllWorlds() {
  const auto threads = [](bool faulty) {
    return std::make_unique<LoopbackWorld>(std::make_unique<base::ThreadExecutor>(2, "world"),
                                           faulty);
  };
  return {
      {"loopback_threads", [=] { return threads(false); }},
      {"loopback_virtual", [] { return std::make_unique<VirtualWorld>(false); }},
      {"faulty_threads", [=] { return threads(true); }},
      {"faulty_virtual", [] { return std::make_unique<VirtualWorld>(true); }},
      {"ucx_tcp", [] { return std::make_unique<UcxWorld>("tcp"); }},
      {"ucx_shm", [] { return std::make_unique<UcxWorld>("shm"); }},
  };
}

}  // namespace sounder::transport
