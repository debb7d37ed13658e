// `sounderctl status` where something of a node cannot be had. (What it shows of nodes that are
// well is in tests/e2e/operations_test.cc.)
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/wire/control_server.h"
#include "tests/cli/run_ctl.h"
#include "tests/common/wire/fake_service.h"

namespace sounder::cli {
namespace {

using testing::HasSubstr;

constexpr int kUnavailable = 4;

class WithoutList final : public wire::FakeService {
 public:
  void List(wire::Reply<std::vector<wire::SessionInfo>> reply) override {
    reply(absl::InternalError("no list today"));
  }
};

// Nodes with a control plane only; what they say of their data plane is not true.
class StatusCommandTest : public testing::Test {
 protected:
  Outcome Status(wire::FakeService& service, const std::string& arguments) {
    service.node.version = "0.1.0";
    service.node.data_address = "0.0.0.0:1";
    const auto server = wire::ControlServer::Start("127.0.0.1:0", &service);
    EXPECT_TRUE(server.ok()) << server.status();
    address_ = (*server)->address();
    return RunCtl("status --nodes " + address_ + " --deadline 2s " + arguments);
  }
  std::string address_;
};

TEST_F(StatusCommandTest, ADataPlaneThatIsNotThereIsAnError) {
  wire::FakeService service;
  const Outcome run = Status(service, "--ucx-tls tcp");
  EXPECT_EQ(run.status, kUnavailable) << run.err;
  EXPECT_THAT(run.err, HasSubstr("node " + address_ + ": its data plane: "));
  EXPECT_THAT(run.err, HasSubstr("127.0.0.1:1")) << "where we tried, not 0.0.0.0";
  EXPECT_THAT(run.out, HasSubstr("0.1.0")) << "what is known is shown all the same";
}

TEST_F(StatusCommandTest, TransportsThatDoNotExistAreAnError) {
  wire::FakeService service;
  const Outcome run = Status(service, "--ucx-tls carrier_pigeon");
  EXPECT_EQ(run.status, kUnavailable) << run.err;
  EXPECT_THAT(run.err, HasSubstr("--ucx-tls"));
  EXPECT_THAT(run.err, HasSubstr("carrier_pigeon"));
}

TEST_F(StatusCommandTest, SessionsThatCannotBeListedAreNotNone) {
  WithoutList service;
  const Outcome run = Status(service, "--ucx-tls tcp --sessions --json");
  EXPECT_EQ(run.status, kUnavailable) << run.err;
  EXPECT_THAT(run.err, HasSubstr("listing its sessions: "));
  EXPECT_THAT(run.err, HasSubstr("no list today"));
  const auto json = nlohmann::json::parse(run.out);
  EXPECT_THAT(json[0]["session_list_error"].get<std::string>(), HasSubstr("no list today"));
  EXPECT_FALSE(json[0].contains("session_list"));
}

}  // namespace
}  // namespace sounder::cli
