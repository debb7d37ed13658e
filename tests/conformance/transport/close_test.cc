// How connections begin and end on every transport (common/transport/transport.h, promises 2 to 5).
#include <mutex>
#include <thread>
#include <vector>

#include "tests/conformance/transport/conversation.h"

namespace sounder::transport {
namespace {

class CloseTest : public Conversation {};

INSTANTIATE_TEST_SUITE_P(All, CloseTest, testing::ValuesIn(AllWorlds()), WorldName);

TEST_P(CloseTest, GoodbyeIsOkOnBothSides) {
  Start();
  ConnectionId at_client, at_server;
  ASSERT_NO_FATAL_FAILURE(ConnectAndGreet(&at_client, &at_server));
  client_->Close(at_client);
  ASSERT_TRUE(world_->WaitFor(
      [&] { return client_events_->IsClosed(at_client) && server_events_->IsClosed(at_server); }));
  EXPECT_TRUE(client_events_->CloseReason(at_client).ok())
      << client_events_->CloseReason(at_client);
  EXPECT_TRUE(server_events_->CloseReason(at_server).ok())
      << server_events_->CloseReason(at_server);
  EXPECT_EQ(client_->Describe(at_client).status().code(), absl::StatusCode::kNotFound);
}

TEST_P(CloseTest, TheAcceptingSideMayClose) {
  Start();
  ConnectionId at_client, at_server;
  ASSERT_NO_FATAL_FAILURE(ConnectAndGreet(&at_client, &at_server));
  server_->Close(at_server);
  ASSERT_TRUE(world_->WaitFor(
      [&] { return client_events_->IsClosed(at_client) && server_events_->IsClosed(at_server); }));
  EXPECT_TRUE(client_events_->CloseReason(at_client).ok());
  EXPECT_TRUE(server_events_->CloseReason(at_server).ok());
}

TEST_P(CloseTest, BothMayCloseAtOnceAndTwice) {
  Start();
  for (int round = 0; round < 5; ++round) {
    ConnectionId at_client, at_server;
    ASSERT_NO_FATAL_FAILURE(ConnectAndGreet(&at_client, &at_server));
    server_->Close(at_server);
    client_->Close(at_client);
    client_->Close(at_client);
    server_->Close(at_server);
    ASSERT_TRUE(world_->WaitFor([&] {
      return client_events_->IsClosed(at_client) && server_events_->IsClosed(at_server);
    }));
    EXPECT_TRUE(client_events_->CloseReason(at_client).ok());
    EXPECT_TRUE(server_events_->CloseReason(at_server).ok());
    client_->Close(at_client);
  }
  client_->Close(987654);  // never existed
}

TEST_P(CloseTest, WhatWasSentBeforeCloseArrivesBeforeGoodbye) {
  Start();
  ConnectionId at_client, at_server;
  ASSERT_NO_FATAL_FAILURE(ConnectAndGreet(&at_client, &at_server));
  constexpr uint32_t kMessages = 12;
  for (uint32_t i = 0; i < kMessages; ++i) {
    const SendMode mode = i % 2 == 0 ? SendMode::kEager : SendMode::kRendezvous;
    client_->Send(at_client, PatternMessage(4, 30000 + i, i), mode, client_events_->Done());
  }
  client_->Close(at_client);
  ASSERT_TRUE(world_->WaitFor(
      [&] { return client_events_->IsClosed(at_client) && server_events_->IsClosed(at_server); }));
  EXPECT_TRUE(server_events_->CloseReason(at_server).ok());
  EXPECT_EQ(server_events_->message_count(), 1 + kMessages);  // the greeting and these
  EXPECT_EQ(client_events_->done_count(), kMessages);
}

TEST_P(CloseTest, SendsOnAClosedConnectionFail) {
  Start();
  ConnectionId at_client, at_server;
  ASSERT_NO_FATAL_FAILURE(ConnectAndGreet(&at_client, &at_server));
  client_->Close(at_client);
  ASSERT_TRUE(world_->WaitFor(
      [&] { return client_events_->IsClosed(at_client) && server_events_->IsClosed(at_server); }));
  std::mutex mutex;
  std::vector<absl::Status> statuses;
  for (const ConnectionId connection : {at_client, ConnectionId{0}, ConnectionId{123456}}) {
    client_->Send(connection, PatternMessage(4, 100, 1), SendMode::kAuto,
                  [&](const absl::Status& status) {
                    {
                      const std::lock_guard lock(mutex);
                      statuses.push_back(status);
                    }
                    world_->pulse.Beat();
                  });
    client_->Send(connection, PatternMessage(4, 100, 1), SendMode::kAuto, nullptr);
  }
  ASSERT_TRUE(world_->WaitFor([&] {
    const std::lock_guard lock(mutex);
    return statuses.size() == 3;
  }));
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  }
}

TEST_P(CloseTest, CloseEndsEverySendInFlight) {
  Start();
  for (int round = 0; round < 4; ++round) {
    ConnectionId at_client, at_server;
    ASSERT_NO_FATAL_FAILURE(ConnectAndGreet(&at_client, &at_server));
    const int64_t before = client_events_->done_asked();
    for (uint32_t i = 0; i < 40; ++i) {
      client_->Send(at_client, PatternMessage(4, i * 20000, i), SendMode::kAuto,
                    client_events_->Done());
    }
    // The other side closes while messages are on their way to it.
    server_->Close(at_server);
    ASSERT_TRUE(world_->WaitFor([&] {
      return client_events_->IsClosed(at_client) && server_events_->IsClosed(at_server) &&
             client_events_->done_count() == before + 40;
    }));
  }
}

TEST_P(CloseTest, CallbacksMaySendAndCloseAndConnect) {
  std::mutex mutex;
  std::vector<ConnectionId> reconnected;
  Transport* const client = client_.get();
  Transport* const server = server_.get();
  client_events_->on_message = [&](ConnectionId connection, Message&) {
    client->Send(connection, PatternMessage(1, 10, 1), SendMode::kEager, client_events_->Done());
    client->Close(connection);
  };
  client_events_->on_closed = [&](ConnectionId) {
    const std::lock_guard lock(mutex);
    if (reconnected.size() >= 3) return;
    const auto next = client->Connect(address_);
    ASSERT_TRUE(next.ok());
    reconnected.push_back(*next);
  };
  server_events_->on_accept = [&](ConnectionId connection) {
    server->Send(connection, PatternMessage(1, 300000, 1), SendMode::kRendezvous,
                 server_events_->Done());
  };
  Start();
  ASSERT_TRUE(client_->Connect(address_).ok());
  ASSERT_TRUE(world_->WaitFor(
      [&] { return client_events_->closed_count() == 4 && server_events_->closed_count() == 4; }));
  client_events_->on_closed = nullptr;
}

TEST_P(CloseTest, ClosedPortIsUnavailable) {
  Start();
  // A port that was free a moment ago.
  Recorder nobody(&world_->pulse);
  auto other = world_->NewTransport();
  ASSERT_TRUE(other->Start(&nobody).ok());
  const auto gone = other->Listen(world_->ListenAddress());
  ASSERT_TRUE(gone.ok());
  other.reset();
  const auto connection = client_->Connect(*gone);
  ASSERT_TRUE(connection.ok());
  client_->Send(*connection, PatternMessage(4, 100000, 1), SendMode::kAuto, client_events_->Done());
  ASSERT_TRUE(world_->WaitFor(
      [&] { return client_events_->IsClosed(*connection) && client_events_->done_count() == 1; }));
  const absl::Status reason = client_events_->CloseReason(*connection);
  EXPECT_EQ(reason.code(), absl::StatusCode::kUnavailable) << reason;
  EXPECT_NE(std::string(reason.message()).find(*gone), std::string::npos) << reason;
  EXPECT_EQ(client_events_->done_ok_count(), 0);
}

TEST_P(CloseTest, BlackHoleTimesOut) {
  Start();
  const std::string black_hole = world_->BlackHole();
  const auto connection = client_->Connect(black_hole);
  ASSERT_TRUE(connection.ok());
  client_->Send(*connection, PatternMessage(4, 1000, 1), SendMode::kAuto, client_events_->Done());
  EXPECT_EQ(client_->Describe(*connection).status().code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(world_->WaitFor([&] { return client_events_->IsClosed(*connection); }));
  const absl::Status reason = client_events_->CloseReason(*connection);
  EXPECT_EQ(reason.code(), absl::StatusCode::kDeadlineExceeded) << reason;
  EXPECT_EQ(client_events_->done_count(), 1);
}

TEST_P(CloseTest, AConnectionStillBeingMadeMayBeClosed) {
  Start();
  const std::string black_hole = world_->BlackHole();
  const auto quiet = client_->Connect(black_hole);
  const auto loaded = client_->Connect(black_hole);
  ASSERT_TRUE(quiet.ok() && loaded.ok());
  client_->Send(*loaded, PatternMessage(4, 1 << 20, 1), SendMode::kAuto, client_events_->Done());
  client_->Close(*quiet);
  client_->Close(*loaded);
  ASSERT_TRUE(world_->WaitFor(
      [&] { return client_events_->IsClosed(*quiet) && client_events_->IsClosed(*loaded); }));
  EXPECT_TRUE(client_events_->CloseReason(*quiet).ok());
  EXPECT_TRUE(client_events_->CloseReason(*loaded).ok());
  EXPECT_EQ(client_events_->done_count(), 1);
}

TEST_P(CloseTest, MalformedAddressesAreRefused) {
  Start();
  for (const char* address :
       {"", "localhost", "127.0.0.1:", ":7401", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:7x",
        "::1:7401", "a b:7401", "[::1:7401"}) {
    EXPECT_EQ(client_->Connect(address).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
    EXPECT_EQ(client_->Listen(address).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
  EXPECT_EQ(client_->Connect("127.0.0.1:0").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(CloseTest, AnAddressInUseIsRefusedAndFreeAgainAfterwards) {
  Start();
  const auto taken = client_->Listen(address_);
  EXPECT_EQ(taken.status().code(), absl::StatusCode::kAlreadyExists) << taken.status();
  EXPECT_NE(std::string(taken.status().message()).find(address_), std::string::npos);
  // A restart on the same port, right after connections were served on it.
  for (int restart = 0; restart < 3; ++restart) {
    ConnectionId at_client, at_server;
    ASSERT_NO_FATAL_FAILURE(ConnectAndGreet(&at_client, &at_server));
    server_.reset();
    ASSERT_TRUE(world_->WaitFor([&] { return client_events_->IsClosed(at_client); }));
    EXPECT_TRUE(client_events_->CloseReason(at_client).ok())
        << client_events_->CloseReason(at_client);
    EXPECT_EQ(server_events_->Violations(), "");
    server_events_ = std::make_unique<Recorder>(&world_->pulse);
    server_ = world_->NewTransport();
    ASSERT_TRUE(server_->Start(server_events_.get()).ok());
    const auto again = server_->Listen(address_);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(*again, address_);
  }
}

TEST_P(CloseTest, DestructionEndsEverything) {
  Start();
  std::vector<ConnectionId> connections;
  for (int i = 0; i < 4; ++i) {
    ConnectionId at_client, at_server;
    ASSERT_NO_FATAL_FAILURE(ConnectAndGreet(&at_client, &at_server));
    connections.push_back(at_client);
  }
  for (const ConnectionId connection : connections) {
    for (uint32_t i = 0; i < 10; ++i) {
      client_->Send(connection, PatternMessage(4, i * 30000, i), SendMode::kAuto,
                    client_events_->Done());
    }
  }
  client_.reset();
  EXPECT_EQ(client_events_->closed_count(), 4u);
  EXPECT_EQ(client_events_->done_count(), 40);
  ASSERT_TRUE(world_->WaitFor([&] { return server_events_->closed_count() == 4; }));
}

TEST_P(CloseTest, ThreadsMayOpenAndCloseAtOnce) {
  if (GetParam().name.ends_with("virtual")) GTEST_SKIP() << "one thread by definition";
  EchoOnServer();
  Start();
  constexpr size_t kThreads = 3, kRounds = 8;
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < kRounds; ++i) {
        const auto connection = client_->Connect(address_);
        ASSERT_TRUE(connection.ok());
        client_->Send(*connection, PatternMessage(4, 1000 * i, 1), SendMode::kAuto,
                      client_events_->Done());
        client_->Close(*connection);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(
      world_->WaitFor([&] { return client_events_->closed_count() == kThreads * kRounds; }));
}

}  // namespace
}  // namespace sounder::transport
