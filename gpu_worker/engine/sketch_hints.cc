#include "gpu_worker/engine/sketch_hints.h"

#include <algorithm>
#include <cmath>

#include "common/base/dtype.h"

namespace sounder::gpu_worker {
namespace {

// A hint that says nothing: far below every logit.
constexpr float kNoLse = -1e30f;
// An lse that moved by more, in nats, with the last step says too little about the next one.
constexpr float kSteady = .5f;
// A segment reads no more than so many times what all segments together are to read.
constexpr double kMostOfBudget = 2;

float RoundLse(float lse) { return std::isfinite(lse) ? std::nearbyint(64 * lse) / 64 : kNoLse; }

// To 8 significant bits.
float RoundSize(double size) {
  return base::RoundTo(base::DType::kBF16, static_cast<float>(std::clamp(size, 0.0, 1.0)));
}

// Rows of the answer that could be sampled, per query head.
double SampledRows(const AttendQuery& query) {
  const double heads = static_cast<double>(query.lse.size());
  const auto visible = static_cast<double>(query.rows_visible);
  return std::max(0.0, visible - static_cast<double>(query.rows_exact)) / heads;
}

}  // namespace

SketchHints::SketchHints(const SketchSampling& sampling, int64_t kv_heads, int64_t group)
    : sampling_(sampling),
      group_(static_cast<size_t>(group)),
      heads_(static_cast<size_t>(kv_heads)),
      steady_(heads_.size(), false),
      asked_(heads_) {}

void SketchHints::Ask(int64_t step, AttendQuery* query) {
  const bool measured = sampling_.uniform_above > 0 && step % kMeasureEvery == 0;
  asked_ = heads_;
  asked_lse_ = lse_;
  for (size_t head = 0; head < asked_.size(); ++head) {
    if (measured) asked_[head].uniform_fraction = 0;
    if (steady_[head]) continue;
    asked_[head].mean_size = 0;
    if (!lse_.empty()) std::fill_n(asked_lse_.begin() + Begin(head), group_, kNoLse);
  }
  const bool any = std::find(steady_.begin(), steady_.end(), true) != steady_.end();
  query->attention = wire::AttentionKind::kSketch;
  query->rows_budget = static_cast<float>(sampling_.rows);
  query->rows_cap = static_cast<uint64_t>(
      std::ceil(kMostOfBudget * sampling_.rows * static_cast<double>(query->range.size())));
  query->want_concentration = measured;
  query->lse_hints = any ? asked_lse_.data() : nullptr;
  query->head_hints = asked_.data();
}

void SketchHints::Learn(const AttendQuery& query) {
  const double rows = query.status.ok() ? SampledRows(query) : 0;
  if (rows == 0) {
    lse_.clear();
    steady_.assign(steady_.size(), false);
    return;
  }
  for (size_t head = 0; head < heads_.size(); ++head) {
    const float mean = MeanSize(query, head, rows);
    if (mean > 0) heads_[head].mean_size = mean;
    steady_[head] = Steady(query, head);
    if (!query.want_concentration) continue;
    heads_[head].uniform_fraction =
        Spread(query, head, rows) ? static_cast<float>(sampling_.uniform_rows) : 0;
  }
  lse_.resize(query.lse.size());
  std::transform(query.lse.begin(), query.lse.end(), lse_.begin(), RoundLse);
}

// 0 where the answer does not say. Sizes were measured against the lse of the step before; where
// that was too high, all of them came out too small.
float SketchHints::MeanSize(const AttendQuery& query, size_t head, double rows) const {
  if (!steady_[head] || asked_[head].uniform_fraction > 0) return 0;
  double too_high = 30;  // of the group, the least; at most a factor of e^30
  for (size_t q = head * group_; q < (head + 1) * group_; ++q) {
    const double difference = double{asked_lse_[q]} - query.lse[q];
    too_high = std::min(too_high, std::isfinite(difference) ? std::max(difference, 0.0) : 0.0);
  }
  return RoundSize(double{query.head_mass[head]} / rows * std::exp(too_high));
}

bool SketchHints::Steady(const AttendQuery& query, size_t head) const {
  if (lse_.empty()) return false;
  for (size_t q = head * group_; q < (head + 1) * group_; ++q) {
    if (!(std::abs(query.lse[q] - lse_[q]) <= kSteady)) return false;  // nor where it is no number
  }
  return true;
}

bool SketchHints::Spread(const AttendQuery& query, size_t head, double rows) const {
  for (size_t q = head * group_; q < (head + 1) * group_; ++q) {
    const double concentration = double{query.concentration[q]};
    // Not where it is 0 or not a number: then nothing was sampled.
    if (!(concentration > 0 && 1 / (concentration * rows) > sampling_.uniform_above)) return false;
  }
  return true;
}

int64_t SketchHints::drawn_alike() const {
  return std::count_if(asked_.begin(), asked_.end(),
                       [](const wire::HeadHint& hint) { return hint.uniform_fraction > 0; });
}

}  // namespace sounder::gpu_worker
