// The metrics of one process, and their text exposition for Prometheus.
//
// Each subsystem has a probe (a struct in its folder's probe.h) that registers its metrics once
// and is the only place their names are written; logic calls the probe:
//
//   struct TransportProbe {
//     explicit TransportProbe(metrics::Registry& registry)
//         : messages_sent(registry.AddCounter("sounder_transport_sent_messages_total", "...")),
//           send_seconds(registry.AddHistogram("sounder_transport_send_seconds", "...",
//                                              metrics::LatencyBuckets())) {}
//     metrics::Counter& messages_sent;
//     metrics::Histogram& send_seconds;
//   };
//
// Names follow metric_name.h, help is a sentence; breaking a rule or registering a name twice is
// a bug (CHECK). All references live as long as the registry. Thread safe; Add, Set and Observe
// cost tens of nanoseconds (a histogram takes a lock), With() a lock and a lookup: keep what it
// returns where the label values are known beforehand.
#ifndef SOUNDER_COMMON_METRICS_REGISTRY_H_
#define SOUNDER_COMMON_METRICS_REGISTRY_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
}  // namespace prometheus

namespace sounder::metrics {

class Counter {
 public:
  explicit Counter(prometheus::Counter& counter) : counter_(counter) {}
  Counter(const Counter&) = delete;
  Counter& operator=(const Counter&) = delete;
  void Add(double amount = 1);  // amount >= 0
  double value() const;

 private:
  prometheus::Counter& counter_;
};

class Gauge {
 public:
  explicit Gauge(prometheus::Gauge& gauge) : gauge_(gauge) {}
  Gauge(const Gauge&) = delete;
  Gauge& operator=(const Gauge&) = delete;
  void Set(double value);
  void Add(double amount);  // may be negative
  double value() const;

 private:
  prometheus::Gauge& gauge_;
};

class Histogram {
 public:
  explicit Histogram(prometheus::Histogram& histogram) : histogram_(histogram) {}
  Histogram(const Histogram&) = delete;
  Histogram& operator=(const Histogram&) = delete;
  void Observe(double value);

 private:
  prometheus::Histogram& histogram_;
};

// Metrics of one name that differ in label values. At most kMaxSeries of them exist: label values
// that come from outside (tenants, peers) beyond that share the series whose values are "other".
template <typename Metric>
class Family {
 public:
  static constexpr size_t kMaxSeries = 256;
  virtual ~Family() = default;
  // One value per label name (CHECK), in order of declaration.
  virtual Metric& With(const std::vector<std::string>& label_values) = 0;
};

// Upper bounds in seconds, 10 us to 10 s, three a decade.
std::vector<double> LatencyBuckets();
// Upper bounds in bytes, 64 B to 256 MiB, each four times the one before.
std::vector<double> SizeBuckets();
// Upper bounds of shares: .001 to 1.
std::vector<double> RatioBuckets();

class Registry {
 public:
  Registry();
  ~Registry();
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  Counter& AddCounter(const std::string& name, const std::string& help);
  Gauge& AddGauge(const std::string& name, const std::string& help);
  // buckets: ascending upper bounds, without infinity.
  Histogram& AddHistogram(const std::string& name, const std::string& help,
                          const std::vector<double>& buckets);
  // A gauge that is asked for at every exposition. `read` is called from the exposing thread,
  // under a lock of the registry: it must not call the registry, and what it reads must outlive
  // the registry's last exposition.
  void AddGaugeCallback(const std::string& name, const std::string& help,
                        std::function<double()> read);
  // The same for a value that only grows.
  void AddCounterCallback(const std::string& name, const std::string& help,
                          std::function<double()> read);
  // A gauge of value 1 whose labels say something about the process.
  void AddInfo(const std::string& name, const std::string& help,
               const std::vector<std::pair<std::string, std::string>>& labels);

  Family<Counter>& AddCounterFamily(const std::string& name, const std::string& help,
                                    const std::vector<std::string>& label_names);
  Family<Gauge>& AddGaugeFamily(const std::string& name, const std::string& help,
                                const std::vector<std::string>& label_names);
  Family<Histogram>& AddHistogramFamily(const std::string& name, const std::string& help,
                                        const std::vector<std::string>& label_names,
                                        const std::vector<double>& buckets);

  // All metrics in Prometheus' text format 0.0.4, in order of name.
  std::string Exposition() const;

 private:
  friend void AddProcessMetrics(Registry& registry);
  // Names that are standard elsewhere (process_*) pass without the check of metric_name.h.
  void AddStandardCallback(const std::string& name, const std::string& help, bool is_counter,
                           std::function<double()> read);

  struct State;
  const std::unique_ptr<State> state_;
};

// The content type of Exposition().
inline constexpr char kExpositionContentType[] = "text/plain; version=0.0.4; charset=utf-8";

// Registers the process_* metrics every Prometheus client has: CPU seconds, resident and virtual
// bytes, open and allowed file descriptors, threads, start time.
void AddProcessMetrics(Registry& registry);

}  // namespace sounder::metrics

#endif  // SOUNDER_COMMON_METRICS_REGISTRY_H_
