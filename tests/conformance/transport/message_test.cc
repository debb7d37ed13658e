// What every transport promises of messages (common/transport/transport.h, promises 1 to 3).
#include <atomic>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

#include "common/base/limits.h"
#include "tests/conformance/transport/conversation.h"

namespace sounder::transport {
namespace {

class MessageTest : public Conversation {};

INSTANTIATE_TEST_SUITE_P(All, MessageTest, testing::ValuesIn(AllWorlds()), WorldName);

constexpr SendMode kModes[] = {SendMode::kAuto, SendMode::kEager, SendMode::kRendezvous};
constexpr size_t kSizes[] = {0, 1, 63, 8192, 8193, 65536, 1 << 20, 9 << 20};

TEST_P(MessageTest, EverySizeAndModeArrivesUnchangedBothWays) {
  std::atomic<SendMode> echo_mode = SendMode::kAuto;
  server_events_->on_message = [&](ConnectionId connection, Message& message) {
    server_->Send(connection,
                  {message.header, memory::AlignedBuffer::CopyOf(message.payload.bytes())},
                  echo_mode, nullptr);
  };
  Start();
  const auto connection = client_->Connect(address_);
  ASSERT_TRUE(connection.ok());
  uint32_t seed = 0;
  for (const SendMode mode : kModes) {
    echo_mode = mode;
    for (const size_t bytes : kSizes) {
      ++seed;
      const size_t header_bytes = seed * 73 % (base::kMaxHeaderBytes + 1);
      client_->Send(*connection, PatternMessage(header_bytes, bytes, seed), mode,
                    client_events_->Done());
      ASSERT_TRUE(world_->WaitFor([&] {
        return client_events_->message_count() == seed && server_events_->message_count() == seed;
      })) << bytes;
      const auto at_server = server_events_->TakeMessages();
      const auto at_client = client_events_->TakeMessages();
      ASSERT_EQ(at_server.size(), 1u);
      ASSERT_EQ(at_client.size(), 1u);
      EXPECT_EQ(ComparePattern(at_server[0].second, header_bytes, bytes, seed), "");
      EXPECT_EQ(ComparePattern(at_client[0].second, header_bytes, bytes, seed), "");
      EXPECT_EQ(at_client[0].first, *connection);
    }
  }
  EXPECT_TRUE(world_->WaitFor([&] { return client_events_->done_ok_count() == seed; }));
}

TEST_P(MessageTest, NothingIsLostWhileASideRests) {
  constexpr size_t kMessages = 50;
  server_events_->on_message = [&](ConnectionId connection, Message& message) {
    server_->Rest(std::chrono::milliseconds(2));
    server_->Send(connection, {message.header, memory::AlignedBuffer()}, SendMode::kEager, nullptr);
  };
  Start();
  const auto connection = client_->Connect(address_);
  ASSERT_TRUE(connection.ok());
  for (size_t i = 0; i < kMessages; ++i) {
    client_->Send(*connection, PatternMessage(16, 100, static_cast<uint32_t>(i)), SendMode::kAuto,
                  client_events_->Done());
  }
  EXPECT_TRUE(world_->WaitFor([&] { return client_events_->message_count() == kMessages; }));
}

// The first bytes of the header say which mode the message had and its number in that mode.
struct Label {
  uint32_t sender;
  uint32_t mode;
  uint32_t number;
};

Message LabelledMessage(const Label& label, size_t bytes) {
  Message message = PatternMessage(sizeof(label), bytes, label.number);
  std::memcpy(message.header.data(), &label, sizeof(label));
  return message;
}

// Messages of one mode are in order; all of them arrived; payloads are whole.
void ExpectInOrder(const std::vector<std::pair<ConnectionId, Message>>& messages, size_t expected) {
  std::map<std::pair<uint32_t, uint32_t>, uint32_t> next;
  for (const auto& [connection, message] : messages) {
    Label label;
    ASSERT_EQ(message.header.size(), sizeof(label));
    std::memcpy(&label, message.header.data(), sizeof(label));
    EXPECT_EQ(label.number, (next[{label.sender, label.mode}]++));
    Message body{PatternHeader(0, 0), memory::AlignedBuffer::CopyOf(message.payload.bytes())};
    EXPECT_EQ(ComparePattern(body, 0, message.payload.size(), label.number), "");
  }
  EXPECT_EQ(messages.size(), expected);
}

TEST_P(MessageTest, MessagesOfOneModeArriveInOrder) {
  Start();
  const auto connection = client_->Connect(address_);
  ASSERT_TRUE(connection.ok());
  // Sizes around the borders of eager and rendezvous, large before small.
  constexpr size_t kMixed[] = {3 << 20, 10, 200 << 10, 0, 70 << 10, 9000, 1 << 20, 131072, 131071};
  constexpr uint32_t kRounds = 27;
  for (uint32_t i = 0; i < kRounds; ++i) {
    for (const SendMode mode : kModes) {
      client_->Send(*connection,
                    LabelledMessage({0, static_cast<uint32_t>(mode), i}, kMixed[i % 9]), mode,
                    client_events_->Done());
    }
  }
  const size_t expected = kRounds * 3;
  ASSERT_TRUE(world_->WaitFor([&] {
    return server_events_->message_count() == expected &&
           client_events_->done_ok_count() == static_cast<int64_t>(expected);
  }));
  ExpectInOrder(server_events_->TakeMessages(), expected);
}

TEST_P(MessageTest, MessagesSentWhileConnectingArrive) {
  Start();
  const auto connection = client_->Connect(address_);
  ASSERT_TRUE(connection.ok());
  for (uint32_t i = 0; i < 50; ++i) {
    client_->Send(*connection, LabelledMessage({0, 0, i}, i * 1000), SendMode::kAuto, nullptr);
  }
  ASSERT_TRUE(world_->WaitFor([&] { return server_events_->message_count() == 50; }));
  ExpectInOrder(server_events_->TakeMessages(), 50);
  EXPECT_EQ(server_events_->accepted().size(), 1u);
}

TEST_P(MessageTest, ManyConnectionsKeepApart) {
  EchoOnServer();
  Start();
  constexpr uint32_t kConnections = 24;
  std::map<ConnectionId, uint32_t> seed_of;
  for (uint32_t i = 0; i < kConnections; ++i) {
    const auto connection = client_->Connect(address_);
    ASSERT_TRUE(connection.ok());
    ASSERT_TRUE(seed_of.emplace(*connection, 1000 + i).second) << "an id was used twice";
  }
  for (const auto& [connection, seed] : seed_of) {
    client_->Send(connection, PatternMessage(8, 5000 + seed, seed), SendMode::kAuto, nullptr);
  }
  ASSERT_TRUE(world_->WaitFor([&] { return client_events_->message_count() == kConnections; }));
  for (const auto& [connection, message] : client_events_->TakeMessages()) {
    const uint32_t seed = seed_of.at(connection);
    EXPECT_EQ(ComparePattern(message, 8, 5000 + seed, seed), "");
  }
  EXPECT_EQ(server_events_->accepted().size(), kConnections);
}

TEST_P(MessageTest, ManyThreadsMaySendOnOneConnection) {
  if (GetParam().name.ends_with("virtual")) GTEST_SKIP() << "one thread by definition";
  EchoOnServer();
  Start();
  const auto connection = client_->Connect(address_);
  ASSERT_TRUE(connection.ok());
  constexpr uint32_t kThreads = 4;
  constexpr uint32_t kEach = 150;
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (uint32_t i = 0; i < kEach; ++i) {
        client_->Send(*connection, LabelledMessage({t, 0, i}, (t * 7919 + i * 104729) % 20000),
                      SendMode::kEager, client_events_->Done());
        if (i % 50 == 0) (void)client_->Describe(*connection);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  constexpr size_t kAll = kThreads * kEach;
  ASSERT_TRUE(world_->WaitFor([&] {
    return client_events_->message_count() == kAll && client_events_->done_ok_count() == kAll;
  }));
  ExpectInOrder(server_events_->TakeMessages(), kAll);
  ExpectInOrder(client_events_->TakeMessages(), kAll);
}

TEST_P(MessageTest, AMachineMayConnectToItself) {
  Start();
  const auto connection = server_->Connect(address_);
  ASSERT_TRUE(connection.ok());
  server_->Send(*connection, PatternMessage(3, 100000, 5), SendMode::kAuto, nullptr);
  ASSERT_TRUE(world_->WaitFor([&] { return server_events_->message_count() == 1; }));
  const auto messages = server_events_->TakeMessages();
  EXPECT_NE(messages[0].first, *connection);
  EXPECT_EQ(ComparePattern(messages[0].second, 3, 100000, 5), "");
  server_->Close(*connection);
  EXPECT_TRUE(world_->WaitFor([&] { return server_events_->closed_count() == 2; }));
  server_.reset();
  // The base class expects one OnClosed per accepted connection; this machine was both sides.
  server_events_ = std::make_unique<Recorder>(&world_->pulse);
}

TEST_P(MessageTest, TooLargeMessagesAreRefusedAndTheConnectionLives) {
  EchoOnServer();
  Start();
  const auto connection = client_->Connect(address_);
  ASSERT_TRUE(connection.ok());
  std::vector<absl::Status> statuses;
  std::mutex mutex;
  const auto done = [&](const absl::Status& status) {
    {
      const std::lock_guard lock(mutex);
      statuses.push_back(status);
    }
    world_->pulse.Beat();
  };
  client_->Send(*connection, PatternMessage(base::kMaxHeaderBytes + 1, 10, 1), SendMode::kAuto,
                done);
  client_->Send(*connection, {{}, memory::AlignedBuffer(base::kMaxPayloadBytes + 1)},
                SendMode::kAuto, done);
  client_->Send(*connection, PatternMessage(base::kMaxHeaderBytes, 10, 1), SendMode::kAuto, done);
  ASSERT_TRUE(world_->WaitFor([&] {
    const std::lock_guard lock(mutex);
    return client_events_->message_count() == 1 && statuses.size() == 3;
  }));
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kInvalidArgument) << statuses[0];
  EXPECT_EQ(statuses[1].code(), absl::StatusCode::kInvalidArgument) << statuses[1];
  EXPECT_TRUE(statuses[2].ok()) << statuses[2];
}

TEST_P(MessageTest, DescribeNamesPeerAndTransport) {
  Start();
  ConnectionId at_client, at_server;
  ASSERT_NO_FATAL_FAILURE(ConnectAndGreet(&at_client, &at_server));
  const auto info = client_->Describe(at_client);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->peer, address_);
  const std::string world = GetParam().name;
  const std::string expected = world == "ucx_tcp"   ? "tcp/"
                               : world == "ucx_shm" ? "posix/"
                                                    : "loopback";
  EXPECT_EQ(info->transport.substr(0, expected.size()), expected) << info->detail;
  const auto accepted_info = server_->Describe(at_server);
  ASSERT_TRUE(accepted_info.ok()) << accepted_info.status();
  EXPECT_FALSE(accepted_info->peer.empty());
  EXPECT_EQ(accepted_info->transport, info->transport);
  EXPECT_EQ(client_->Describe(at_client + 1000).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace sounder::transport
