#include "common/wire/data_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "common/base/absl_text.h"
#include "common/base/thread_executor.h"
#include "common/base/virtual_executor.h"
#include "common/transport/faulty_transport.h"
#include "tests/common/wire/data_world.h"
#include "tests/common/wire/wire_values.h"

namespace sounder::wire {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

constexpr auto kUnavailable = absl::StatusCode::kUnavailable;
constexpr auto kDeadline = absl::StatusCode::kDeadlineExceeded;

class DataClientTest : public DataWorldTest {};
INSTANTIATE_TEST_SUITE_P(Executors, DataClientTest, testing::Bool(), ExecutorName);

TEST_P(DataClientTest, RequestsOfEveryKindAreAnswered) {
  DataNode node(&world_.fabric, "a:1");
  DataNode other(&world_.fabric, "b:1");
  const auto a = world_.client->AddNode("a:1");
  const auto b = world_.client->AddNode("b:1");
  EXPECT_EQ(world_.client->AddressOf(a), "a:1");
  EXPECT_EQ(world_.client->AddressOf(b), "b:1");
  for (uint64_t i = 1; i <= 20; ++i) {
    world_.client->Attend(i % 2 ? a : b, AttendOf(i), seconds(20),
                          ends_.OfAttend("attend" + std::to_string(i)));
    world_.client->Append(a, AppendOf(100 + i), seconds(30),
                          ends_.OfAppend("append" + std::to_string(i)));
  }
  world_.client->Ping(b, seconds(10), ends_.Of("ping"));
  ASSERT_TRUE(ends_.WaitFor(41));
  for (uint64_t i = 1; i <= 20; ++i) {
    EXPECT_EQ(ends_.ValueOf("attend" + std::to_string(i)), i);
    EXPECT_EQ(ends_.ValueOf("append" + std::to_string(i)), 100 + i);
  }
  EXPECT_TRUE(ends_.StatusOf("ping").ok());

  std::set<uint64_t> tickets;
  for (const Envelope& envelope : node.envelopes()) {
    tickets.insert(envelope.ticket);
    const bool attend = envelope.kind == MessageKind::kAttend;
    EXPECT_EQ(envelope.tenant, attend ? 5u : 7u);
    EXPECT_EQ(envelope.trace_id, attend ? 6u : 0u);
    EXPECT_EQ(envelope.deadline_us, attend ? 20'000'000u : 30'000'000u);
  }
  EXPECT_EQ(tickets.size(), 30u);
  EXPECT_EQ(node.accepted(), 1) << "one connection carries them all";
}

TEST_P(DataClientTest, ErrorsOfANodeAreItsAnswers) {
  DataNode node(&world_.fabric, "a:1");
  node.SetAnswer([](const transport::Message& message) {
    Envelope envelope = *DecodeEnvelope(message);
    envelope.kind = envelope.kind == MessageKind::kAttend   ? MessageKind::kAttendReply
                    : envelope.kind == MessageKind::kAppend ? MessageKind::kAppendReply
                                                            : MessageKind::kPong;
    envelope.status = absl::ResourceExhaustedError("too much");
    return One(EncodeBare(envelope));
  });
  const auto a = world_.client->AddNode("a:1");
  world_.client->Attend(a, AttendOf(1), kPatience, ends_.OfAttend("attend"));
  world_.client->Append(a, AppendOf(1), kPatience, ends_.OfAppend("append"));
  world_.client->Ping(a, kPatience, ends_.Of("ping"));
  ASSERT_TRUE(ends_.WaitFor(3));
  EXPECT_EQ(ends_.StatusOf("attend"), absl::ResourceExhaustedError("too much"));
  EXPECT_EQ(ends_.StatusOf("append"), absl::ResourceExhaustedError("too much"));
  ExpectStatus(ends_.StatusOf("ping"), absl::StatusCode::kResourceExhausted, "a:1: too much");
  EXPECT_EQ(world_.client->counters().failures, 0u) << "the node did answer";
}

// One request is forgotten by a node that answers others: it alone fails.
TEST_P(DataClientTest, AForgottenRequestEndsByItsDeadlineAlone) {
  DataNode node(&world_.fabric, "a:1");
  node.SetAnswer([](const transport::Message& message) {
    const auto answers = DecodeEnvelope(message)->kind == MessageKind::kAttend;
    return answers ? Messages{} : RightAnswer(message);
  });
  const auto a = world_.client->AddNode("a:1");
  world_.client->Append(a, AppendOf(1), kPatience, ends_.OfAppend("before"));
  ASSERT_TRUE(ends_.WaitFor(1));
  // The node is heard of while the request waits: its end schedules the ping's.
  world_.client->Attend(a, AttendOf(1), milliseconds(40), ends_.OfAttend("forgotten"));
  world_.executor->RunAt(world_.executor->clock().Now() + milliseconds(20),
                         [&] { world_.client->Ping(a, kPatience, ends_.Of("ping")); });
  ASSERT_TRUE(ends_.WaitFor(3));
  ExpectStatus(ends_.StatusOf("forgotten"), kDeadline, "a:1 did not answer within 40 ms");
  EXPECT_TRUE(ends_.StatusOf("ping").ok());
  world_.client->Append(a, AppendOf(2), kPatience, ends_.OfAppend("after"));
  ASSERT_TRUE(ends_.WaitFor(4));
  EXPECT_EQ(ends_.ValueOf("after"), 2u);
  EXPECT_EQ(node.accepted(), 1);
}

TEST_P(DataClientTest, ASilentNodeIsGivenUpWithAllThatIsInFlight) {
  auto node = std::make_unique<DataNode>(&world_.fabric, "a:1");
  DataNode other(&world_.fabric, "b:1");
  const auto a = world_.client->AddNode("a:1");
  const auto b = world_.client->AddNode("b:1");
  world_.client->Ping(a, kPatience, ends_.Of("warm"));
  ASSERT_TRUE(ends_.WaitFor(1));
  world_.fabric.Freeze("a:1");
  other.SetAnswer(Silence);
  world_.client->Attend(a, AttendOf(1), kPatience, ends_.OfAttend("patient1"));
  world_.client->Append(a, AppendOf(1), kPatience, ends_.OfAppend("patient2"));
  world_.client->Ping(b, 2 * kPatience, ends_.Of("other"));
  world_.client->Ping(a, milliseconds(30), ends_.Of("impatient"));
  ASSERT_TRUE(ends_.WaitFor(4));
  ExpectStatus(ends_.StatusOf("impatient"), kDeadline, "a:1 did not answer within 30 ms");
  ExpectStatus(ends_.StatusOf("patient1"), kUnavailable, "a:1: the node went silent");
  ExpectStatus(ends_.StatusOf("patient2"), kUnavailable, "a:1: the node went silent");
  EXPECT_EQ(ends_.count(), 4u) << "the other node's request goes on";
  // It wakes up; the next request connects anew.
  world_.fabric.Thaw("a:1");
  world_.client->Ping(a, kPatience, ends_.Of("awake"));
  ASSERT_TRUE(ends_.WaitFor(5));
  EXPECT_TRUE(ends_.StatusOf("awake").ok());
  EXPECT_EQ(node->accepted(), 2);
}

// What a caller does about a failure, it does in the callback: on a connection that works.
TEST_P(DataClientTest, ARetryInsideTheCallbackConnectsAnew) {
  DataNode node(&world_.fabric, "a:1");
  std::atomic<bool> silent = false;
  node.SetAnswer([&](const transport::Message& message) {
    return silent ? Messages{} : RightAnswer(message);
  });
  const auto a = world_.client->AddNode("a:1");
  world_.client->Ping(a, kPatience, ends_.Of("warm"));  // connected, however slow the machine is
  ASSERT_TRUE(ends_.WaitFor(1));
  silent = true;
  world_.client->Ping(a, milliseconds(20), [&](const absl::Status& status) {
    silent = false;
    ends_.Note("first", status);
    world_.client->Ping(a, kPatience, ends_.Of("second"));
  });
  ASSERT_TRUE(ends_.WaitFor(3));
  ExpectStatus(ends_.StatusOf("first"), kDeadline, "a:1");
  EXPECT_TRUE(ends_.StatusOf("second").ok()) << ends_.StatusOf("second");
  EXPECT_EQ(node.accepted(), 2);
}

TEST_P(DataClientTest, AKilledNodeFailsItsRequestsAndMayComeBack) {
  auto node = std::make_unique<DataNode>(&world_.fabric, "a:1");
  node->SetAnswer(Silence);
  const auto a = world_.client->AddNode("a:1");
  world_.client->Attend(a, AttendOf(1), kPatience, ends_.OfAttend("one"));
  world_.client->Ping(a, kPatience, ends_.Of("two"));
  while (node->envelopes().size() < 2) {
    if (!GetParam()) continue;
    static_cast<base::VirtualExecutor*>(world_.executor.get())->Step();
  }
  world_.fabric.Kill("a:1");
  ASSERT_TRUE(ends_.WaitFor(2));
  ExpectStatus(ends_.StatusOf("one"), kUnavailable, "node a:1: a:1 was killed");
  ExpectStatus(ends_.StatusOf("two"), kUnavailable, "node a:1: a:1 was killed");
  world_.client->Ping(a, kPatience, ends_.Of("nobody"));
  ASSERT_TRUE(ends_.WaitFor(3));
  ExpectStatus(ends_.StatusOf("nobody"), kUnavailable, "nobody listens there");
  const DataNode second(&world_.fabric, "a:1");
  world_.client->Ping(a, kPatience, ends_.Of("back"));
  ASSERT_TRUE(ends_.WaitFor(4));
  EXPECT_TRUE(ends_.StatusOf("back").ok());
  EXPECT_EQ(world_.client->counters().failures, 3u);
}

TEST_P(DataClientTest, ANodeThatSaysGoodbye) {
  auto node = std::make_unique<DataNode>(&world_.fabric, "a:1");
  node->SetAnswer(Silence);
  const auto a = world_.client->AddNode("a:1");
  world_.client->Ping(a, kPatience, ends_.Of("one"));
  while (node->envelopes().empty()) {
    if (!GetParam()) continue;
    static_cast<base::VirtualExecutor*>(world_.executor.get())->Step();
  }
  node = nullptr;
  ASSERT_TRUE(ends_.WaitFor(1));
  ExpectStatus(ends_.StatusOf("one"), kUnavailable, "a:1: closed the connection");
}

TEST_P(DataClientTest, AddressesThatAreNone) {
  const auto bad = world_.client->AddNode("no port");
  std::atomic<bool> returned = false;
  world_.client->Ping(bad, kPatience, [&](const absl::Status& status) {
    if (GetParam()) {
      EXPECT_TRUE(returned) << "called inside the call";
    }
    ends_.Note("bad", status);
  });
  returned = true;
  ASSERT_TRUE(ends_.WaitFor(1));
  ExpectStatus(ends_.StatusOf("bad"), absl::StatusCode::kInvalidArgument, "no port");
  EXPECT_EQ(world_.client->counters().requests, 1u);
  EXPECT_EQ(world_.client->counters().failures, 1u);
  EXPECT_EQ(world_.client->counters().bytes_sent, 0u);
}

TEST_P(DataClientTest, AnswersNobodyWaitsForAreIgnored) {
  DataNode node(&world_.fabric, "a:1");
  node.SetAnswer([](const transport::Message& message) {
    Envelope envelope = *DecodeEnvelope(message);
    envelope.kind = MessageKind::kPong;
    Messages messages;
    for (const uint64_t off : {1000u, 0u, 0u, 1001u}) {  // strangers, the answer, and it again
      Envelope pong = envelope;
      pong.ticket += off;
      messages.push_back(EncodeBare(pong));
    }
    return messages;
  });
  const auto a = world_.client->AddNode("a:1");
  for (int i = 0; i < 10; ++i) {
    world_.client->Ping(a, kPatience, ends_.Of("ping" + std::to_string(i)));
  }
  ASSERT_TRUE(ends_.WaitFor(10));
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(ends_.StatusOf("ping" + std::to_string(i)).ok());
  EXPECT_EQ(world_.client->counters().failures, 0u);
}

// A node may answer only what it was asked.
TEST_P(DataClientTest, ANodeCannotAnswerForAnother) {
  DataNode asked(&world_.fabric, "a:1");
  DataNode liar(&world_.fabric, "b:1");
  asked.SetAnswer(Silence);
  liar.SetAnswer([](const transport::Message& message) {
    Messages messages;
    for (uint64_t ticket = 1; ticket <= 2; ++ticket) {
      Envelope pong = *DecodeEnvelope(message);
      pong.kind = MessageKind::kPong;
      pong.ticket = ticket;
      messages.push_back(EncodeBare(pong));
    }
    return messages;
  });
  const auto a = world_.client->AddNode("a:1");
  const auto b = world_.client->AddNode("b:1");
  world_.client->Ping(a, milliseconds(50), ends_.Of("asked"));  // ticket 1
  world_.client->Ping(b, kPatience, ends_.Of("liar"));          // ticket 2
  ASSERT_TRUE(ends_.WaitFor(2));
  EXPECT_TRUE(ends_.StatusOf("liar").ok());
  ExpectStatus(ends_.StatusOf("asked"), kDeadline, "a:1");
}

TEST_P(DataClientTest, AnswersOfTheWrongKindOrDamagedAreErrorsThatNameTheNode) {
  DataNode node(&world_.fabric, "a:1");
  const auto a = world_.client->AddNode("a:1");
  node.SetAnswer([](const transport::Message& message) {
    Envelope pong = *DecodeEnvelope(message);
    pong.kind = pong.kind == MessageKind::kPing ? MessageKind::kAppendReply : MessageKind::kPong;
    return One(EncodeBare(pong));
  });
  world_.client->Attend(a, AttendOf(1), kPatience, ends_.OfAttend("attend"));
  world_.client->Append(a, AppendOf(1), kPatience, ends_.OfAppend("append"));
  world_.client->Ping(a, kPatience, ends_.Of("ping"));
  ASSERT_TRUE(ends_.WaitFor(3));
  const auto invalid = absl::StatusCode::kInvalidArgument;
  ExpectStatus(ends_.StatusOf("attend"), invalid, "a:1: message of kind 6, expected 2");
  ExpectStatus(ends_.StatusOf("append"), invalid, "a:1: message of kind 6, expected 4");
  ExpectStatus(ends_.StatusOf("ping"), invalid, "a:1: answered a ping with a message of kind 4");
  node.SetAnswer([](const transport::Message& message) {
    Messages answers = RightAnswer(message);
    answers[0].payload.data()[answers[0].payload.size() - 1] ^= std::byte{1};
    return answers;
  });
  world_.client->Attend(a, AttendOf(1), kPatience, ends_.OfAttend("damaged"));
  ASSERT_TRUE(ends_.WaitFor(4));
  ExpectStatus(ends_.StatusOf("damaged"), absl::StatusCode::kDataLoss, "a:1: payload checksum");
}

TEST_P(DataClientTest, APeerThatDoesNotSpeakOurProtocolIsGivenUpAndNamed) {
  DataNode node(&world_.fabric, "a:1");
  node.SetAnswer([](const transport::Message& message) {
    if (DecodeEnvelope(message)->kind == MessageKind::kAttend) return Messages{};
    transport::Message garbage;
    garbage.header.assign(64, std::byte{0x5a});
    return One(std::move(garbage));
  });
  const auto a = world_.client->AddNode("a:1");
  world_.client->Attend(a, AttendOf(1), kPatience, ends_.OfAttend("waiting"));
  world_.client->Ping(a, kPatience, ends_.Of("ping"));
  ASSERT_TRUE(ends_.WaitFor(2));
  ExpectStatus(ends_.StatusOf("ping"), kUnavailable, "a:1: malformed header");
  ExpectStatus(ends_.StatusOf("waiting"), kUnavailable, "a:1: malformed header");
  node.SetAnswer(nullptr);
  world_.client->Ping(a, kPatience, ends_.Of("again"));
  ASSERT_TRUE(ends_.WaitFor(3));
  EXPECT_TRUE(ends_.StatusOf("again").ok());
  EXPECT_EQ(node.accepted(), 2);
}

// As a node answers that does not speak our version.
TEST_P(DataClientTest, ANodeOfAnotherVersionIsNamedWithBothVersions) {
  DataNode node(&world_.fabric, "a:1");
  node.SetAnswer([](const transport::Message&) {
    Envelope refusal;
    refusal.kind = MessageKind::kPong;
    refusal.status = absl::FailedPreconditionError("whatever it says");
    transport::Message forged = EncodeBare(refusal);
    forged.header[16] = std::byte{7};  // behind Cap'n Proto's segment table and root pointer
    return One(std::move(forged));
  });
  const auto a = world_.client->AddNode("a:1");
  world_.client->Attend(a, AttendOf(1), kPatience, ends_.OfAttend("attend"));
  ASSERT_TRUE(ends_.WaitFor(1));
  ExpectStatus(ends_.StatusOf("attend"), kUnavailable,
               "a:1: data protocol version mismatch: the peer speaks version 7, this side speaks "
               "version 3");
}

// Questions of a node are no answers to ours, whatever their tickets.
TEST_P(DataClientTest, PingsOfANodeAreAnswered) {
  DataNode node(&world_.fabric, "a:1");
  node.SetAnswer([](const transport::Message& message) {
    Envelope envelope = *DecodeEnvelope(message);
    if (envelope.kind == MessageKind::kPong) {
      // Our question was answered: now the answer to theirs.
      EXPECT_EQ(envelope.ticket, 1u);
      return One(EncodeBare(envelope));
    }
    if (envelope.kind != MessageKind::kPing) return Messages{};
    Messages messages;
    for (const MessageKind kind :
         {MessageKind::kAttend, MessageKind::kAppend, MessageKind::kPing}) {
      Envelope question = envelope;
      question.kind = kind;
      messages.push_back(EncodeBare(question));
    }
    return messages;
  });
  const auto a = world_.client->AddNode("a:1");
  world_.client->Ping(a, kPatience, ends_.Of("ping"));  // ticket 1
  ASSERT_TRUE(ends_.WaitFor(1));
  EXPECT_TRUE(ends_.StatusOf("ping").ok()) << ends_.StatusOf("ping");
  EXPECT_EQ(node.envelopes().size(), 2u);
}

TEST_P(DataClientTest, DescribesTheConnection) {
  DataNode node(&world_.fabric, "a:1");
  const auto a = world_.client->AddNode("a:1");
  EXPECT_EQ(world_.client->Describe(a).status().code(), kUnavailable);
  world_.client->Ping(a, kPatience, ends_.Of("ping"));
  ASSERT_TRUE(ends_.WaitFor(1));
  const auto info = world_.client->Describe(a);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->transport, "loopback");
  EXPECT_EQ(info->peer, "a:1");
}

TEST_P(DataClientTest, CountsRequestsFailuresAndBytes) {
  DataNode node(&world_.fabric, "a:1");
  const auto a = world_.client->AddNode("a:1");
  const auto count = [&] { return world_.client->counters(); };
  EXPECT_EQ(count().requests + count().failures + count().bytes_sent, 0u);
  world_.client->Ping(a, kPatience, ends_.Of("ping"));
  ASSERT_TRUE(ends_.WaitFor(1));
  Envelope ping;
  ping.kind = MessageKind::kPing;
  const size_t ping_bytes = WireBytes(EncodeBare(ping));
  EXPECT_EQ(count().bytes_sent, ping_bytes);
  EXPECT_EQ(count().bytes_received, ping_bytes);
  EXPECT_EQ(count().attend_bytes_sent + count().attend_bytes_received, 0u);

  AttendRequest request = AttendOf(3);
  request.envelope.kind = MessageKind::kAttend;
  const transport::Message message = Encode(request);
  const size_t reply_bytes = WireBytes(RightAnswer(message)[0]);
  world_.client->Attend(a, AttendOf(3), kPatience, ends_.OfAttend("attend"));
  ASSERT_TRUE(ends_.WaitFor(2));
  EXPECT_EQ(count().attend_bytes_sent, WireBytes(message));
  EXPECT_EQ(count().attend_bytes_received, reply_bytes);
  EXPECT_EQ(count().bytes_sent, ping_bytes + WireBytes(message));
  EXPECT_EQ(count().bytes_received, ping_bytes + reply_bytes);
  EXPECT_EQ(count().requests, 2u);
  EXPECT_EQ(count().failures, 0u);
}

// The transport's end fails what is in flight, once; its timers find nobody.
TEST_P(DataClientTest, TheEndOfTheTransport) {
  DataNode node(&world_.fabric, "a:1");
  node.SetAnswer(Silence);
  const auto a = world_.client->AddNode("a:1");
  for (int i = 0; i < 10; ++i) {
    world_.client->Ping(a, milliseconds(5 + i), ends_.Of("ping" + std::to_string(i)));
  }
  world_.transport = nullptr;
  world_.client = nullptr;
  ASSERT_TRUE(ends_.WaitFor(10));
  for (int i = 0; i < 10; ++i) {
    const absl::StatusCode code = ends_.StatusOf("ping" + std::to_string(i)).code();
    EXPECT_TRUE(code == kUnavailable || code == kDeadline) << i;
  }
}

// ---- faults, from a seed ----------------------------------------------------------------------

// Every request ends exactly once, whatever the network does, and an answer that says it is right
// is right.
TEST(DataClientFaultsTest, EveryRequestEndsOnceAndAnswersAreNeverWrong) {
  uint64_t right = 0, failed = 0;
  for (uint64_t seed = 1; seed <= 25; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    auto executor = std::make_unique<base::VirtualExecutor>(seed);
    base::VirtualExecutor& time = *executor;
    DataWorld world(std::move(executor), {.latency = std::chrono::microseconds(50)});
    world.transport = nullptr;
    world.client = nullptr;
    transport::FaultOptions faults;
    faults.delay = faults.drop = faults.duplicate = faults.reorder = 0.03;
    faults.truncate = faults.flip = 0.05;
    faults.reset = 0.01;
    world.transport = std::make_unique<transport::FaultyTransport>(
        std::make_unique<transport::LoopbackTransport>(&world.fabric, "worker:0"), &time, faults,
        seed);
    world.client = std::make_unique<DataClient>(world.transport.get(), &time);
    ASSERT_TRUE(world.transport->Start(world.client.get()).ok());
    DataNode node(&world.fabric, "a:1");
    const auto a = world.client->AddNode("a:1");
    constexpr uint64_t kRequests = 300;
    std::vector<int> ended(kRequests);
    uint64_t total = 0;
    for (uint64_t i = 0; i < kRequests; ++i) {
      time.RunAt(time.clock().Now() + milliseconds(i / 3), [&, i] {
        world.client->Attend(a, AttendOf(i + 1), milliseconds(30),
                             [&, i](absl::StatusOr<AttendReply> reply) {
                               ++ended[i];
                               ++total;
                               const bool ok = reply.ok() && reply->envelope.status.ok();
                               ++(ok ? right : failed);
                               if (!ok) return;
                               ASSERT_EQ(reply->items.size(), 1u);
                               EXPECT_EQ(reply->items[0].rows_visible, i + 1);
                             });
      });
    }
    EXPECT_TRUE(time.RunUntil([&] { return total >= kRequests; }));
    time.RunUntil([] { return false; });
    EXPECT_THAT(ended, testing::Each(1));
  }
  std::printf("%lu right answers, %lu failures\n", static_cast<unsigned long>(right),
              static_cast<unsigned long>(failed));
  EXPECT_GT(right, 3000u);
  EXPECT_GT(failed, 300u);
}

// Answers race with deadlines, threads with each other.
TEST(DataClientThreadsTest, EveryRequestEndsOnceFromManyThreads) {
  constexpr int kThreads = 4;
  constexpr int kRequests = 200;
  DataWorld world(std::make_unique<base::ThreadExecutor>(3, "data"));
  DataNode node(&world.fabric, "a:1");
  DataNode other(&world.fabric, "b:1");
  const DataClient::NodeIndex nodes[] = {world.client->AddNode("a:1"),
                                         world.client->AddNode("b:1")};
  std::vector<std::atomic<int>> ended(kThreads * kRequests);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRequests; ++i) {
        const int id = t * kRequests + i;
        const base::Duration deadline =
            i % 4 == 0 ? base::Duration(std::chrono::microseconds(i)) : kPatience;
        world.client->Attend(nodes[i % 2], AttendOf(static_cast<uint64_t>(id) + 1), deadline,
                             [&, id](const absl::StatusOr<AttendReply>& reply) {
                               ++ended[static_cast<size_t>(id)];
                               if (reply.ok()) {
                                 EXPECT_EQ(reply->items[0].rows_visible,
                                           static_cast<uint64_t>(id) + 1);
                               }
                               world.ends.Note("one", reply.status());
                             });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(world.ends.WaitFor(kThreads * kRequests));
  for (const auto& each : ended) EXPECT_EQ(each, 1);
  EXPECT_EQ(world.client->counters().requests, uint64_t{kThreads * kRequests});
}

}  // namespace
}  // namespace sounder::wire
