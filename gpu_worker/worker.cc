#include "gpu_worker/worker.h"

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/base/absl_text.h"
#include "common/config/commands.h"
#include "common/config/logging.h"
#include "common/config/option_set.h"
#include "common/kernels/simd_level.h"
#include "gpu_worker/ops/ops_cpu.h"

namespace sounder::gpu_worker {

int Fail(int exit_code, const absl::Status& status) {
  std::fprintf(stderr, "sounder_worker: %s\n", base::MessageOf(status).c_str());
  return exit_code;
}

int ExitCodeOf(const absl::Status& status) {
  const bool world = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
                     absl::IsResourceExhausted(status);
  return world ? kExitUnavailable : kExitBadInput;
}

std::optional<int> Worker::Load() {
  config::SetLogLevel(options_.log_level);
  if (absl::Status status = kernels::ForceSimdLevel(options_.simd); !status.ok()) {
    return Fail(config::kExitUsage, base::Annotate(status, "--simd"));
  }
  absl::StatusOr<std::unique_ptr<Ops>> ops = MakeCpuOps({static_cast<int>(options_.threads)});
  if (!ops.ok()) return Fail(config::kExitUsage, ops.status());
  ops_ = *std::move(ops);
  absl::StatusOr<std::unique_ptr<LlamaModel>> model = LlamaModel::Load(options_.model, ops_.get());
  if (!model.ok()) return Fail(kExitBadInput, model.status());
  model_ = *std::move(model);
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      Tokenizer::Load(options_.model + "/tokenizer.json");
  if (!tokenizer.ok() && !absl::IsNotFound(tokenizer.status())) {
    return Fail(kExitBadInput, tokenizer.status());
  }
  if (tokenizer.ok()) tokenizer_ = *std::move(tokenizer);
  absl::StatusOr<GeneratorOptions> generator_options = MakeGeneratorOptions(options_, *model_);
  if (!generator_options.ok()) return Fail(config::kExitUsage, generator_options.status());
  generator_options_ = *std::move(generator_options);
  if (generator_options_.attention.AnyRemote() && options_.nodes.empty()) {
    return Fail(config::kExitUsage, absl::InvalidArgumentError(
                                        "--attention exact, lsh and sketch need nodes (--nodes)"));
  }
  return std::nullopt;
}

std::optional<int> Worker::Connect() {
  if (!generator_options_.attention.AnyRemote()) return std::nullopt;
  KvClientOptions client_options;
  client_options.deadline = options_.deadline;
  client_options.block_deadline = options_.prefill_deadline;
  client_options.seed = std::random_device{}();
  client_options.liveness = options_.liveness;
  absl::StatusOr<std::unique_ptr<KvConnection>> created =
      KvConnection::Connect(options_.nodes, client_options, transport::MakeUcxEngine(options_.ucx));
  if (!created.ok()) {
    const bool usage = absl::IsInvalidArgument(created.status());
    return Fail(usage ? config::kExitUsage : ExitCodeOf(created.status()), created.status());
  }
  connection_ = *std::move(created);
  return std::nullopt;
}

}  // namespace sounder::gpu_worker
