// quality.json as a plot.
#ifndef SOUNDER_BENCH_QUALITY_QUALITY_PLOT_H_
#define SOUNDER_BENCH_QUALITY_QUALITY_PLOT_H_

#include <nlohmann/json.hpp>
#include <string>

namespace sounder::quality {

// An SVG with a panel per task: share of right answers, with its 95 % interval, against the share
// of rows actually read, a line per sampler; full attention and window only as guides.
// `quality` is what QualityJson gives; members it does not know are passed over.
std::string QualityPlot(const nlohmann::ordered_json& quality);

}  // namespace sounder::quality

#endif  // SOUNDER_BENCH_QUALITY_QUALITY_PLOT_H_
