#include "common/metrics/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace sounder::metrics {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Registry, CountsSetsAndObserves) {
  Registry registry;
  Counter& sent = registry.AddCounter("sounder_test_sent_messages_total", "Messages sent.");
  Gauge& used = registry.AddGauge("sounder_test_used_bytes", "Bytes used.");
  Histogram& wait = registry.AddHistogram("sounder_test_wait_seconds", "Time waited.", {.1, 1});
  sent.Add();
  sent.Add(2);
  used.Set(10);
  used.Add(-3);
  for (const double seconds : {.05, .5, .7, 5.0}) wait.Observe(seconds);
  EXPECT_EQ(sent.value(), 3);
  EXPECT_EQ(used.value(), 7);
  const std::string text = registry.Exposition();
  EXPECT_THAT(text, AllOf(HasSubstr("# HELP sounder_test_sent_messages_total Messages sent.\n"
                                    "# TYPE sounder_test_sent_messages_total counter\n"
                                    "sounder_test_sent_messages_total 3\n"),
                          HasSubstr("sounder_test_used_bytes 7\n"),
                          HasSubstr("sounder_test_wait_seconds_bucket{le=\"0.1\"} 1\n"
                                    "sounder_test_wait_seconds_bucket{le=\"1\"} 3\n"
                                    "sounder_test_wait_seconds_bucket{le=\"+Inf\"} 4\n")));
  EXPECT_LT(text.find("sounder_test_sent"), text.find("sounder_test_used")) << "in order of name";
}

TEST(Registry, Families) {
  Registry registry;
  auto& calls =
      registry.AddCounterFamily("sounder_test_rpc_calls_total", "Calls.", {"method", "outcome"});
  calls.With({"open", "ok"}).Add();
  calls.With({"open", "ok"}).Add();
  calls.With({"close", "failed \"\n\\"}).Add();
  EXPECT_THAT(registry.Exposition(),
              AllOf(HasSubstr("{method=\"open\",outcome=\"ok\"} 2\n"),
                    HasSubstr("{method=\"close\",outcome=\"failed \\\"\\n\\\\\"} 1\n")));
}

TEST(Registry, LabelValuesFromOutsideAreBounded) {
  Registry registry;
  auto& tenants = registry.AddGaugeFamily("sounder_test_open_sessions", "Sessions.", {"tenant"});
  const int count = static_cast<int>(Family<Gauge>::kMaxSeries) + 100;
  for (int i = 0; i < count; ++i) tenants.With({"t" + std::to_string(i)}).Add(1);
  const std::string text = registry.Exposition();
  size_t series = 0;
  for (size_t at = 0; (at = text.find("tenant=", at)) != std::string::npos; ++at) ++series;
  EXPECT_EQ(series, Family<Gauge>::kMaxSeries);
  EXPECT_EQ(tenants.With({"other"}).value(), 101);
  EXPECT_EQ(&tenants.With({"t5000"}), &tenants.With({"other"}));
  EXPECT_NE(&tenants.With({"t3"}), &tenants.With({"other"})) << "known ones keep their series";
}

TEST(Registry, CallbacksAreReadAtEachExposition) {
  Registry registry;
  double used = 1;
  double read = 10;
  registry.AddGaugeCallback("sounder_test_used_bytes", "Used.", [&] { return used; });
  registry.AddCounterCallback("sounder_test_read_rows_total", "Read.", [&] { return read; });
  EXPECT_THAT(registry.Exposition(), HasSubstr("sounder_test_used_bytes 1\n"));
  used = 5;
  read = 12;
  EXPECT_THAT(registry.Exposition(), AllOf(HasSubstr("sounder_test_used_bytes 5\n"),
                                           HasSubstr("sounder_test_read_rows_total 12\n")));
  read = 11;
  EXPECT_THAT(registry.Exposition(), HasSubstr("sounder_test_read_rows_total 12\n"))
      << "a counter never goes back";
}

TEST(Registry, Info) {
  Registry registry;
  registry.AddInfo("sounder_test_build_info", "Build.", {{"version", "1"}, {"level", "avx2"}});
  EXPECT_THAT(registry.Exposition(),
              HasSubstr("sounder_test_build_info{level=\"avx2\",version=\"1\"} 1\n"));
}

TEST(Registry, ProcessMetricsAreThere) {
  Registry registry;
  AddProcessMetrics(registry);
  const std::string text = registry.Exposition();
  const auto value_of = [&](const std::string& name) {
    const size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? -1.0 : std::stod(text.substr(at + name.size() + 2));
  };
  EXPECT_GT(value_of("process_resident_memory_bytes"), 1e6);
  EXPECT_GT(value_of("process_virtual_memory_bytes"), value_of("process_resident_memory_bytes"));
  EXPECT_GE(value_of("process_threads"), 1);
  EXPECT_GE(value_of("process_open_fds"), 3);
  EXPECT_GT(value_of("process_max_fds"), value_of("process_open_fds"));
  EXPECT_GE(value_of("process_cpu_seconds_total"), 0);
  EXPECT_NEAR(value_of("process_start_time_seconds"), static_cast<double>(time(nullptr)), 3600);
}

TEST(Registry, ThreadsLoseNoCount) {
  Registry registry;
  Counter& sent = registry.AddCounter("sounder_test_sent_messages_total", "Sent.");
  Gauge& open = registry.AddGauge("sounder_test_open_sessions", "Open.");
  Histogram& wait = registry.AddHistogram("sounder_test_wait_seconds", "Wait.", LatencyBuckets());
  auto& family = registry.AddCounterFamily("sounder_test_rpc_calls_total", "Calls.", {"method"});
  std::atomic<bool> done = false;
  std::thread scraper([&] {
    while (!done) EXPECT_FALSE(registry.Exposition().empty());
  });
  constexpr int kThreads = 4;
  constexpr int kEach = 5000;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        sent.Add();
        open.Add(i % 2 == 0 ? 1 : -1);
        wait.Observe(1e-3);
        family.With({std::to_string((i + t) % 7)}).Add();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  done = true;
  scraper.join();
  EXPECT_EQ(sent.value(), kThreads * kEach);
  EXPECT_EQ(open.value(), 0);
  double calls = 0;
  for (int m = 0; m < 7; ++m) calls += family.With({std::to_string(m)}).value();
  EXPECT_EQ(calls, kThreads * kEach);
  EXPECT_THAT(registry.Exposition(), HasSubstr("sounder_test_wait_seconds_count 20000\n"));
}

TEST(RegistryDeathTest, RulesAreChecked) {
  Registry registry;
  registry.AddCounter("sounder_test_sent_messages_total", "Sent.");
  EXPECT_DEATH(registry.AddCounter("sounder_test_sent_messages_total", "x"), "registered twice");
  EXPECT_DEATH(
      registry.AddGaugeCallback("sounder_test_sent_messages_total", "x", [] { return 0.; }),
      "only counters");
  EXPECT_DEATH(registry.AddGauge("sounder_test_used_bytes", ""), "help");
  EXPECT_DEATH(registry.AddCounter("requests", "x"), "_total");
  EXPECT_DEATH(registry.AddHistogram("sounder_test_wait_seconds", "x", {1, 1}), "ascend");
  EXPECT_DEATH(registry.AddGaugeFamily("sounder_test_used_bytes", "x", {"le"}), "label");
  auto& family = registry.AddGaugeFamily("sounder_test_open_sessions", "x", {"tenant"});
  EXPECT_DEATH(family.With({"a", "b"}), "has 1 labels");
}

TEST(Buckets, Ascend) {
  for (const auto& buckets : {LatencyBuckets(), SizeBuckets(), RatioBuckets()}) {
    for (size_t i = 1; i < buckets.size(); ++i) EXPECT_LT(buckets[i - 1], buckets[i]);
  }
  EXPECT_EQ(SizeBuckets().back(), double{256 << 20});
}

}  // namespace
}  // namespace sounder::metrics
