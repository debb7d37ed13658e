// The options of the worker's commands: what each is for, and what they mean for a model.
#ifndef SOUNDER_GPU_WORKER_WORKER_OPTIONS_H_
#define SOUNDER_GPU_WORKER_WORKER_OPTIONS_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/config/option_set.h"
#include "common/transport/ucx_transport.h"
#include "gpu_worker/engine/generator.h"
#include "gpu_worker/kv/kv_client.h"
#include "gpu_worker/model/forward.h"

namespace sounder::gpu_worker {

// Of every command: the model, the nodes, how its layers attend.
struct WorkerOptions {
  std::string model;
  std::vector<std::string> nodes;
  std::vector<std::string> attention = {"lsh"};
  std::string dtype = "bf16";
  int64_t bits = 10;
  int64_t tables = 150;
  int64_t min_collisions = 2;
  std::string projection = "hadamard";
  int64_t lsh_seed = 1;
  int64_t sketch_bits = 128;
  int64_t sketch_seed = 1;
  std::string row_format = "appended";
  double rows = SketchSampling().rows;
  double uniform_above = SketchSampling().uniform_above;
  double uniform_rows = 0;
  int64_t seed = 1;
  int64_t sinks = 4;
  int64_t window = 64;
  int64_t prefill_tokens = 512;
  int64_t prefill_local_rows = 0;
  int64_t seal_rows = 4096;
  int64_t min_indexed_rows = 1024;
  int64_t shard_rows = 0;
  int64_t head_shards = 0;
  int64_t audit_every = 0;
  int64_t threads = std::max(1u, std::thread::hardware_concurrency());
  base::Duration deadline = std::chrono::seconds(2);
  wire::LivenessOptions liveness = KvClientOptions().liveness;
  base::Duration prefill_deadline = std::chrono::seconds(30);
  base::Duration ttl = std::chrono::minutes(10);
  std::string durability = "memory";
  transport::UcxOptions ucx;
  std::string simd = "best";
  std::string log_level = "info";
};

struct GenerateOptions : WorkerOptions {
  std::string prompts;
  std::string output;
  std::string summary;
  int64_t batch = 8;
  bool progress = false;
};

struct ChatOptions : WorkerOptions {
  int64_t max_tokens = 256;
  std::string begin;
  std::string turn_prefix;
  std::string turn_suffix;
  std::string adopt;  // a session's id, or empty
};

void Declare(config::OptionSet& set, GenerateOptions* options);
void Declare(config::OptionSet& set, ChatOptions* options);

// INVALID_ARGUMENT for options that do not fit the model.
absl::StatusOr<GeneratorOptions> MakeGeneratorOptions(const WorkerOptions& options,
                                                      const LlamaModel& model);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_WORKER_OPTIONS_H_
