#include "common/metrics/metric_name.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/absl_text.h"

namespace sounder::metrics {
namespace {

TEST(MetricName, TakesNamesThatKeepTheRule) {
  EXPECT_TRUE(ValidateMetricName("sounder_node_attend_requests_total", MetricKind::kCounter).ok());
  EXPECT_TRUE(ValidateMetricName("sounder_node_memory_used_bytes", MetricKind::kGauge).ok());
  EXPECT_TRUE(ValidateMetricName("sounder_node_attend_seconds", MetricKind::kHistogram).ok());
}

TEST(MetricName, RefusesOthersAndNamesTheRule) {
  const struct {
    const char* name;
    MetricKind kind;
    const char* rule;
  } cases[] = {
      {"", MetricKind::kGauge, "lower case"},
      {"sounder_Node_used_bytes", MetricKind::kGauge, "lower case"},
      {"sounder__used_bytes", MetricKind::kGauge, "lower case"},
      {"sounder_node_used_bytes_", MetricKind::kGauge, "lower case"},
      {"sounder_node_used bytes", MetricKind::kGauge, "lower case"},
      {"sounder_node_attend_requests", MetricKind::kCounter, "ends in _total"},
      {"sounder_node_attend_requests_total", MetricKind::kGauge, "only counters"},
      {"sounder_node_attend_seconds_total", MetricKind::kHistogram, "only counters"},
      {"node_memory_used_bytes", MetricKind::kGauge, "expected sounder_"},
      {"sounder_node_bytes", MetricKind::kGauge, "expected sounder_"},
      {"sounder_node_bytes_total", MetricKind::kCounter, "expected sounder_"},
      {"sounder_node_wait_milliseconds", MetricKind::kGauge, "not a unit"},
      {"sounder_node_attend_latency", MetricKind::kHistogram, "not a unit"},
  };
  for (const auto& c : cases) {
    const absl::Status status = ValidateMetricName(c.name, c.kind);
    ASSERT_FALSE(status.ok()) << c.name;
    EXPECT_THAT(base::MessageOf(status), ::testing::HasSubstr(c.rule)) << c.name;
  }
}

TEST(MetricName, Labels) {
  for (const char* good : {"tenant", "kv_head", "stage2"})
    EXPECT_TRUE(ValidateLabelName(good).ok());
  for (const char* bad : {"", "Tenant", "2x", "_x", "__name__", "le", "quantile", "a-b"}) {
    EXPECT_FALSE(ValidateLabelName(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace sounder::metrics
