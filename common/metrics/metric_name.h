// The rule for names of metrics: sounder_<subsystem>_<name>_<unit>[_total], lower case words. The
// unit is one of a fixed list (base units, or what is counted, in plural); "_total" marks counters
// and nothing else. Label names are lower case words too. Pure functions.
#ifndef SOUNDER_COMMON_METRICS_METRIC_NAME_H_
#define SOUNDER_COMMON_METRICS_METRIC_NAME_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace sounder::metrics {

enum class MetricKind { kCounter, kGauge, kHistogram };

// INVALID_ARGUMENT naming the name and the rule it breaks.
absl::Status ValidateMetricName(std::string_view name, MetricKind kind);
absl::Status ValidateLabelName(std::string_view name);

// The units a name may end in.
const std::vector<std::string_view>& MetricUnits();

}  // namespace sounder::metrics

#endif  // SOUNDER_COMMON_METRICS_METRIC_NAME_H_
