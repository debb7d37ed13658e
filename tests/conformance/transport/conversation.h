// The fixture of the conformance suite: a world with a server and a client in it, and after every
// test the promises that can be checked at any time.
#ifndef SOUNDER_TESTS_CONFORMANCE_TRANSPORT_CONVERSATION_H_
#define SOUNDER_TESTS_CONFORMANCE_TRANSPORT_CONVERSATION_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/conformance/transport/world.h"

namespace sounder::transport {

class Conversation : public testing::TestWithParam<WorldFactory> {
 protected:
  void SetUp() override {
    world_ = GetParam().make();
    server_events_ = std::make_unique<Recorder>(&world_->pulse);
    client_events_ = std::make_unique<Recorder>(&world_->pulse);
    server_ = world_->NewTransport();
    client_ = world_->NewTransport();
  }

  void Start() {
    ASSERT_TRUE(server_->Start(server_events_.get()).ok());
    ASSERT_TRUE(client_->Start(client_events_.get()).ok());
    const auto listening = server_->Listen(world_->ListenAddress());
    ASSERT_TRUE(listening.ok()) << listening.status();
    address_ = *listening;
  }

  // Every message comes back as it is. Before Start.
  void EchoOnServer() {
    // Not through server_, which is null while it is being reset and still calls back.
    Transport* const server = server_.get();
    server_events_->on_message = [server](ConnectionId connection, Message& message) {
      server->Send(connection,
                   {message.header, memory::AlignedBuffer::CopyOf(message.payload.bytes())},
                   SendMode::kAuto, nullptr);
    };
  }

  // A connection on which both sides have heard each other.
  void ConnectAndGreet(ConnectionId* client_id, ConnectionId* server_id) {
    const size_t accepted = server_events_->accepted().size();
    const size_t messages = server_events_->message_count();
    const auto connected = client_->Connect(address_);
    ASSERT_TRUE(connected.ok()) << connected.status();
    client_->Send(*connected, PatternMessage(1, 0, 0), SendMode::kEager, nullptr);
    ASSERT_TRUE(world_->WaitFor([&] { return server_events_->message_count() > messages; }));
    *client_id = *connected;
    ASSERT_EQ(server_events_->accepted().size(), accepted + 1);
    *server_id = server_events_->accepted().back();
    server_events_->TakeMessages();
    if (server_events_->on_message != nullptr) return;
    const size_t answers = client_events_->message_count();
    server_->Send(*server_id, PatternMessage(1, 0, 0), SendMode::kEager, nullptr);
    ASSERT_TRUE(world_->WaitFor([&] { return client_events_->message_count() > answers; }));
    client_events_->TakeMessages();
  }

  void TearDown() override {
    client_.reset();
    server_.reset();
    EXPECT_EQ(client_events_->Violations(), "");
    EXPECT_EQ(server_events_->Violations(), "");
    EXPECT_EQ(client_events_->done_count(), client_events_->done_asked());
    EXPECT_EQ(server_events_->done_count(), server_events_->done_asked());
    EXPECT_EQ(server_events_->closed_count(), server_events_->accepted().size());
  }

  std::unique_ptr<World> world_;
  std::unique_ptr<Recorder> server_events_, client_events_;
  std::unique_ptr<Transport> server_, client_;
  std::string address_;
};

inline std::string WorldName(const testing::TestParamInfo<WorldFactory>& param) {
  return param.param.name;
}

}  // namespace sounder::transport

#endif  // SOUNDER_TESTS_CONFORMANCE_TRANSPORT_CONVERSATION_H_
