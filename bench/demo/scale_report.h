// What demo_scale shows of the ways to attend to one session.
#ifndef SOUNDER_BENCH_DEMO_SCALE_REPORT_H_
#define SOUNDER_BENCH_DEMO_SCALE_REPORT_H_

#include <cstddef>
#include <string>
#include <vector>

#include "cli/table.h"

namespace sounder::bench {

struct WayFigures {
  std::string name;
  bool sampled = false;
  double error = 0;  // MeanRelativeError
  double rows_read_fraction = 0;
  double rows_loaded_fraction = 0;
  double ms_per_step = 0;
  double wire_bytes_per_step = 0;
  double row_bytes = 0;    // per token and kv head, on the nodes
  double index_bytes = 0;  // likewise
  double ingest_us = 0;    // likewise
};

// Mean of |o - o*| / |o*| over all outputs of `dim` elements; both have the same sizes.
double MeanRelativeError(const std::vector<std::vector<float>>& outputs,
                         const std::vector<std::vector<float>>& exact, size_t dim);

// A line for each.
std::string ScaleTable(const std::vector<WayFigures>& ways);
// Under names that begin with the way's.
void AddFigures(const WayFigures& way, cli::Record* record);

}  // namespace sounder::bench

#endif  // SOUNDER_BENCH_DEMO_SCALE_REPORT_H_
