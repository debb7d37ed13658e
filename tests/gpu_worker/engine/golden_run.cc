#include "tests/gpu_worker/engine/golden_run.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/philox.h"
#include "gpu_worker/ops/ops_ref.h"

namespace sounder::gpu_worker {

GoldenModel::GoldenModel(const std::string& name) : ops(MakeRefOps()) {
  auto loaded = LlamaModel::Load("tests/golden/llama/" + name, ops.get());
  CHECK(loaded.ok()) << loaded.status().ToString();
  model = *std::move(loaded);
}

std::vector<Prompt> RaggedPrompts(const LlamaModel& model, uint64_t seed) {
  base::PhiloxStream random(seed, 3);
  const auto tokens = [&](int64_t count) {
    std::vector<int32_t> drawn(static_cast<size_t>(count));
    for (int32_t& token : drawn) {
      token =
          static_cast<int32_t>(random.NextBelow(static_cast<uint32_t>(model.config().vocab_size)));
    }
    return drawn;
  };
  std::vector<Prompt> prompts;
  // Shorter than the sinks, shorter than sinks and window, on and beside seal marks, long.
  const std::pair<int64_t, int64_t> lengths[] = {{41, 25}, {1, 30},  {17, 9},
                                                 {7, 40},  {70, 12}, {33, 20}};
  for (const auto& [prompt_tokens, steps] : lengths) {
    Prompt& prompt = prompts.emplace_back();
    prompt.id = absl::StrCat("p", prompts.size());
    prompt.tokens = tokens(prompt_tokens);
    prompt.forced = tokens(steps);
    prompt.max_tokens = steps;
  }
  return prompts;
}

GeneratorOptions GoldenOptions(const LlamaModel& model, LayerMode mode, base::DType dtype,
                               uint32_t seal_rows) {
  GeneratorOptions options;
  options.attention.sinks = 2;
  options.attention.window = 8;
  options.attention.dtype = dtype;
  options.attention.layers.assign(static_cast<size_t>(model.config().num_layers), mode);
  options.session.model = IdentityOf(model, "golden");
  options.session.seal_rows = seal_rows;
  options.batch = 3;
  options.prefill_tokens = 24;
  return options;
}

void AddIndex(LayerMode mode, GeneratorOptions* options) {
  if (!IsSampled(mode)) return;
  options->session.indexed_layers = {0, 1};
  if (mode == LayerMode::kLsh) {
    options->session.lsh = {4, 12, 2, wire::Projection::kHadamard, 3};
    return;
  }
  options->session.sketch = {64, 3};
  options->attention.sketch = {.rows = .3, .uniform_above = .5, .uniform_rows = .4};
}

GoldenRun Generate(const GeneratorOptions& options, LlamaModel* model, KvClient* client,
                   std::vector<Prompt> prompts) {
  GoldenRun run;
  const base::SteadyClock clock;
  Generator generator(options, model, client, &clock);
  run.status = generator.Run(
      std::move(prompts),
      [&](const Sequence& sequence) {
        run.statuses[sequence.id] = sequence.status;
        run.tokens[sequence.id] = sequence.tokens;
        run.counts[sequence.id] = sequence.counts;
      },
      [&](const Sequence& sequence, std::span<const float> logits) {
        run.logits[sequence.id].emplace_back(logits.begin(), logits.end());
      });
  return run;
}

double LogitDistance(const StepLogits& a, const StepLogits& b) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (a.size() != b.size()) return kInfinity;
  double largest = 0;
  double most = 0;
  for (const auto& [id, steps] : b) {
    const auto found = a.find(id);
    if (found == a.end() || found->second.size() != steps.size()) return kInfinity;
    for (size_t step = 0; step < steps.size(); ++step) {
      for (size_t i = 0; i < steps[step].size(); ++i) {
        const double difference = std::abs(double{steps[step][i]} - found->second[step][i]);
        if (!(difference <= kInfinity)) return kInfinity;
        most = std::max(most, difference);
        largest = std::max(largest, std::abs(double{steps[step][i]}));
      }
    }
  }
  return most == 0 ? 0 : most / largest;  // runs without steps are equal
}

}  // namespace sounder::gpu_worker
