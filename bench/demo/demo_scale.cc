// demo_scale: a long synthetic session on real nodes, through the worker's KV client.
//
// Keys, values and queries come from bench/generator (synthetic, labelled so). Appends `positions`
// rows of every layer and kv head to two sessions, one with LSH tables and one with sketches, then
// attends `steps` times by turns, exact and sampled by either, and prints error, bytes and times.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/demo/scale_report.h"
#include "bench/generator/synthetic.h"
#include "cli/table.h"
#include "common/base/absl_text.h"
#include "common/base/status_macros.h"
#include "common/config/environment.h"
#include "common/config/option_set.h"
#include "common/kernels/signature.h"
#include "gpu_worker/engine/sketch_hints.h"
#include "gpu_worker/kv/kv_connection.h"

namespace sounder::bench {
namespace {

using gpu_worker::AppendRows;
using gpu_worker::AttendQuery;
using gpu_worker::KvClient;
using gpu_worker::KvConnection;
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
  int64_t sketch_bits = 128;
  double rows = .02;
  std::string row_format = "int8";
  int64_t seal_rows = 65536;
  int64_t seed = 1;
  base::Duration deadline = std::chrono::seconds(20);
  bool json = false;
};

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// One way to attend to the session, and what its steps came to.
struct Way {
  std::string name;
  wire::AttentionKind kind = wire::AttentionKind::kExact;
  std::shared_ptr<RemoteSession> session;      // exact: somebody else's
  std::vector<gpu_worker::SketchHints> hints;  // [layer], of sketch
  double ingest_seconds = 0;
  double row_bytes = 0;  // per token and kv head, on the nodes
  double index_bytes = 0;

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
    exact_.name = "exact";
    lsh_.name = "lsh";
    lsh_.kind = wire::AttentionKind::kLshTables;
    sketch_.name = "sketch";
    sketch_.kind = wire::AttentionKind::kSketch;
  }

  absl::Status Run() {
    absl::Status status = FillAndAttend();
    for (Way* way : {&lsh_, &sketch_}) {
      if (way->session == nullptr) continue;
      const absl::Status closed = client_->Close(way->session.get());
      if (status.ok()) status = closed;
    }
    return status;
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

  absl::Status Open(Way* way) {
    gpu_worker::RemoteSessionOptions session;
    session.model.name = "synthetic " + options_.family;
    session.model.weights_digest = absl::StrCat("seed ", options_.seed);
    session.model.layers = static_cast<uint32_t>(options_.layers);
    session.model.kv_heads = static_cast<uint32_t>(options_.kv_heads);
    session.model.query_heads = static_cast<uint32_t>(options_.query_heads);
    session.model.head_dim = static_cast<uint32_t>(options_.dim);
    session.seal_rows = static_cast<uint32_t>(options_.seal_rows);
    if (way->kind == wire::AttentionKind::kSketch) {
      session.sketch = {static_cast<uint32_t>(options_.sketch_bits), 1};
      if (options_.row_format == "int8") session.row_format = wire::RowFormat::kInt8;
      const gpu_worker::SketchSampling sampling = {.rows = options_.rows,
                                                   .uniform_rows = std::min(1., 2 * options_.rows)};
      way->hints.assign(static_cast<size_t>(options_.layers),
                        gpu_worker::SketchHints(sampling, options_.kv_heads,
                                                options_.query_heads / options_.kv_heads));
    } else {
      session.lsh = {static_cast<uint32_t>(options_.bits), static_cast<uint32_t>(options_.tables),
                     2, wire::Projection::kHadamard, 1};
    }
    for (uint32_t layer = 0; layer < options_.layers; ++layer) {
      session.indexed_layers.push_back(layer);
    }
    session.head_shards = static_cast<int>(
        std::min<int64_t>(options_.kv_heads, static_cast<int64_t>(options_.nodes.size())));
    session.ttl_seconds = 600;
    ASSIGN_OR_RETURN(way->session, client_->Open(session));
    return absl::OkStatus();
  }

  // Each index has a session with the same rows; steps of all ways take turns.
  absl::Status FillAndAttend() {
    for (Way* way : {&lsh_, &sketch_}) {
      RETURN_IF_ERROR(Open(way));
      RETURN_IF_ERROR(Fill(way));
    }
    exact_.session = lsh_.session;
    exact_.row_bytes = lsh_.row_bytes;
    for (int64_t step = 0; step < options_.steps; ++step) {
      for (Way* way : {&exact_, &lsh_, &sketch_}) RETURN_IF_ERROR(Attend(way, step));
    }
    Report();
    return absl::OkStatus();
  }

  absl::Status Fill(Way* way) {
    double rows_before = 0;
    double index_before = 0;
    RETURN_IF_ERROR(BytesOnNodes(&rows_before, &index_before));
    RETURN_IF_ERROR(AppendAll(way));
    // The first sampled step waits for the last index: the end of ingest.
    Way warm_up = *way;
    RETURN_IF_ERROR(Attend(&warm_up, 0));
    way->ingest_seconds += warm_up.seconds.front();
    RETURN_IF_ERROR(BytesOnNodes(&way->row_bytes, &way->index_bytes));
    way->row_bytes -= rows_before;
    way->index_bytes -= index_before;
    return absl::OkStatus();
  }

  // Per token and kv head of a session.
  absl::Status BytesOnNodes(double* row_bytes, double* index_bytes) {
    *row_bytes = *index_bytes = 0;
    for (const absl::StatusOr<wire::NodeStatus>& status : client_->NodeStatuses()) {
      RETURN_IF_ERROR(status.status());
      *row_bytes += static_cast<double>(status->row_bytes) / Rows();
      *index_bytes += static_cast<double>(status->index_bytes) / Rows();
    }
    return absl::OkStatus();
  }

  // Rows are generated in blocks; only the time from handing them over counts as ingest.
  absl::Status AppendAll(Way* way) {
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
      RETURN_IF_ERROR(client_->Append(way->session.get(), rows));
      RETURN_IF_ERROR(client_->WaitAppended(way->session.get(), end));
      way->ingest_seconds += SecondsSince(start);
      std::fprintf(stderr, "\r  %s: appended %lld of %lld positions", way->name.c_str(),
                   static_cast<long long>(end), static_cast<long long>(options_.positions));
    }
    std::fprintf(stderr, "\n");
    return absl::OkStatus();
  }

  std::vector<float> Queries(size_t layer, int64_t step) const {
    std::vector<float> queries;
    const size_t kv_heads = static_cast<size_t>(options_.kv_heads);
    for (size_t head = 0; head < kv_heads; ++head) {
      for (const float q : heads_[layer * kv_heads + head].Queries(step)) {
        queries.push_back(base::RoundTo(base::DType::kBF16, q));
      }
    }
    return queries;
  }

  absl::Status Attend(Way* way, int64_t step) {
    std::vector<std::vector<float>> queries;
    for (size_t layer = 0; layer < static_cast<size_t>(options_.layers); ++layer) {
      queries.push_back(Queries(layer, step));
    }
    const uint64_t bytes_before = WireBytes();
    const auto start = std::chrono::steady_clock::now();
    for (size_t layer = 0; layer < queries.size(); ++layer) {
      AttendQuery query;
      query.session = way->session.get();
      query.queries = queries[layer].data();
      query.range = {0, options_.positions};
      query.layout_position = options_.positions;
      query.scale = 1.0f / std::sqrt(static_cast<float>(options_.dim));
      query.step = static_cast<uint64_t>(step);
      std::vector<uint64_t> signatures;
      if (way->kind == wire::AttentionKind::kLshTables) {
        const lsh::Projection& projection = *way->session->projection();
        signatures.resize(static_cast<size_t>(options_.query_heads) *
                          static_cast<size_t>(projection.params().words()));
        kernels::SignVectors(projection, query.queries, options_.dim, options_.query_heads,
                             signatures.data());
        query.attention = way->kind;
        query.signatures = signatures.data();
      }
      if (way->kind == wire::AttentionKind::kSketch) way->hints[layer].Ask(step, &query);
      client_->StartAttend(static_cast<uint32_t>(layer), std::span(&query, 1))->Wait();
      RETURN_IF_ERROR(query.status);
      if (way->kind == wire::AttentionKind::kSketch) way->hints[layer].Learn(query);
      way->rows_visible += query.rows_visible;
      way->rows_read += query.rows_read;
      way->rows_loaded += query.rows_loaded;
      way->outputs.push_back(std::move(query.outputs));
    }
    way->seconds.push_back(SecondsSince(start));
    way->bytes += WireBytes() - bytes_before;
    return absl::OkStatus();
  }

  uint64_t WireBytes() const {
    const wire::DataClientCounters counters = client_->counters();
    return counters.attend_bytes_sent + counters.attend_bytes_received;
  }

  // (token, kv head) pairs of all layers.
  double Rows() const {
    return static_cast<double>(options_.positions * options_.layers * options_.kv_heads);
  }

  WayFigures FiguresOf(const Way& way) const {
    const double visible = static_cast<double>(way.rows_visible);
    const double group = static_cast<double>(options_.query_heads / options_.kv_heads);
    WayFigures figures;
    figures.name = way.name;
    figures.sampled = way.kind != wire::AttentionKind::kExact;
    figures.error =
        MeanRelativeError(way.outputs, exact_.outputs, static_cast<size_t>(options_.dim));
    figures.rows_read_fraction = static_cast<double>(way.rows_read) / visible;
    figures.rows_loaded_fraction = static_cast<double>(way.rows_loaded) * group / visible;
    figures.ms_per_step = way.MedianMs();
    figures.wire_bytes_per_step =
        static_cast<double>(way.bytes) / static_cast<double>(options_.steps);
    figures.row_bytes = way.row_bytes;
    figures.index_bytes = way.index_bytes;
    figures.ingest_us = 1e6 * way.ingest_seconds / Rows();
    return figures;
  }

  void Report() const {
    cli::Record record;
    record.Add("data", std::string("synthetic ") + options_.family);
    record.Add("positions", options_.positions);
    record.Add("layers", options_.layers);
    record.Add("query_heads", options_.query_heads);
    record.Add("kv_heads", options_.kv_heads);
    record.Add("head_dim", options_.dim);
    record.Add("nodes", static_cast<int64_t>(options_.nodes.size()));
    record.Add("lsh", absl::StrCat(options_.bits, " bits, ", options_.tables, " tables"));
    record.Add("sketch", absl::StrCat(options_.sketch_bits, " bits, ", 100 * options_.rows,
                                      "% of the rows, ", options_.row_format));
    const std::vector<WayFigures> ways = {FiguresOf(exact_), FiguresOf(lsh_), FiguresOf(sketch_)};
    if (options_.json) {
      for (const WayFigures& way : ways) AddFigures(way, &record);
      std::printf("%s\n", record.ToJson().c_str());
    } else {
      std::printf("%s\n%s", record.ToText().c_str(), ScaleTable(ways).c_str());
    }
  }

  const Options options_;
  KvClient* const client_;
  const generator::Cache cache_;
  std::vector<generator::Head> heads_;  // [layer * kv_heads + head]
  Way exact_, lsh_, sketch_;
};

int Run(const Options& options) {
  gpu_worker::KvClientOptions client_options;
  client_options.deadline = options.deadline;
  const auto connection =
      KvConnection::Connect(options.nodes, client_options, transport::MakeUcxEngine({}));
  absl::Status status = connection.status();
  if (status.ok()) status = ScaleDemo(options, &(*connection)->client()).Run();
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
  set.AddInt("sketch_bits", &options.sketch_bits, "sign bits of a key's sketch",
             {.min = 64, .max = 256});
  set.AddDouble("rows", &options.rows, "sketch: share of the rows to read", {.min = 0, .max = 1});
  set.AddText("row_format", &options.row_format, "sketch: what sampling reads",
              {"appended", "int8"});
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
