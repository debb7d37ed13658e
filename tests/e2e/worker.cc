#include "tests/e2e/worker.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/check.h"
#include "common/policy/placement.h"

namespace sounder::e2e {

transport::UcxOptions ShortSpin(const std::string& tls) {
  transport::UcxOptions options;
  options.tls = tls;
  options.spin = std::chrono::microseconds(5);
  return options;
}

Client::Client(const std::vector<std::unique_ptr<Node>>& nodes, const std::string& tls,
               base::Duration deadline, const wire::LivenessOptions& liveness) {
  std::vector<std::string> addresses;
  for (const auto& node : nodes) addresses.push_back(node->control());
  gpu_worker::KvClientOptions options;
  options.deadline = deadline;
  options.liveness = liveness;
  auto connected = gpu_worker::KvConnection::Connect(addresses, options,
                                                     transport::MakeUcxEngine(ShortSpin(tls)));
  CHECK(connected.ok()) << connected.status().ToString();
  connection_ = *std::move(connected);
}

Model::Model(const std::string& folder) {
  auto ops = gpu_worker::MakeCpuOps({.threads = 1});
  CHECK(ops.ok()) << ops.status().ToString();
  ops_ = *std::move(ops);
  auto model = gpu_worker::LlamaModel::Load(folder, ops_.get());
  CHECK(model.ok()) << model.status().ToString();
  model_ = *std::move(model);
}

gpu_worker::GeneratorOptions SmallOptions(Model& model, gpu_worker::LayerMode mode,
                                          base::DType dtype) {
  gpu_worker::GeneratorOptions options;
  options.attention.sinks = 2;
  options.attention.window = 8;
  options.attention.dtype = dtype;
  options.attention.layers.assign(static_cast<size_t>(model.config().num_layers), mode);
  options.session.model = gpu_worker::IdentityOf(*model, "tiny");
  options.session.seal_rows = 16;
  options.session.min_indexed_rows = 16;
  options.batch = 3;
  options.prefill_tokens = 24;
  return options;
}

Answers Generate(Model& model, gpu_worker::KvClient* client,
                 const gpu_worker::GeneratorOptions& options,
                 std::vector<gpu_worker::Prompt> prompts, const StepHook& hook) {
  Answers answers;
  const base::SteadyClock clock;
  gpu_worker::Generator generator(options, &*model, client, &clock);
  const absl::Status ran = generator.Run(
      std::move(prompts),
      [&](const gpu_worker::Sequence& sequence) {
        Answer& answer = answers[sequence.id];
        answer.status = sequence.status;
        answer.counts = sequence.counts;
        answer.generated.assign(
            sequence.tokens.begin() + static_cast<std::ptrdiff_t>(sequence.prompt_tokens),
            sequence.tokens.end());
        answer.ended = std::chrono::steady_clock::now();
      },
      [&](const gpu_worker::Sequence& sequence, std::span<const float> logits) {
        answers[sequence.id].logits.emplace_back(logits.begin(), logits.end());
        if (hook != nullptr) hook(sequence);
      });
  EXPECT_TRUE(ran.ok()) << ran;
  return answers;
}

double LogitDifference(const Answers& a, const Answers& b) {
  constexpr double kApart = std::numeric_limits<double>::infinity();
  double largest = 0;
  double difference = 0;
  if (a.size() != b.size()) return kApart;
  for (const auto& [id, answer] : a) {
    const auto other = b.find(id);
    if (other == b.end() || other->second.logits.size() != answer.logits.size()) return kApart;
    for (size_t step = 0; step < answer.logits.size(); ++step) {
      const std::vector<float>& x = answer.logits[step];
      const std::vector<float>& y = other->second.logits[step];
      for (size_t i = 0; i < x.size(); ++i) {
        if (!std::isfinite(x[i]) || !std::isfinite(y[i])) return kApart;
        largest = std::max(largest, std::abs(double{x[i]}));
        difference = std::max(difference, std::abs(double{x[i]} - y[i]));
      }
    }
  }
  return largest > 0 ? difference / largest : kApart;
}

base::SessionId SessionOn(int node, int num_nodes, uint64_t seed) {
  for (uint64_t low = 1;; ++low) {
    const base::SessionId id{seed, low};
    const auto placement = policy::Placement::Create({.num_nodes = num_nodes}, 1, 16, id);
    CHECK(placement.ok());
    if (placement->Nodes().front() == node) return id;
  }
}

}  // namespace sounder::e2e
