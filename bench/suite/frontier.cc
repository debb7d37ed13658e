#include "bench/suite/frontier.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/suite/timed_sampler.h"
#include "bench/suite/timing.h"

namespace sounder::suite {
namespace {

struct Target {
  generator::Family family;
  double error;
};

constexpr Target kTargets[] = {{generator::Family::kPeaked, 0.25},
                               {generator::Family::kMid, 0.055},
                               {generator::Family::kSharp, 0.10}};

std::vector<Contender> LshContenders(const Size& size) {
  std::vector<Contender> contenders;
  for (const int tables : {50, 75, 110, 150, 200}) {
    Contender faithful{absl::StrCat("lsh_10_", tables), LshSpec(size, tables)};
    Contender roulette{faithful.name + "_roulette", faithful.spec};
    roulette.spec.lsh_tables.value_roulette = true;
    Contender split{faithful.name + "_split", faithful.spec};
    split.spec.lsh_tables.split = true;
    split.spec.lsh.projection = lsh::ProjectionKind::kGaussian;  // split tables know no other
    split.spec.group = size.group;
    contenders.insert(contenders.end(), {faithful, roulette, split});
  }
  return contenders;
}

std::vector<Contender> SketchContenders(const Size& size) {
  std::vector<Contender> contenders;
  for (const int bits : {64, 128}) {
    for (const int per_10000 : {10, 25, 50, 100, 200}) {
      contenders.push_back({absl::StrCat("sketch_", bits, "_", per_10000, "bp_int8"),
                            SketchSpec(size, bits, per_10000 / 1e4)});
    }
  }
  return contenders;
}

// Times of all contenders in turn; each has one segment.
std::vector<double> Times(const SuiteSpec& spec, generator::Family family,
                          const std::vector<Contender>& contenders) {
  std::vector<std::unique_ptr<TimedSampler>> samplers;
  for (const Contender& contender : contenders) {
    samplers.push_back(std::make_unique<TimedSampler>(contender, family, spec.size, 1));
  }
  CacheFlusher flusher;
  std::vector<std::vector<double>> times(samplers.size());
  for (int step = 0; step < spec.frontier_steps; ++step) {
    for (size_t i = 0; i < samplers.size(); ++i) {
      times[i].push_back(TimeCold(flusher, [&] { samplers[i]->Step(step); }));
    }
  }
  std::vector<double> medians;
  for (const std::vector<double>& of_one : times) medians.push_back(Quantile(of_one, 0.5));
  return medians;
}

}  // namespace

double TimeAtError(std::span<const FrontierPoint> points, double error) {
  std::vector<FrontierPoint> sorted(points.begin(), points.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const FrontierPoint& a, const FrontierPoint& b) { return a.error > b.error; });
  double best = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (sorted[i].error > error) continue;
    best = std::min(best, sorted[i].us);
    if (i == 0 || sorted[i - 1].error == sorted[i].error) continue;
    // Of all worse points, the line to the neighbour only: `points` are of one kind.
    const double part =
        std::log(error / sorted[i].error) / std::log(sorted[i - 1].error / sorted[i].error);
    if (part > 1) continue;
    best = std::min(best, sorted[i].us * std::pow(sorted[i - 1].us / sorted[i].us, part));
  }
  return best;
}

void MeasureFrontier(const SuiteSpec& spec, cli::Record& record) {
  for (const Target& target : kTargets) {
    const std::string family(generator::NameOf(target.family));
    Progress("time at equal error, " + family);
    std::vector<Contender> contenders = LshContenders(spec.size);
    const size_t lsh_count = contenders.size();
    for (Contender& contender : SketchContenders(spec.size)) contenders.push_back(contender);
    const std::vector<double> times = Times(spec, target.family, contenders);
    std::vector<FrontierPoint> points;
    for (size_t i = 0; i < contenders.size(); ++i) {
      const double error = Accuracy(target.family, spec.size, 1, spec.steps,
                                    spec.frontier_hash_seeds, contenders[i].spec)
                               .mean_relative_error;
      points.push_back({error, times[i]});
      const std::string name = "frontier_" + family + "_" + contenders[i].name;
      record.Add(name + "_us", times[i]);
      record.Add(name + "_error", error);
    }
    // Lines join points of one kind: the same tables used the same way, or sketches of one size.
    double lsh = std::numeric_limits<double>::infinity();
    double lsh_most = lsh;
    for (size_t kind = 0; kind < 3; ++kind) {
      std::vector<FrontierPoint> of_kind;
      for (size_t i = kind; i < lsh_count; i += 3) of_kind.push_back(points[i]);
      lsh_most = std::min(lsh_most, TimeAtError(of_kind, target.error));
      of_kind.pop_back();  // the most tables
      lsh = std::min(lsh, TimeAtError(of_kind, target.error));
    }
    if (!std::isfinite(lsh)) lsh = lsh_most;
    double sketch = std::numeric_limits<double>::infinity();
    const std::span<const FrontierPoint> sketches = std::span(points).subspan(lsh_count);
    for (const auto half :
         {sketches.first(sketches.size() / 2), sketches.last(sketches.size() / 2)}) {
      sketch = std::min(sketch, TimeAtError(half, target.error));
    }
    record.Add("frontier_" + family + "_at_error", target.error);
    // A kind that never gets that good has no figure.
    if (std::isfinite(lsh_most)) {
      record.Add("frontier_" + family + "_lsh_us", lsh);
      record.Add("frontier_" + family + "_lsh_up_to_200_us", lsh_most);
    }
    if (std::isfinite(sketch)) record.Add("frontier_" + family + "_sketch_us", sketch);
    if (!std::isfinite(lsh) || !std::isfinite(sketch)) continue;
    record.Add("frontier_" + family + "_sketch_over_lsh", sketch / lsh);
  }
}

}  // namespace sounder::suite
