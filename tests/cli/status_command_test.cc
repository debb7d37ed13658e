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

class ThreeSessions final : public wire::FakeService {
 public:
  void List(wire::Reply<std::vector<wire::SessionInfo>> reply) override {
    std::vector<wire::SessionInfo> sessions(3);
    for (wire::SessionInfo& session : sessions) {
      session.spec.session.id = {1, 1};
      session.spec.model = {"m", "", 1, 1, 1, 8, "", ""};
      session.spec.kv_head_count = 1;
    }
    sessions[1].spec.lsh = {10, 150, 2, wire::Projection::kHadamard, 1};
    sessions[2].spec.sketch = {128, 1};
    sessions[2].spec.row_format = wire::RowFormat::kInt8;
    sessions[2].parent = {7, 8};
    sessions[2].fork_position = 4096;
    sessions[2].shared_bytes = 123456;
    reply(sessions);
  }
};

TEST_F(StatusCommandTest, WhatAForkSharesIsShown) {
  ThreeSessions service;
  const Outcome text = Status(service, "--ucx-tls tcp --sessions");
  const std::string parent = base::SessionId{7, 8}.ToString();
  EXPECT_THAT(text.out, HasSubstr(parent + " at 4096"));
  EXPECT_THAT(text.out, HasSubstr("123456"));
  const auto json = nlohmann::json::parse(Status(service, "--ucx-tls tcp --sessions --json").out);
  const auto& sessions = json[0].at("session_list");
  EXPECT_EQ(sessions[2].at("parent"), parent);
  EXPECT_EQ(sessions[2].at("fork_position"), 4096);
  EXPECT_EQ(sessions[2].at("shared_bytes"), 123456);
  EXPECT_EQ(sessions[0].at("shared_bytes"), 0);
  EXPECT_FALSE(sessions[0].contains("parent"));
}

TEST_F(StatusCommandTest, TheIndexOfASessionIsShown) {
  ThreeSessions service;
  const Outcome text = Status(service, "--ucx-tls tcp --sessions");
  EXPECT_THAT(text.out, HasSubstr("lsh 150 x 10 bits"));
  const auto json = nlohmann::json::parse(Status(service, "--ucx-tls tcp --sessions --json").out);
  const auto& sessions = json[0].at("session_list");
  EXPECT_EQ(sessions[0].at("index"), "none");
  EXPECT_EQ(sessions[1].at("index"), "lsh 150 x 10 bits");
  EXPECT_EQ(sessions[2].at("index"), "sketch 128 bits, int8 rows");
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
