// demo_scale: a long synthetic session on real nodes, through the worker's KV client.
//
// Keys, values and queries come from bench/generator (synthetic, labelled so). Appends `positions`
// rows of every layer and kv head, then attends `steps` times, exact and sampled by LSH tables, and
// prints rates, error and bytes.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/generator/synthetic.h"
#include "cli/table.h"
#include "common/base/absl_text.h"
#include "common/base/status_macros.h"
#include "common/base/thread_executor.h"
#include "common/config/environment.h"
#include "common/config/option_set.h"
#include "common/kernels/signature.h"
#include "common/transport/ucx_transport.h"
#include "common/wire/control_client.h"
#include "gpu_worker/kv/kv_client.h"

namespace sounder::bench {
namespace {

using gpu_worker::AppendRows;
using gpu_worker::AttendQuery;
using gpu_worker::KvClient;
using gpu_worker::RemoteSession;

struct Options {
  std::vector<std::string> nodes;
  std::string family = "peaked";
  int64_t positions = 131072;
  int64_t layers = 2;
  int64_t query_heads = 32;
  int64_t kv_heads = 8;
  int64_t dim = 128;
  int64_t steps = 8;
  int64_t bits = 10;
  int64_t tables = 150;
  int64_t seal_rows = 65536;
  int64_t seed = 1;
  base::Duration deadline = std::chrono::seconds(20);
  bool json = false;
};

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// What the steps of one kind of attention came to.
struct Attended {
  std::vector<double> seconds;              // per step, all layers
  std::vector<std::vector<float>> outputs;  // [step * layers + layer], all query heads
  uint64_t rows_visible = 0;
  uint64_t rows_read = 0;
  uint64_t rows_loaded = 0;
  uint64_t bytes = 0;

  double MedianMs() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted.empty() ? 0 : 1e3 * sorted[sorted.size() / 2];
  }
};

class ScaleDemo {
 public:
  ScaleDemo(const Options& options, KvClient* client)
      : options_(options), client_(client), cache_(CacheOptions(options)) {
    for (int64_t layer = 0; layer < options.layers; ++layer) {
      for (int64_t head = 0; head < options.kv_heads; ++head) {
        heads_.push_back(cache_.MakeHead(static_cast<int>(layer), static_cast<int>(head)));
      }
    }
  }

  absl::Status Run() {
    RETURN_IF_ERROR(Open());
    const absl::Status status = AppendAndAttend();
    const absl::Status closed = client_->Close(session_.get());
    return status.ok() ? closed : status;
  }

 private:
  static generator::Options CacheOptions(const Options& options) {
    generator::Options cache;
    cache.family = *generator::ParseFamily(options.family);
    cache.seed = static_cast<uint64_t>(options.seed);
    cache.dim = static_cast<int>(options.dim);
    cache.group = static_cast<int>(options.query_heads / options.kv_heads);
    cache.n = options.positions;
    return cache;
  }

  absl::Status Open() {
    gpu_worker::RemoteSessionOptions session;
    session.model.name = "synthetic " + options_.family;
    session.model.weights_digest = absl::StrCat("seed ", options_.seed);
    session.model.layers = static_cast<uint32_t>(options_.layers);
    session.model.kv_heads = static_cast<uint32_t>(options_.kv_heads);
    session.model.query_heads = static_cast<uint32_t>(options_.query_heads);
    session.model.head_dim = static_cast<uint32_t>(options_.dim);
    session.seal_rows = static_cast<uint32_t>(options_.seal_rows);
    session.lsh = {static_cast<uint32_t>(options_.bits), static_cast<uint32_t>(options_.tables), 2,
                   wire::Projection::kHadamard, 1};
    for (uint32_t layer = 0; layer < options_.layers; ++layer) {
      session.indexed_layers.push_back(layer);
    }
    session.head_shards = static_cast<int>(
        std::min<int64_t>(options_.kv_heads, static_cast<int64_t>(options_.nodes.size())));
    session.ttl_seconds = 600;
    ASSIGN_OR_RETURN(session_, client_->Open(session));
    return absl::OkStatus();
  }

  absl::Status AppendAndAttend() {
    RETURN_IF_ERROR(AppendAll());
    Attended exact;
    Attended sampled;
    Attended warm_up;
    // The first sampled step waits for the last index: the end of ingest.
    RETURN_IF_ERROR(Attend(wire::AttentionKind::kLshTables, 0, &warm_up));
    ingest_seconds_ += warm_up.seconds.front();
    for (int64_t step = 0; step < options_.steps; ++step) {
      RETURN_IF_ERROR(Attend(wire::AttentionKind::kExact, step, &exact));
      RETURN_IF_ERROR(Attend(wire::AttentionKind::kLshTables, step, &sampled));
    }
    return Report(exact, sampled);
  }

  // Rows are generated in blocks; only the time from handing them over counts as ingest.
  absl::Status AppendAll() {
    const size_t dim = static_cast<size_t>(options_.dim);
    for (int64_t begin = 0; begin < options_.positions; begin += generator::kBlockRows) {
      const int64_t end = std::min(begin + generator::kBlockRows, options_.positions);
      const size_t bytes = static_cast<size_t>(end - begin) * dim * 2;
      std::vector<std::vector<std::byte>> keys(heads_.size(), std::vector<std::byte>(bytes));
      std::vector<std::vector<std::byte>> values(keys);
      for (size_t head = 0; head < heads_.size(); ++head) {
        heads_[head].RowsAs(base::DType::kBF16, begin, end, keys[head].data(), values[head].data(),
                            static_cast<int64_t>(dim * 2));
      }
      const auto start = std::chrono::steady_clock::now();
      AppendRows rows;
      rows.first_position = begin;
      rows.row_count = end - begin;
      rows.seal_after = end == options_.positions;
      rows.rows = [&](uint32_t layer, uint32_t head) {
        const size_t at = layer * static_cast<size_t>(options_.kv_heads) + head;
        return AppendRows::Head{keys[at], values[at]};
      };
      RETURN_IF_ERROR(client_->Append(session_.get(), rows));
      RETURN_IF_ERROR(client_->WaitAppended(session_.get(), end));
      ingest_seconds_ += SecondsSince(start);
      std::fprintf(stderr, "\r  appended %lld of %lld positions", static_cast<long long>(end),
                   static_cast<long long>(options_.positions));
    }
    std::fprintf(stderr, "\n");
    return absl::OkStatus();
  }

  absl::Status Attend(wire::AttentionKind kind, int64_t step, Attended* attended) {
    const size_t width = static_cast<size_t>(options_.query_heads * options_.dim);
    std::vector<std::vector<float>> queries(static_cast<size_t>(options_.layers));
    for (size_t layer = 0; layer < queries.size(); ++layer) {
      for (int64_t head = 0; head < options_.kv_heads; ++head) {
        const std::vector<float> group =
            heads_[layer * static_cast<size_t>(options_.kv_heads) + static_cast<size_t>(head)]
                .Queries(step);
        for (const float q : group) {
          queries[layer].push_back(base::RoundTo(base::DType::kBF16, q));
        }
      }
    }
    const uint64_t bytes_before = WireBytes();
    const auto start = std::chrono::steady_clock::now();
    for (size_t layer = 0; layer < queries.size(); ++layer) {
      AttendQuery query;
      query.session = session_.get();
      query.queries = queries[layer].data();
      query.range = {0, options_.positions};
      query.layout_position = options_.positions;
      query.attention = kind;
      query.scale = 1.0f / std::sqrt(static_cast<float>(options_.dim));
      query.step = static_cast<uint64_t>(step);
      std::vector<uint64_t> signatures;
      if (kind == wire::AttentionKind::kLshTables) {
        const lsh::Projection& projection = *session_->projection();
        signatures.resize(static_cast<size_t>(options_.query_heads) *
                          static_cast<size_t>(projection.params().words()));
        kernels::SignVectors(projection, query.queries, options_.dim, options_.query_heads,
                             signatures.data());
        query.signatures = signatures.data();
      }
      client_->StartAttend(static_cast<uint32_t>(layer), std::span(&query, 1))->Wait();
      RETURN_IF_ERROR(query.status);
      attended->rows_visible += query.rows_visible;
      attended->rows_read += query.rows_read;
      attended->rows_loaded += query.rows_loaded;
      CHECK(query.outputs.size() == width);
      attended->outputs.push_back(std::move(query.outputs));
    }
    attended->seconds.push_back(SecondsSince(start));
    attended->bytes += WireBytes() - bytes_before;
    return absl::OkStatus();
  }

  uint64_t WireBytes() const {
    const wire::DataClientCounters counters = client_->counters();
    return counters.attend_bytes_sent + counters.attend_bytes_received;
  }

  // Mean over steps, layers and heads of |o - o*| / |o*|.
  double MeanError(const Attended& exact, const Attended& sampled) const {
    double sum = 0;
    int64_t count = 0;
    const size_t dim = static_cast<size_t>(options_.dim);
    for (size_t i = 0; i < exact.outputs.size(); ++i) {
      for (size_t at = 0; at < exact.outputs[i].size(); at += dim) {
        double difference = 0;
        double norm = 0;
        for (size_t d = at; d < at + dim; ++d) {
          const double delta = double{sampled.outputs[i][d]} - exact.outputs[i][d];
          difference += delta * delta;
          norm += double{exact.outputs[i][d]} * exact.outputs[i][d];
        }
        sum += std::sqrt(difference / norm);
        ++count;
      }
    }
    return sum / static_cast<double>(count);
  }

  absl::Status Report(const Attended& exact, const Attended& sampled) {
    uint64_t row_bytes = 0;
    uint64_t index_bytes = 0;
    for (const absl::StatusOr<wire::NodeStatus>& status : client_->NodeStatuses()) {
      RETURN_IF_ERROR(status.status());
      row_bytes += status->row_bytes;
      index_bytes += status->index_bytes;
    }
    const double streams = static_cast<double>(options_.layers * options_.kv_heads);
    const double rows = static_cast<double>(options_.positions) * streams;
    const auto fraction = [](uint64_t a, uint64_t b) {
      return static_cast<double>(a) / static_cast<double>(b);
    };
    cli::Record record;
    record.Add("data", std::string("synthetic ") + options_.family);
    record.Add("positions", options_.positions);
    record.Add("layers", options_.layers);
    record.Add("query_heads", options_.query_heads);
    record.Add("kv_heads", options_.kv_heads);
    record.Add("head_dim", options_.dim);
    record.Add("nodes", static_cast<int64_t>(options_.nodes.size()));
    record.Add("sampler", absl::StrCat("lsh (", options_.bits, ", ", options_.tables, ")"));
    record.Add("ingest_seconds", ingest_seconds_);
    record.Add("ingest_positions_per_second",
               static_cast<double>(options_.positions) / ingest_seconds_);
    record.Add("ingest_us_per_token_and_kv_head", 1e6 * ingest_seconds_ / rows);
    record.Add("exact_ms_per_step", exact.MedianMs());
    record.Add("lsh_ms_per_step", sampled.MedianMs());
    record.Add("lsh_mean_relative_error", MeanError(exact, sampled));
    record.Add("lsh_rows_read_fraction", fraction(sampled.rows_read, sampled.rows_visible));
    record.Add("lsh_rows_loaded_fraction",
               fraction(sampled.rows_loaded,
                        sampled.rows_visible /
                            static_cast<uint64_t>(options_.query_heads / options_.kv_heads)));
    record.Add("wire_bytes_per_step_exact",
               static_cast<double>(exact.bytes) / static_cast<double>(options_.steps));
    record.Add("wire_bytes_per_step_lsh",
               static_cast<double>(sampled.bytes) / static_cast<double>(options_.steps));
    record.Add("row_bytes_per_token_and_kv_head", static_cast<double>(row_bytes) / rows);
    record.Add("index_bytes_per_token_and_kv_head", static_cast<double>(index_bytes) / rows);
    std::printf("%s", options_.json ? (record.ToJson() + "\n").c_str() : record.ToText().c_str());
    return absl::OkStatus();
  }

  const Options options_;
  KvClient* const client_;
  const generator::Cache cache_;
  std::vector<generator::Head> heads_;  // [layer * kv_heads + head]
  std::shared_ptr<RemoteSession> session_;
  double ingest_seconds_ = 0;
};

int Run(const Options& options) {
  base::ThreadExecutor executor(1, "scale");
  std::unique_ptr<KvClient> client;  // outlives the transport
  transport::UcxTransport transport{transport::UcxOptions{}};
  gpu_worker::KvClientOptions client_options;
  client_options.deadline = options.deadline;
  std::vector<std::unique_ptr<wire::ControlChannel>> nodes;
  for (const std::string& node : options.nodes) {
    nodes.push_back(std::make_unique<wire::ControlClient>(node, options.deadline));
  }
  absl::StatusOr<std::unique_ptr<KvClient>> created =
      KvClient::Create(client_options, std::move(nodes), &transport, &executor);
  absl::Status status = created.status();
  if (status.ok()) {
    client = *std::move(created);
    status = ScaleDemo(options, client.get()).Run();
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "demo_scale: %s\n", base::MessageOf(status).c_str());
  return 1;
}

}  // namespace
}  // namespace sounder::bench

int main(int argc, char** argv) {
  using namespace sounder;
  bench::Options options;
  config::OptionSet set("demo_scale", "A long synthetic session on real nodes.");
  set.AddList("nodes", &options.nodes, "control addresses of the KV nodes");
  set.AddText("family", &options.family, "shape of the synthetic attention",
              {"peaked", "flat", "mid", "sharp", "diffuse"});
  set.AddInt("positions", &options.positions, "positions to append", {.min = 1});
  set.AddInt("layers", &options.layers, "layers", {.min = 1, .max = 128});
  set.AddInt("query_heads", &options.query_heads, "query heads", {.min = 1, .max = 256});
  set.AddInt("kv_heads", &options.kv_heads, "kv heads", {.min = 1, .max = 64});
  set.AddInt("dim", &options.dim, "head dim", {.min = 8, .max = 512});
  set.AddInt("steps", &options.steps, "decode steps", {.min = 1});
  set.AddInt("bits", &options.bits, "LSH bits per table", {.min = 1, .max = 16});
  set.AddInt("tables", &options.tables, "LSH tables", {.min = 1, .max = 1024});
  set.AddInt("seal_rows", &options.seal_rows, "rows per segment", {.min = 16, .max = 65536});
  set.AddInt("seed", &options.seed, "of the synthetic data");
  set.AddDuration("deadline", &options.deadline, "how long a node may take to answer");
  set.AddBool("json", &options.json, "print one JSON object");
  set.Require("nodes");
  if (std::optional<int> exit = set.ParseOrExit(argc, argv, config::EnvironmentFromProcess())) {
    return *exit;
  }
  return bench::Run(options);
}
