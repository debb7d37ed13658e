// The harness on a few prompts: it answers as the engine does, notices what is bad, and its figures
// do not depend on threads.
#include "bench/quality/trial.h"

#include <gtest/gtest.h>

#include <map>
#include <span>

#include "bench/quality/decode_attention.h"
#include "common/base/status_macros.h"
#include "gpu_worker/engine/generator.h"

namespace sounder::quality {
namespace {

constexpr char kModel[] = "tests/models/two_tasks";

class TrialTest : public testing::Test {
 protected:
  void SetUp() override {
    auto workers = Workers::Create(kModel, 2);
    ASSERT_TRUE(workers.ok()) << workers.status();
    workers_ = *std::move(workers);
    spec_.law.length = 1024;
    spec_.prompts = 12;
    spec_.tuning_prompts = 4;
    spec_.seed = 41;
  }

  std::vector<Trial> Run(const std::vector<Setting>& settings) {
    auto trials = RunTrials(settings, spec_, *workers_, nullptr);
    EXPECT_TRUE(trials.ok()) << trials.status();
    return trials.ok() ? *std::move(trials) : std::vector<Trial>(settings.size());
  }

  std::vector<int32_t> EngineTokens() {
    gpu_worker::GeneratorOptions options;
    options.attention.layers.assign(2, gpu_worker::LayerMode::kExactLocal);
    std::vector<gpu_worker::Prompt> prompts;
    for (const auto& prompt :
         bench::MakePrompts(spec_.task, spec_.law, spec_.prompts, spec_.seed)) {
      prompts.emplace_back().id = std::to_string(prompts.size());
      prompts.back().tokens = prompt.tokens;
      prompts.back().max_tokens = 1;
    }
    std::map<int, int32_t> tokens;
    const absl::Status status = workers_->For(1, [&](int64_t, Worker& worker) {
      gpu_worker::Generator engine(options, worker.model.get(), nullptr, &clock_);
      return engine.Run(prompts, [&](const gpu_worker::Sequence& sequence) {
        tokens[std::stoi(sequence.id)] = sequence.tokens.back();
      });
    });
    EXPECT_TRUE(status.ok()) << status;
    std::vector<int32_t> in_order;
    for (const auto& [_, token] : tokens) in_order.push_back(token);
    return in_order;
  }

  base::SteadyClock clock_;
  std::unique_ptr<Workers> workers_;
  TrialSpec spec_;
};

int Right(const Trial& trial) {
  int right = 0;
  for (const Outcome& outcome : trial.outcomes) right += outcome.right ? 1 : 0;
  return right;
}

std::vector<int32_t> Tokens(const Trial& trial) {
  std::vector<int32_t> tokens;
  for (const Outcome& outcome : trial.outcomes) tokens.push_back(outcome.token);
  return tokens;
}

double MeanRows(const Trial& trial) {
  double sum = 0;
  for (const Outcome& outcome : trial.outcomes) sum += outcome.rows_loaded;
  return sum / static_cast<double>(trial.outcomes.size());
}

// Full attention, and a sample of all rows, answer what the engine answers with every row at hand;
// the window alone answers little. Words: tokens 1 to 3 are context, so chance is above 1/64.
TEST_F(TrialTest, FullAttentionAnswersAsTheEngine) {
  for (const bench::Task task : {bench::Task::kRecall, bench::Task::kWords}) {
    SCOPED_TRACE(bench::TaskName(task));
    spec_.task = task;
    const auto trials = Run({{"exact", 1}, {"sketch", 1}, {"window", 0}});
    EXPECT_EQ(Tokens(trials[0]), EngineTokens());
    EXPECT_EQ(Tokens(trials[1]), EngineTokens());
    EXPECT_GE(Right(trials[0]), 11);
    EXPECT_LE(Right(trials[2]), 6);
    for (const Outcome& outcome : trials[0].outcomes) {
      EXPECT_LT(outcome.error, 1e-5);
      EXPECT_EQ(outcome.rows_loaded, 1);
      EXPECT_EQ(outcome.rows_read, 1);
    }
    for (const Outcome& outcome : trials[1].outcomes) EXPECT_LT(outcome.error, 1e-3);
    for (const Outcome& outcome : trials[2].outcomes) {
      EXPECT_GT(outcome.error, .1);
      EXPECT_EQ(outcome.rows_loaded, 0);
    }
  }
}

// To the last digits but a few: a row too many or too few, in any layer, would show.
TEST_F(TrialTest, FullAttentionGivesTheEnginesLogits) {
  const auto prompt = bench::MakePrompts(spec_.task, spec_.law, 1, spec_.seed)[0];
  gpu_worker::GeneratorOptions options;
  options.attention.layers.assign(2, gpu_worker::LayerMode::kExactLocal);
  gpu_worker::Prompt asked;
  asked.tokens = prompt.tokens;
  asked.max_tokens = 1;
  std::vector<float> expected, logits(1224);
  const absl::Status status = workers_->For(1, [&](int64_t, Worker& worker) -> absl::Status {
    gpu_worker::Generator engine(options, worker.model.get(), nullptr, &clock_);
    RETURN_IF_ERROR(engine.Run(
        {asked}, [](const gpu_worker::Sequence&) {},
        [&](const gpu_worker::Sequence&, std::span<const float> of_engine) {
          expected.assign(of_engine.begin(), of_engine.end());
        }));
    ASSIGN_OR_RETURN(const PromptCache cache,
                     PromptCache::Create(spec_.shape, prompt.tokens, *worker.model));
    ASSIGN_OR_RETURN(const SeededSamplers exact, MakeSamplers({"exact", 1}, 32, 2, 1));
    ASSIGN_OR_RETURN(const Segments segments,
                     MakeSegments(cache, worker.model->config(), *exact.Of(0), worker.scratch));
    DecodeAttention attention(cache, worker.model->config(), {exact.Of(0), &segments},
                              worker.scratch);
    const int32_t token = cache.last_token(), row = 0;
    const int64_t position = cache.position();
    return worker.model->Forward(
        {std::span(&token, 1), std::span(&position, 1), std::span(&row, 1)}, attention, logits);
  });
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(expected.size(), logits.size());
  for (size_t i = 0; i < logits.size(); ++i) EXPECT_NEAR(logits[i], expected[i], 1e-4) << i;
}

TEST_F(TrialTest, SamplersReadTheRowsTheyMay) {
  const auto trials = Run({{"exact", 1}, {"sketch", .05}, {"lsh", .05}, {"lsh", .2}});
  EXPECT_NEAR(MeanRows(trials[1]), .05, .002);
  EXPECT_NEAR(MeanRows(trials[2]), .05, .015);
  EXPECT_NEAR(MeanRows(trials[3]), .2, .04);
  EXPECT_GT(trials[3].setting.tables, trials[2].setting.tables);
  EXPECT_EQ(trials[1].setting.tables, 0);
  // Fewer rows, more error.
  EXPECT_LT(trials[3].outcomes[0].error, trials[2].outcomes[0].error);
}

TEST_F(TrialTest, ThreadsDoNotMatter) {
  spec_.prompts = 4;
  spec_.law.length = 512;
  const std::vector<Setting> settings = {{"exact", 1}, {"sketch", .02}, {"lsh", .05}};
  const auto two = Run(settings);
  workers_ = *Workers::Create(kModel, 1);
  const auto one = Run(settings);
  for (size_t s = 0; s < settings.size(); ++s) {
    EXPECT_EQ(one[s].setting.tables, two[s].setting.tables);
    for (size_t i = 0; i < one[s].outcomes.size(); ++i) {
      EXPECT_EQ(one[s].outcomes[i].token, two[s].outcomes[i].token);
      EXPECT_EQ(one[s].outcomes[i].error, two[s].outcomes[i].error);
      EXPECT_EQ(one[s].outcomes[i].rows_read, two[s].outcomes[i].rows_read);
    }
  }
}

TEST_F(TrialTest, UnknownSamplersAreRefused) {
  for (const char* name : {"best", "sketch_", "sketch_x", "sketch_-64", "sketch_96", "lsh_17"}) {
    const auto trials = RunTrials({{name, .02}}, spec_, *workers_, nullptr);
    EXPECT_EQ(trials.status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  spec_.shape.window = 1024;
  EXPECT_EQ(RunTrials({{"exact", 1}}, spec_, *workers_, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SettingsTest, OneSettingForEachShareButOneOfThoseWithoutABudget) {
  const auto settings = MakeSettings({"sketch", "window", "exact", "lsh"}, {.01, .1});
  std::vector<std::pair<std::string, double>> found;
  for (const Setting& setting : settings) found.emplace_back(setting.sampler, setting.rows);
  EXPECT_EQ(found, (std::vector<std::pair<std::string, double>>{{"exact", 1},
                                                                {"sketch", .01},
                                                                {"sketch", .1},
                                                                {"window", 0},
                                                                {"lsh", .01},
                                                                {"lsh", .1}}));
}

}  // namespace
}  // namespace sounder::quality
