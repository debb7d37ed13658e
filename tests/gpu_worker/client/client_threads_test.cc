// The public interface on real threads: answers that are told of by callbacks, sessions of many
// threads over one client.
#include <gtest/gtest.h>

#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "common/base/thread_executor.h"
#include "tests/gpu_worker/client/engine.h"

namespace sounder::tests {
namespace {

constexpr Shape kShape{2, 2, 2, 16, base::DType::kF32};
constexpr int kNodes = 2;

class ClientThreadsTest : public testing::Test {
 protected:
  std::unique_ptr<client::Session> Filled(uint64_t number) {
    client::SessionOptions options = PublicOptions(kShape, number, 16);
    options.shard_rows = 16;
    std::unique_ptr<client::Session> session;
    EXPECT_TRUE(engine_->Open(options, &session).ok());
    EXPECT_TRUE(session->Append(PublicRows(rows_, 0, 100)).ok());
    return session;
  }
  void ExpectRight(const client::Query& query) const {
    ASSERT_TRUE(query.status.ok()) << query.status.message();
    EXPECT_LT(Distance(query, ReferenceOf(rows_, 0, queries_, {0, query.range.end}, .25f)), 1e-5);
  }

  base::ThreadExecutor executor_{2, "cluster"};
  const TestRows rows_ = TestRows::Gaussian(kShape, 100, 8);
  const std::vector<float> queries_ = GaussianQueries(kShape, 1, 4);
  LocalCluster cluster_{NodesOf(kNodes), &executor_};
  Engine engine_{&cluster_, kNodes, &executor_};
};

TEST_F(ClientThreadsTest, AnswersAreToldOfOnOtherThreads) {
  const auto session = Filled(1);
  std::mutex mutex;
  std::condition_variable changed;
  for (int round = 0; round < 50; ++round) {
    // With nothing to ask a node for, too.
    client::Query query = PublicQuery(session.get(), queries_, kShape, {0, round % 5 * 25});
    int told = 0;
    std::thread::id teller;
    const auto pending = engine_->StartAttend(0, &query, 1, [&] {
      std::lock_guard lock(mutex);
      ++told;
      teller = std::this_thread::get_id();
      changed.notify_all();
    });
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return told > 0; });
      EXPECT_NE(teller, std::this_thread::get_id());
    }
    EXPECT_TRUE(pending->Answered());
    // Whoever asks first, everybody sees the answers.
    std::thread other([&] { pending->Wait(); });
    pending->Wait();
    ExpectRight(query);
    other.join();
    EXPECT_EQ(told, 1);
  }
}

TEST_F(ClientThreadsTest, GivingUpWaitsForTheCallback) {
  const auto session = Filled(1);
  for (int round = 0; round < 50; ++round) {
    client::Query query = PublicQuery(session.get(), queries_, kShape, {0, round % 2 * 100});
    int told = 0;  // not guarded: the destructor is what orders the two threads
    engine_->StartAttend(0, &query, 1, [&told] { ++told; }).reset();
    EXPECT_EQ(told, 1);
  }
}

TEST_F(ClientThreadsTest, ManyThreadsShareOneClient) {
  std::vector<std::thread> threads;
  for (uint64_t number = 1; number <= 3; ++number) {
    threads.emplace_back([&, number] {
      for (int round = 0; round < 5; ++round) {
        const auto session = Filled(number);
        client::Query query = PublicQuery(session.get(), queries_, kShape, {0, 100});
        engine_->StartAttend(0, &query, 1)->Wait();
        ExpectRight(query);
        engine_->KeepAlive();
        std::unique_ptr<client::Session> child;
        EXPECT_TRUE(session->Fork(60, &child).ok());
        query = PublicQuery(child.get(), queries_, kShape, {0, 60});
        const auto pending = engine_->StartAttend(0, &query, 1);
        EXPECT_TRUE(session->Close().ok());
        pending->Wait();
        ExpectRight(query);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(cluster_.MemoryUsed(), 0u);
}

}  // namespace
}  // namespace sounder::tests
