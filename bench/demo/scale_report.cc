#include "bench/demo/scale_report.h"

#include <cmath>
#include <cstdint>
#include <cstdio>

namespace sounder::bench {
namespace {

std::string Number(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

}  // namespace

double MeanRelativeError(const std::vector<std::vector<float>>& outputs,
                         const std::vector<std::vector<float>>& exact, size_t dim) {
  double sum = 0;
  int64_t count = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    for (size_t at = 0; at < exact[i].size(); at += dim) {
      double difference = 0;
      double norm = 0;
      for (size_t d = at; d < at + dim; ++d) {
        const double delta = double{outputs[i][d]} - exact[i][d];
        difference += delta * delta;
        norm += double{exact[i][d]} * exact[i][d];
      }
      sum += std::sqrt(difference / norm);
      ++count;
    }
  }
  return sum / static_cast<double>(count);
}

std::string ScaleTable(const std::vector<WayFigures>& ways) {
  cli::Table table({"attention", "error", "rows read", "ms/step", "KiB/step", "index B/token",
                    "row B/token", "ingest us/token"});
  for (const WayFigures& way : ways) {
    table.AddRow({way.name, way.sampled ? Number(way.error, 3) : "0",
                  Number(100 * way.rows_read_fraction, 2) + "%", Number(way.ms_per_step, 2),
                  Number(way.wire_bytes_per_step / 1024, 1), Number(way.index_bytes, 1),
                  Number(way.row_bytes, 1), way.sampled ? Number(way.ingest_us, 2) : "-"});
  }
  return table.ToText();
}

void AddFigures(const WayFigures& way, cli::Record* record) {
  const auto add = [&](const char* what, double value) {
    record->Add(way.name + "_" + what, value);
  };
  add("ms_per_step", way.ms_per_step);
  add("wire_bytes_per_step", way.wire_bytes_per_step);
  if (!way.sampled) return;
  add("mean_relative_error", way.error);
  add("rows_read_fraction", way.rows_read_fraction);
  add("rows_loaded_fraction", way.rows_loaded_fraction);
  add("row_bytes_per_token_and_kv_head", way.row_bytes);
  add("index_bytes_per_token_and_kv_head", way.index_bytes);
  add("ingest_us_per_token_and_kv_head", way.ingest_us);
}

}  // namespace sounder::bench
