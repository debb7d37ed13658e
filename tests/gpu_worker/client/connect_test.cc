// What Connect says of nodes that are not there, or not of our kind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/config/version.h"
#include "common/wire/control_server.h"
#include "gpu_worker/client/client_access.h"
#include "tests/common/wire/fake_service.h"

namespace sounder::client {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

Status ConnectTo(std::vector<std::string> nodes, std::unique_ptr<Client>* client,
                 milliseconds deadline = milliseconds(2000)) {
  ClientOptions options;
  options.nodes = std::move(nodes);
  options.deadline = deadline;
  return Client::Connect(options, client);
}

TEST(ConnectTest, NamesWhatIsWrong) {
  std::unique_ptr<Client> client;
  Status status = ConnectTo({}, &client);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("no nodes"));

  status = ConnectTo({"127.0.0.1"}, &client);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("127.0.0.1"));

  status = ConnectTo({"127.0.0.1:1"}, &client, milliseconds(0));
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("deadline 0"));

  status = ConnectTo({"127.0.0.1:1"}, &client);  // where nobody listens
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("127.0.0.1:1"));
  EXPECT_EQ(client, nullptr);
}

TEST(ConnectTest, AnotherProtocolVersionIsRefused) {
  wire::FakeService old;
  old.node.protocol_version = 77;
  const auto server = wire::ControlServer::Start("127.0.0.1:0", &old);
  ASSERT_TRUE(server.ok()) << server.status();
  std::unique_ptr<Client> client;
  const Status status = ConnectTo({(*server)->address()}, &client);
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_THAT(status.message(), AllOf(HasSubstr((*server)->address()), HasSubstr("version 77")));
  EXPECT_EQ(client, nullptr);
}

TEST(ConnectTest, ASilentNodeCostsTheDeadline) {
  wire::FakeService silent(wire::FakeService::Mode::kHold);
  const auto server = wire::ControlServer::Start("127.0.0.1:0", &silent);
  ASSERT_TRUE(server.ok()) << server.status();
  std::unique_ptr<Client> client;
  const Status status = ConnectTo({(*server)->address()}, &client, milliseconds(50));
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
  EXPECT_THAT(status.message(), HasSubstr((*server)->address()));
}

// They are written down twice, for people and for compilers that do not know Abseil.
TEST(StatusTest, CodesAreThoseOfAbseil) {
  const std::pair<Code, absl::StatusCode> codes[] = {
      {Code::kOk, absl::StatusCode::kOk},
      {Code::kCancelled, absl::StatusCode::kCancelled},
      {Code::kUnknown, absl::StatusCode::kUnknown},
      {Code::kInvalidArgument, absl::StatusCode::kInvalidArgument},
      {Code::kDeadlineExceeded, absl::StatusCode::kDeadlineExceeded},
      {Code::kNotFound, absl::StatusCode::kNotFound},
      {Code::kAlreadyExists, absl::StatusCode::kAlreadyExists},
      {Code::kPermissionDenied, absl::StatusCode::kPermissionDenied},
      {Code::kResourceExhausted, absl::StatusCode::kResourceExhausted},
      {Code::kFailedPrecondition, absl::StatusCode::kFailedPrecondition},
      {Code::kAborted, absl::StatusCode::kAborted},
      {Code::kOutOfRange, absl::StatusCode::kOutOfRange},
      {Code::kUnimplemented, absl::StatusCode::kUnimplemented},
      {Code::kInternal, absl::StatusCode::kInternal},
      {Code::kUnavailable, absl::StatusCode::kUnavailable},
      {Code::kDataLoss, absl::StatusCode::kDataLoss},
      {Code::kUnauthenticated, absl::StatusCode::kUnauthenticated},
  };
  for (const auto& [code, theirs] : codes) {
    EXPECT_EQ(gpu_worker::ToPublic(absl::Status(theirs, "x")).code(), code) << theirs;
  }
  EXPECT_EQ(Version(), config::Version());
}

}  // namespace
}  // namespace sounder::client
