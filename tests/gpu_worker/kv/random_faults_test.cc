// A network that loses, doubles, reorders and damages messages and breaks connections, in virtual
// time: every request ends by its deadline, every answer is right, and nothing stays behind.
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "common/base/virtual_executor.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/test_session.h"

namespace sounder::tests {
namespace {

constexpr base::Duration kDeadline = std::chrono::milliseconds(400);

struct Tally {
  int right = 0;
  int sessions = 0;
  std::map<absl::StatusCode, int> failures;
};

class World {
 public:
  World(uint64_t seed, Tally* tally)
      : tally_(tally),
        random_(seed, 9),
        executor_(seed),
        shape_{2, 2, 2, 16, random_.NextBelow(2) == 0 ? base::DType::kF32 : base::DType::kBF16} {
    LocalClusterOptions options;
    options.nodes = 1 + static_cast<int>(random_.NextBelow(3));
    options.network.latency = std::chrono::microseconds(200);
    options.client.deadline = kDeadline;
    options.client.append_message_bytes = 2048;
    for (transport::FaultOptions* faults : {&options.client_faults, &options.node_faults}) {
      faults->drop = 0.02 * random_.NextBelow(2);
      faults->flip = 0.02 * random_.NextBelow(2);
      faults->truncate = 0.02 * random_.NextBelow(2);
      faults->reset = 0.01 * random_.NextBelow(2);
      damages_ |= faults->flip + faults->truncate > 0;
      faults->duplicate = 0.2;
      faults->reorder = 0.2;
      faults->delay = 0.2;
      faults->delay_max = std::chrono::milliseconds(5);
    }
    options.fault_seed = seed;
    cluster_ = std::make_unique<LocalCluster>(options, &executor_);
  }

  void Run() {
    for (uint64_t number = 1; number <= 3; ++number) RunSession(number);
    EXPECT_EQ(cluster_->Sessions(), 0u);
    EXPECT_EQ(cluster_->MemoryUsed(), 0u);
  }

 private:
  void RunSession(uint64_t number) {
    ++tally_->sessions;
    const TestRows rows = TestRows::Gaussian(shape_, 80, number);
    gpu_worker::RemoteSessionOptions options = SessionOptions(shape_, number, 16);
    options.shard_rows = 16 * random_.NextBelow(3);
    options.head_shards = 1 + static_cast<int>(random_.NextBelow(2));
    auto session = cluster_->client().Open(options);
    ASSERT_TRUE(session.ok()) << session.status();
    for (base::Position appended = 0; appended < rows.positions();) {
      const base::Position end =
          std::min<base::Position>(appended + 1 + random_.NextBelow(20), rows.positions());
      const absl::Status sent =
          cluster_->client().Append(session->get(), rows.Range({appended, end}, end % 3 == 0));
      if (!sent.ok()) Count(sent);
      appended = end;
      if (random_.NextBelow(3) == 0) {
        const base::Time start = executor_.clock().Now();
        const absl::Status acknowledged = cluster_->client().WaitAppended(session->get(), appended);
        ExpectInTime(start);
        if (!acknowledged.ok()) Count(acknowledged);
      }
      Attend(session->get(), rows, appended);
    }
    // The control plane is whole; what the data plane still has on the way ends there.
    EXPECT_TRUE(cluster_->client().Close(session->get()).ok());
  }

  void Attend(gpu_worker::RemoteSession* session, const TestRows& rows, base::Position end) {
    const uint32_t layer = random_.NextBelow(2);
    const std::vector<float> queries = GaussianQueries(shape_, 2, random_.Next64());
    std::vector<gpu_worker::AttendQuery> asked;
    const base::Position begin = random_.NextBelow(static_cast<uint32_t>(end));
    asked.push_back(ExactQuery(session, queries, {begin, end}));
    asked.push_back(ExactQuery(session, queries, {0, end}));
    asked[1].causal_from = end - 2;
    const base::Time start = executor_.clock().Now();
    cluster_->client().StartAttend(layer, asked)->Wait();
    ExpectInTime(start);
    for (const gpu_worker::AttendQuery& query : asked) {
      if (!query.status.ok()) {
        Count(query.status);
        continue;
      }
      const Reference reference =
          ReferenceOf(rows, layer, queries, query.range, query.scale, query.causal_from);
      ASSERT_LT(Distance(query, reference), 2e-5) << "a wrong answer";
      ++tally_->right;
    }
  }

  void Count(const absl::Status& status) {
    // Damage is answered with what it did; otherwise answers are late or connections lost.
    const bool lost = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
    EXPECT_TRUE(damages_ || lost) << status;
    EXPECT_NE(status.ToString().find("node"), std::string::npos) << "names no node: " << status;
    ++tally_->failures[status.code()];
  }
  void ExpectInTime(base::Time start) {
    EXPECT_LE(executor_.clock().Now() - start, kDeadline + std::chrono::milliseconds(1));
  }

  Tally* const tally_;
  base::PhiloxStream random_;
  base::VirtualExecutor executor_;
  const Shape shape_;
  bool damages_ = false;
  std::unique_ptr<LocalCluster> cluster_;
};

TEST(RandomFaultsTest, EveryRequestEndsAndEveryAnswerIsRight) {
  Tally tally;
  for (uint64_t seed = 1; seed <= 250 && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    World(seed, &tally).Run();
  }
  std::printf("seeds 1 to 250: %d sessions, %d right answers", tally.sessions, tally.right);
  for (const auto& [code, count] : tally.failures) {
    std::printf(", %d %s", count, absl::StatusCodeToString(code).c_str());
  }
  std::printf("\n");
  EXPECT_GT(tally.right, 4000);
  EXPECT_GT(tally.failures.size(), 2u) << "the network did little harm";
}

}  // namespace
}  // namespace sounder::tests
