// `sounderctl describe`, `pin`, `spill` and `load`, against a live node with a store.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/run_ctl.h"
#include "tests/e2e/synthetic_session.h"
#include "tests/e2e/worker.h"

namespace sounder::cli {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int kBadInput = 3;
constexpr int64_t kRows = 3000;  // three segments of up to 1,024 rows for each kv head

class SessionCommandTest : public testing::Test {
 protected:
  SessionCommandTest() : rows_(kRows, 3) {
    nodes_.push_back(std::make_unique<e2e::Node>(e2e::Arguments{
        "--threads", "1", "--store", folder_.Path("store"), "--tail-interval", "20ms"}));
    client_ = std::make_unique<e2e::Client>(nodes_);
    auto options = e2e::SyntheticRows::Options({3, 4}, 1024);
    options.durability = wire::Durability::kDisk;
    auto session = client_->kv().Open(options);
    EXPECT_TRUE(session.ok()) << session.status();
    session_ = *std::move(session);
    EXPECT_TRUE(rows_.AppendTo(client_->kv(), session_.get()).ok());
  }

  Outcome Run(const std::string& command, const std::string& arguments = "",
              const std::string& session = base::SessionId{3, 4}.ToString()) {
    return RunCtl(command + " --nodes " + nodes_[0]->control() + " --session " + session + " " +
                  arguments);
  }
  nlohmann::json Described() {
    const Outcome run = Run("describe", "--json");
    EXPECT_EQ(run.status, 0) << run.err;
    return nlohmann::json::parse(run.out).at(0);
  }
  std::vector<float> Attend() {
    e2e::CorrelatedQueries queries(&rows_);
    gpu_worker::AttendQuery query = e2e::SampledQuery(session_.get(), &queries, .05f);
    client_->kv().StartAttend(0, std::span(&query, 1))->Wait();
    EXPECT_TRUE(query.status.ok()) << query.status;
    return query.outputs;
  }

  const e2e::TemporaryFolder folder_;
  const e2e::SyntheticRows rows_;
  std::vector<std::unique_ptr<e2e::Node>> nodes_;
  std::unique_ptr<e2e::Client> client_;
  std::shared_ptr<gpu_worker::RemoteSession> session_;
};

TEST_F(SessionCommandTest, DescribeSaysWhatIsDurableAndWhere) {
  ASSERT_TRUE(e2e::Eventually([&] { return Described().at("durable_position") == kRows; }));
  const nlohmann::json json = Described();
  EXPECT_EQ(json.at("durable"), true);
  EXPECT_EQ(json.at("end_position"), kRows);
  EXPECT_EQ(json.at("segments"), json.at("hot_segments"));
  EXPECT_GT(json.at("stored_bytes"), 2 * kRows * e2e::SyntheticRows::kRowBytes);
  const Outcome text = Run("describe");
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_THAT(text.out, AllOf(HasSubstr("up to position 3000"), HasSubstr("[0, 3000)"),
                              HasSubstr(" hot, 0 warm, 0 cold"), HasSubstr("pinned")));
}

TEST_F(SessionCommandTest, ASpilledSessionComesBackWithLoad) {
  const std::vector<float> before = Attend();
  ASSERT_EQ(Run("spill").status, 0);
  nlohmann::json json = Described();
  EXPECT_EQ(json.at("cold_segments"), json.at("segments"));
  EXPECT_EQ(json.at("row_bytes"), 0);
  EXPECT_EQ(json.at("index_bytes"), 0);
  ASSERT_EQ(Run("load").status, 0);
  json = Described();
  EXPECT_EQ(json.at("hot_segments"), json.at("segments"));
  EXPECT_EQ(Attend(), before);
  ASSERT_EQ(Run("spill").status, 0);
  EXPECT_EQ(Attend(), before) << "read from the store";
}

TEST_F(SessionCommandTest, WhatMovesASessionHasTimeForManyGiB) {
  for (const char* command : {"spill", "load"}) {
    const Outcome help = RunCtl(std::string(command) + " --help");
    EXPECT_THAT(help.out, AllOf(HasSubstr("seconds for each GiB"), HasSubstr("5min"))) << command;
  }
  EXPECT_THAT(RunCtl("describe --help").out, HasSubstr("10s"));
}

TEST_F(SessionCommandTest, APinLastsUntilItIsTakenBack) {
  EXPECT_EQ(Described().at("pinned_seconds"), 0);
  ASSERT_EQ(Run("pin", "--for 90s").status, 0);
  EXPECT_GT(Described().at("pinned_seconds"), 80);
  EXPECT_THAT(Run("describe").out, HasSubstr("for "));
  ASSERT_EQ(Run("pin", "--for 0s").status, 0);
  EXPECT_EQ(Described().at("pinned_seconds"), 0);
}

TEST_F(SessionCommandTest, WhatIsNotThereIsAnError) {
  const std::string unknown = base::SessionId{3, 5}.ToString();
  for (const char* command : {"describe", "pin", "spill", "load"}) {
    const Outcome run = Run(command, "", unknown);
    EXPECT_EQ(run.status, kBadInput) << command;
    EXPECT_THAT(run.err, HasSubstr(unknown)) << command;
    const Outcome wrong = Run(command, "", "abc");
    EXPECT_NE(wrong.status, 0) << command;
    EXPECT_THAT(wrong.err, HasSubstr("expected 32 hexadecimal digits")) << command;
  }
  const Outcome dead = RunCtl("spill --nodes 127.0.0.1:1 --session " + unknown + " --deadline 1s");
  EXPECT_EQ(dead.status, 4) << dead.err;
}

}  // namespace
}  // namespace sounder::cli
