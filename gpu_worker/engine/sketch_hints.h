// What a sequence learns, step by step, about the attention of one layer to its middle, and tells
// the nodes with the next step so that they sample it better by their sketches: the lse and the
// sizes of rows that shares and budgets are measured by, and which kv heads attend to so many rows
// that these may as well be drawn alike.
//
// A pure function of the answers, in the order of the steps. Hints are rounded, so that answers
// that differ in their last bits give the same hints but where they lie at an edge.
#ifndef SOUNDER_GPU_WORKER_ENGINE_SKETCH_HINTS_H_
#define SOUNDER_GPU_WORKER_ENGINE_SKETCH_HINTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gpu_worker/kv/kv_client.h"

namespace sounder::gpu_worker {

struct SketchSampling {
  double rows = .02;           // share of the rows that can be sampled to read, per kv head
  double uniform_above = .15;  // a kv head spread over more of them is drawn alike; 0: none is
  double uniform_rows = .04;   // share of the rows to read then
};

// Not thread safe.
class SketchHints {
 public:
  // Every so many steps all heads are sampled by their sketches, and their spread is measured.
  static constexpr int64_t kMeasureEvery = 16;

  SketchHints(const SketchSampling& sampling, int64_t kv_heads, int64_t group);

  // Makes the query of a step one for a sample. Refers to this object, until the next call.
  void Ask(int64_t step, AttendQuery* query);
  // Takes what the query of the last Ask was answered with.
  void Learn(const AttendQuery& query);

  // Kv heads that the last Ask wants drawn alike.
  int64_t drawn_alike() const;

 private:
  // The place of a kv head's first query head.
  std::ptrdiff_t Begin(size_t head) const { return static_cast<std::ptrdiff_t>(head * group_); }
  float MeanSize(const AttendQuery& query, size_t head, double rows) const;
  // Whether no lse of the group moved by much.
  bool Steady(const AttendQuery& query, size_t head) const;
  // Whether attention of the whole group is spread over enough of the rows.
  bool Spread(const AttendQuery& query, size_t head, double rows) const;

  SketchSampling sampling_;
  size_t group_;
  std::vector<float> lse_;             // [query heads], rounded; empty: not known
  std::vector<wire::HeadHint> heads_;  // [kv heads], for the steps that are not measured
  std::vector<bool> steady_;           // [kv heads]: the next step is like the last one, we think
  std::vector<float> asked_lse_;       // with the last step
  std::vector<wire::HeadHint> asked_;  // likewise
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_ENGINE_SKETCH_HINTS_H_
