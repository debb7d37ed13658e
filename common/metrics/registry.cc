#include "common/metrics/registry.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <tuple>
#include <utility>

#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/metrics/metric_name.h"

namespace sounder::metrics {
namespace {

// Ours over one prometheus::Family. `Extra` are the arguments every series is made with.
template <typename Metric, typename Foreign, typename... Extra>
class SeriesOf final : public Family<Metric> {
 public:
  SeriesOf(prometheus::Family<Foreign>& family, std::vector<std::string> label_names,
           Extra... extra)
      : family_(family), label_names_(std::move(label_names)), extra_(std::move(extra)...) {}

  Metric& With(const std::vector<std::string>& label_values) override {
    CHECK(label_values.size() == label_names_.size())
        << family_.GetName() << " has " << label_names_.size() << " labels";
    std::lock_guard lock(mutex_);
    auto found = series_.find(label_values);
    if (found != series_.end()) return found->second;
    if (series_.size() + 1 < Family<Metric>::kMaxSeries) return Make(label_values);
    const std::vector<std::string> other(label_names_.size(), "other");
    found = series_.find(other);
    return found != series_.end() ? found->second : Make(other);
  }

 private:
  Metric& Make(const std::vector<std::string>& label_values) {
    prometheus::Labels labels;
    for (size_t i = 0; i < label_names_.size(); ++i) labels[label_names_[i]] = label_values[i];
    Foreign& made = std::apply(
        [&](const Extra&... extra) -> Foreign& { return family_.Add(labels, extra...); }, extra_);
    return series_.try_emplace(label_values, made).first->second;
  }

  prometheus::Family<Foreign>& family_;
  const std::vector<std::string> label_names_;
  const std::tuple<Extra...> extra_;
  std::mutex mutex_;
  std::map<std::vector<std::string>, Metric> series_;  // guarded by mutex_
};

using CounterSeries = SeriesOf<Counter, prometheus::Counter>;
using GaugeSeries = SeriesOf<Gauge, prometheus::Gauge>;
using HistogramSeries = SeriesOf<Histogram, prometheus::Histogram, std::vector<double>>;

std::vector<double> Powers(double first, double factor, int count) {
  std::vector<double> bounds;
  for (int i = 0; i < count; ++i, first *= factor) bounds.push_back(first);
  return bounds;
}

}  // namespace

struct Registry::State {
  struct GaugeReader {
    std::function<double()> read;
    prometheus::Gauge* gauge;
  };
  struct CounterReader {
    std::function<double()> read;
    prometheus::Counter* counter;
  };

  prometheus::Registry registry;
  mutable std::mutex mutex;  // guards everything below
  std::set<std::string> names;
  std::vector<std::unique_ptr<Family<Counter>>> counters;
  std::vector<std::unique_ptr<Family<Gauge>>> gauges;
  std::vector<std::unique_ptr<Family<Histogram>>> histograms;
  std::vector<GaugeReader> gauge_readers;
  std::vector<CounterReader> counter_readers;

  // Takes the name, which must keep the rules and be new.
  void Claim(const std::string& name, const std::string& help, MetricKind kind,
             const std::vector<std::string>& label_names) {
    const absl::Status valid = ValidateMetricName(name, kind);
    CHECK(valid.ok()) << base::MessageOf(valid);
    ClaimStandard(name, help);
    for (const std::string& label : label_names) {
      const absl::Status label_valid = ValidateLabelName(label);
      CHECK(label_valid.ok()) << base::MessageOf(label_valid);
    }
  }
  void ClaimStandard(const std::string& name, const std::string& help) {
    CHECK(!help.empty()) << name << " needs a help text";
    CHECK(names.insert(name).second) << name << " is registered twice";
  }
};

Registry::Registry() : state_(std::make_unique<State>()) {}
Registry::~Registry() = default;

void Counter::Add(double amount) {
  CHECK(amount >= 0) << amount;
  counter_.Increment(amount);
}
double Counter::value() const { return counter_.Value(); }

void Gauge::Set(double value) { gauge_.Set(value); }
void Gauge::Add(double amount) { gauge_.Increment(amount); }
double Gauge::value() const { return gauge_.Value(); }

void Histogram::Observe(double value) { histogram_.Observe(value); }

std::vector<double> LatencyBuckets() {
  return {1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, .01,
          .02,  .05,  .1,   .2,   .5,   1,    2,    5,    10};
}
std::vector<double> SizeBuckets() { return Powers(64, 4, 12); }
std::vector<double> RatioBuckets() { return {.001, .002, .005, .01, .02, .05, .1, .2, .5, 1}; }

Counter& Registry::AddCounter(const std::string& name, const std::string& help) {
  return AddCounterFamily(name, help, {}).With({});
}

Gauge& Registry::AddGauge(const std::string& name, const std::string& help) {
  return AddGaugeFamily(name, help, {}).With({});
}

Histogram& Registry::AddHistogram(const std::string& name, const std::string& help,
                                  const std::vector<double>& buckets) {
  return AddHistogramFamily(name, help, {}, buckets).With({});
}

Family<Counter>& Registry::AddCounterFamily(const std::string& name, const std::string& help,
                                            const std::vector<std::string>& label_names) {
  std::lock_guard lock(state_->mutex);
  state_->Claim(name, help, MetricKind::kCounter, label_names);
  auto& family = prometheus::BuildCounter().Name(name).Help(help).Register(state_->registry);
  return *state_->counters.emplace_back(std::make_unique<CounterSeries>(family, label_names));
}

Family<Gauge>& Registry::AddGaugeFamily(const std::string& name, const std::string& help,
                                        const std::vector<std::string>& label_names) {
  std::lock_guard lock(state_->mutex);
  state_->Claim(name, help, MetricKind::kGauge, label_names);
  auto& family = prometheus::BuildGauge().Name(name).Help(help).Register(state_->registry);
  return *state_->gauges.emplace_back(std::make_unique<GaugeSeries>(family, label_names));
}

Family<Histogram>& Registry::AddHistogramFamily(const std::string& name, const std::string& help,
                                                const std::vector<std::string>& label_names,
                                                const std::vector<double>& buckets) {
  CHECK(!buckets.empty() && std::is_sorted(buckets.begin(), buckets.end(), std::less_equal<>()))
      << name << ": bucket bounds must ascend";
  std::lock_guard lock(state_->mutex);
  state_->Claim(name, help, MetricKind::kHistogram, label_names);
  auto& family = prometheus::BuildHistogram().Name(name).Help(help).Register(state_->registry);
  return *state_->histograms.emplace_back(
      std::make_unique<HistogramSeries>(family, label_names, buckets));
}

void Registry::AddGaugeCallback(const std::string& name, const std::string& help,
                                std::function<double()> read) {
  const absl::Status valid = ValidateMetricName(name, MetricKind::kGauge);
  CHECK(valid.ok()) << base::MessageOf(valid);
  AddStandardCallback(name, help, /*is_counter=*/false, std::move(read));
}

void Registry::AddCounterCallback(const std::string& name, const std::string& help,
                                  std::function<double()> read) {
  const absl::Status valid = ValidateMetricName(name, MetricKind::kCounter);
  CHECK(valid.ok()) << base::MessageOf(valid);
  AddStandardCallback(name, help, /*is_counter=*/true, std::move(read));
}

void Registry::AddStandardCallback(const std::string& name, const std::string& help,
                                   bool is_counter, std::function<double()> read) {
  std::lock_guard lock(state_->mutex);
  state_->ClaimStandard(name, help);
  if (is_counter) {
    auto& family = prometheus::BuildCounter().Name(name).Help(help).Register(state_->registry);
    state_->counter_readers.push_back({std::move(read), &family.Add({})});
  } else {
    auto& family = prometheus::BuildGauge().Name(name).Help(help).Register(state_->registry);
    state_->gauge_readers.push_back({std::move(read), &family.Add({})});
  }
}

void Registry::AddInfo(const std::string& name, const std::string& help,
                       const std::vector<std::pair<std::string, std::string>>& labels) {
  std::vector<std::string> names;
  std::vector<std::string> values;
  for (const auto& [label, value] : labels) {
    names.push_back(label);
    values.push_back(value);
  }
  AddGaugeFamily(name, help, names).With(values).Set(1);
}

std::string Registry::Exposition() const {
  std::vector<prometheus::MetricFamily> families;
  {
    std::lock_guard lock(state_->mutex);
    for (const auto& reader : state_->gauge_readers) reader.gauge->Set(reader.read());
    for (const auto& reader : state_->counter_readers) {
      // Never backwards: a smaller value would look like a restart of the process.
      const double step = reader.read() - reader.counter->Value();
      if (step > 0) reader.counter->Increment(step);
    }
    families = state_->registry.Collect();
  }
  std::sort(families.begin(), families.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  for (prometheus::MetricFamily& family : families) {
    std::sort(family.metric.begin(), family.metric.end(), [](const auto& a, const auto& b) {
      const auto pair_of = [](const auto& label) { return std::pair(label.name, label.value); };
      return std::lexicographical_compare(
          a.label.begin(), a.label.end(), b.label.begin(), b.label.end(),
          [&](const auto& x, const auto& y) { return pair_of(x) < pair_of(y); });
    });
  }
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, families);
  return text.str();
}

}  // namespace sounder::metrics
