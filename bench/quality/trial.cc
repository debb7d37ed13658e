#include "bench/quality/trial.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <optional>
#include <span>
#include <utility>

#include "bench/quality/decode_attention.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "gpu_worker/engine/generator.h"

namespace sounder::quality {
namespace {

// A prompt ready to be decoded.
struct Question {
  PromptCache cache;
  int64_t number = 0;  // of the prompt
  uint64_t sample_key = 0;
  int32_t answer = 0;
};

absl::StatusOr<Question> Ask(const bench::Prompt& prompt, int64_t number, const TrialSpec& spec,
                             Worker& worker) {
  ASSIGN_OR_RETURN(PromptCache cache,
                   PromptCache::Create(spec.shape, prompt.tokens, *worker.model));
  gpu_worker::Prompt keyed;
  keyed.id = prompt.id;
  keyed.tokens = prompt.tokens;
  return Question{std::move(cache), number, gpu_worker::SampleKeyOf(spec.seed, keyed),
                  prompt.answer};
}

absl::StatusOr<SeededSamplers> SamplersOf(const Setting& setting,
                                          const gpu_worker::ModelConfig& config, int seeds) {
  return MakeSamplers(setting, static_cast<int>(config.head_dim),
                      static_cast<int>(config.num_query_heads / config.num_kv_heads), seeds);
}

absl::StatusOr<Outcome> Answer(const Question& question, const SeededSamplers& samplers,
                               Worker& worker) {
  const gpu_worker::ModelConfig& config = worker.model->config();
  DecodeAttention::Sampling sampling;
  sampling.sampler = samplers.Of(question.number);
  sampling.row_fraction = samplers.setting.rows;
  sampling.sample_key = question.sample_key;
  Segments segments;
  if (sampling.sampler != nullptr) {
    ASSIGN_OR_RETURN(segments,
                     MakeSegments(question.cache, config, *sampling.sampler, worker.scratch));
    sampling.segments = &segments;
  }
  DecodeAttention attention(question.cache, config, sampling, worker.scratch);
  const int32_t token = question.cache.last_token();
  const int64_t position = question.cache.position();
  const int32_t row = 0;
  std::vector<float> logits(static_cast<size_t>(config.vocab_size));
  RETURN_IF_ERROR(worker.model->Forward(
      {std::span(&token, 1), std::span(&position, 1), std::span(&row, 1)}, attention, logits));

  const AttentionFigures& figures = attention.figures();
  const double rows = static_cast<double>(question.cache.middle().size() * config.num_layers);
  Outcome outcome;
  outcome.token =
      static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  outcome.right = outcome.token == question.answer;
  outcome.error = figures.error / static_cast<double>(figures.heads);
  outcome.rows_loaded =
      static_cast<double>(figures.rows_loaded) / (rows * static_cast<double>(config.num_kv_heads));
  outcome.rows_read =
      static_cast<double>(figures.rows_read) / (rows * static_cast<double>(config.num_query_heads));
  return outcome;
}

// Chooses the tables of one setting on given questions.
class TableTuner {
 public:
  TableTuner(Setting setting, int sampler_seeds, const std::vector<Question>& questions,
             Worker& worker)
      : setting_(std::move(setting)),
        sampler_seeds_(sampler_seeds),
        questions_(questions),
        worker_(worker) {}

  // The samplers with the number of tables that reads the share of rows closest to the setting's.
  // More tables read more rows.
  absl::StatusOr<SeededSamplers> Tune() {
    const gpu_worker::ModelConfig& config = worker_.model->config();
    // The least that split tables take.
    int few = lsh::LshParams().min_collisions *
              static_cast<int>(config.num_query_heads / config.num_kv_heads);
    int many = few;
    ASSIGN_OR_RETURN(double miss_of_few, Miss(few));
    double miss_of_many = miss_of_few;
    while (miss_of_many < 0 && many < base::kMaxTables) {
      few = many;
      miss_of_few = miss_of_many;
      many = std::min(2 * many, base::kMaxTables);
      ASSIGN_OR_RETURN(miss_of_many, Miss(many));
    }
    while (many - few > 1) {
      const int tables = (few + many) / 2;
      ASSIGN_OR_RETURN(const double miss, Miss(tables));
      (miss < 0 ? few : many) = tables;
      (miss < 0 ? miss_of_few : miss_of_many) = miss;
    }
    return With(std::abs(miss_of_few) < std::abs(miss_of_many) ? few : many);
  }

 private:
  absl::StatusOr<SeededSamplers> With(int tables) const {
    Setting setting = setting_;
    setting.tables = tables;
    return SamplersOf(setting, worker_.model->config(), sampler_seeds_);
  }

  // Distinct rows read with so many tables, less the share aimed at.
  absl::StatusOr<double> Miss(int tables) {
    ASSIGN_OR_RETURN(const SeededSamplers samplers, With(tables));
    double sum = 0;
    for (const Question& question : questions_) {
      ASSIGN_OR_RETURN(const Outcome outcome, Answer(question, samplers, worker_));
      sum += outcome.rows_loaded;
    }
    return sum / static_cast<double>(questions_.size()) - setting_.rows;
  }

  const Setting setting_;
  const int sampler_seeds_;
  const std::vector<Question>& questions_;
  Worker& worker_;
};

absl::Status TuneAll(const TrialSpec& spec, std::vector<SeededSamplers>& samplers,
                     Workers& workers) {
  std::vector<size_t> tuned;
  for (size_t i = 0; i < samplers.size(); ++i) {
    if (samplers[i].by_tables() && samplers[i].setting.tables == 0) tuned.push_back(i);
  }
  if (tuned.empty()) return absl::OkStatus();
  const std::vector<bench::Prompt> prompts =
      bench::MakePrompts(spec.task, spec.law, spec.tuning_prompts, spec.seed + 1);
  std::vector<std::optional<Question>> asked(prompts.size());
  RETURN_IF_ERROR(workers.For(spec.tuning_prompts, [&](int64_t i, Worker& worker) -> absl::Status {
    ASSIGN_OR_RETURN(asked[i], Ask(prompts[i], i, spec, worker));
    return absl::OkStatus();
  }));
  std::vector<Question> questions;
  for (auto& question : asked) questions.push_back(*std::move(question));
  const auto count = static_cast<int64_t>(tuned.size());
  return workers.For(count, [&](int64_t i, Worker& worker) -> absl::Status {
    SeededSamplers& one = samplers[tuned[i]];
    ASSIGN_OR_RETURN(one, TableTuner(one.setting, spec.sampler_seeds, questions, worker).Tune());
    return absl::OkStatus();
  });
}

}  // namespace

absl::StatusOr<std::vector<Trial>> RunTrials(const std::vector<Setting>& settings,
                                             const TrialSpec& spec, Workers& workers,
                                             const std::function<void(int64_t)>& progress) {
  std::vector<SeededSamplers> samplers;
  for (const Setting& setting : settings) {
    ASSIGN_OR_RETURN(SeededSamplers one, SamplersOf(setting, workers.config(), spec.sampler_seeds));
    samplers.push_back(std::move(one));
  }
  RETURN_IF_ERROR(TuneAll(spec, samplers, workers));
  std::vector<Trial> trials;
  for (const SeededSamplers& one : samplers) {
    trials.push_back({one.setting, std::vector<Outcome>(static_cast<size_t>(spec.prompts))});
  }
  const std::vector<bench::Prompt> prompts =
      bench::MakePrompts(spec.task, spec.law, spec.prompts, spec.seed);
  std::mutex mutex;
  int64_t done = 0;
  RETURN_IF_ERROR(workers.For(spec.prompts, [&](int64_t i, Worker& worker) -> absl::Status {
    ASSIGN_OR_RETURN(const Question question, Ask(prompts[i], i, spec, worker));
    for (size_t s = 0; s < samplers.size(); ++s) {
      ASSIGN_OR_RETURN(trials[s].outcomes[i], Answer(question, samplers[s], worker));
    }
    const std::lock_guard lock(mutex);
    ++done;
    if (progress != nullptr) progress(done);
    return absl::OkStatus();
  }));
  return trials;
}

}  // namespace sounder::quality
