// The sketch sampler's kernels step by step, as SketchSampler takes them without hints.
#include <array>
#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "bench/instructions/kernels.h"
#include "common/kernels/row_statistics.h"
#include "common/memory/aligned_buffer.h"
#include "kv_node/kernels/group_attention.h"
#include "kv_node/kernels/int8_rows.h"
#include "kv_node/kernels/pps_sample.h"
#include "kv_node/kernels/sketch.h"
#include "kv_node/kernels/sketch_scan.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::instructions {
namespace {

using memory::AlignedBuffer;

constexpr double kRowFraction = 0.01;

template <typename T>
T* Data(AlignedBuffer& buffer) {
  return buffer.As<T>().data();
}

// Sketches of the keys in so many bits, and their scan.
class Sketch {
 public:
  Sketch(const Rows& rows, int bits)
      : rows_(rows),
        keys_(rows.segment->keys()),
        padded_(kv_node::SketchView::PaddedRows(keys_.rows)),
        rotation_(kDim, bits, /*seed=*/1),
        mean_(kDim * sizeof(float)),
        blocks_(kv_node::SketchView::BlockBytes(keys_.rows, bits)),
        factors_(padded_),
        scores_(kGroup * padded_),
        log_sums_(kGroup) {
    kernels::MeanOfRows(keys_, Data<float>(mean_));
    Build();
    Prepare();
    Scan();
  }

  int64_t Build() {
    sketches_ = {.rows = keys_.rows,
                 .bits = rotation_.bits(),
                 .blocks = Data<uint8_t>(blocks_),
                 .factors = Data<uint8_t>(factors_)};
    sketches_.factor_exponent = kv_node::BuildSketch(
        rotation_, keys_, Data<float>(mean_), Data<uint8_t>(blocks_), Data<uint8_t>(factors_));
    return keys_.rows;
  }

  int64_t Prepare() {
    tables_.Prepare(rotation_, rows_.queries.data(), kGroup, rows_.scale());
    return 1;
  }

  int64_t Scan() {
    kv_node::ScanSketches(sketches_, tables_, 0, keys_.rows, step(), Data<int8_t>(scores_), padded_,
                          log_sums_.data());
    return keys_.rows;
  }

  int64_t padded() const { return padded_; }
  int step() const { return kv_node::ScoreStep(sketches_, tables_); }
  const int8_t* scores() { return Data<int8_t>(scores_); }
  const float* mean() { return Data<float>(mean_); }
  // Of query q's weights, in scores.
  int16_t Offset(int q) const {
    return static_cast<int16_t>(std::nearbyint(log_sums_[q] / step()));
  }

 private:
  const Rows& rows_;
  const memory::RowsView keys_;
  const int64_t padded_;
  const kv_node::SketchRotation rotation_;
  AlignedBuffer mean_;
  AlignedBuffer blocks_;
  AlignedBuffer factors_;
  AlignedBuffer scores_;
  std::vector<double> log_sums_;
  kv_node::SketchView sketches_;
  kv_node::SketchTables tables_;
};

// From the scores to the outputs, with rows in bf16 and in eight bits.
class Draw {
 public:
  Draw(const Rows& rows, Sketch& sketch)
      : rows_(rows),
        sketch_(sketch),
        int8_data_(rows.segment->num_rows() * kv_node::Int8Rows::RecordBytes(kDim)),
        shares_(sketch.padded()),
        sums_(sketch.padded() / kv_node::kSizeBlockRows * sizeof(uint32_t)),
        large_((sketch.padded() + 1) * sizeof(uint32_t)),
        sampled_(sketch.padded() * sizeof(uint16_t)),
        probabilities_(sketch.padded() * sizeof(float)),
        outputs_(static_cast<size_t>(kGroup) * kDim),
        lse_(kGroup) {
    for (int q = 0; q < kGroup; ++q) offsets_.push_back(sketch.Offset(q));
    sizes_.shares = Data<int8_t>(shares_);
    sizes_.sums = Data<uint32_t>(sums_);
    Quantize();
    Measure();
    Plan();
    DrawRows();
    workspace_.resize(kv_node::GroupAttentionWorkspace(count_));
  }

  int64_t Quantize() {
    kv_node::QuantizeRows(rows_.segment->keys(), rows_.segment->values(), sketch_.mean(),
                          int8_data_.data());
    return rows_.segment->num_rows();
  }

  int64_t Measure() {
    kv_node::MeasureSizes({.scores = sketch_.scores(),
                           .stride = sketch_.padded(),
                           .padded_rows = sketch_.padded(),
                           .step = sketch_.step(),
                           .offsets = offsets_},
                          &sizes_);
    return rows_.segment->num_rows();
  }

  int64_t Plan() {
    const int64_t n = rows_.segment->num_rows();
    plan_ = kv_node::PlanSample(sizes_, n, kRowFraction * static_cast<double>(n),
                                kv_node::SketchParams().floor_share, Data<uint32_t>(large_));
    return 1;
  }

  int64_t DrawRows() {
    const auto stride = static_cast<int64_t>(int8_rows().record_bytes());
    const size_t half = int8_rows().record_bytes() / 2;
    const std::array memory = {kv_node::RowMemory{int8_data_.data(), stride, half},
                               kv_node::RowMemory{int8_data_.data() + half, stride, half}};
    count_ = kv_node::DrawSystematic(sizes_, plan_, /*start=*/0x9e3779b9, memory,
                                     Data<uint16_t>(sampled_), Data<float>(probabilities_));
    return count_;
  }

  int64_t Attend() {
    kv_node::GroupAttention(Sample(), rows_.segment->keys(), rows_.segment->values(),
                            workspace_.data(), outputs_.data(), lse_.data(), nullptr);
    return count_;
  }

  int64_t AttendInt8() {
    kv_node::GroupAttention(Sample(), int8_rows(), sketch_.mean(), workspace_.data(),
                            outputs_.data(), lse_.data(), nullptr);
    return count_;
  }

 private:
  kv_node::Int8Rows int8_rows() const {
    return {.data = int8_data_.data(), .rows = rows_.segment->num_rows(), .dim = kDim};
  }
  kv_node::GroupSample Sample() {
    const auto count = static_cast<size_t>(count_);
    return {.queries = rows_.queries.data(),
            .num_queries = kGroup,
            .dim = kDim,
            .scale = rows_.scale(),
            .rows = {Data<uint16_t>(sampled_), count},
            .probabilities = {Data<float>(probabilities_), count}};
  }

  const Rows& rows_;
  Sketch& sketch_;
  AlignedBuffer int8_data_;
  AlignedBuffer shares_;
  AlignedBuffer sums_;
  AlignedBuffer large_;
  AlignedBuffer sampled_;
  AlignedBuffer probabilities_;
  std::vector<int16_t> offsets_;
  std::vector<float> workspace_;
  std::vector<float> outputs_;
  std::vector<float> lse_;
  kv_node::GroupSizes sizes_;
  kv_node::PpsPlan plan_;
  int64_t count_ = 0;
};

}  // namespace

std::vector<Kernel> SketchKernels(const Rows& rows) {
  std::vector<Kernel> kernels;
  std::shared_ptr<Sketch> sketch128;
  for (const int bits : {64, 128, 256}) {
    const auto sketch = std::make_shared<Sketch>(rows, bits);
    if (bits == 128) sketch128 = sketch;
    const auto name = [bits](const char* what) { return absl::StrCat("sketch_", what, "_", bits); };
    kernels.push_back({name("build"), "key", {}, [sketch] { return sketch->Build(); }});
    kernels.push_back({name("tables"), "step", {}, [sketch] { return sketch->Prepare(); }});
    kernels.push_back({name("scan"), "row", {}, [sketch] { return sketch->Scan(); }});
  }
  const auto draw = std::make_shared<Draw>(rows, *sketch128);
  const auto add = [&](const char* name, const char* unit, int64_t (Draw::*run)()) {
    kernels.push_back({name, unit, {}, [sketch128, draw, run] { return ((*draw).*run)(); }});
  };
  add("int8_rows", "key", &Draw::Quantize);
  add("sketch_sizes", "row", &Draw::Measure);
  add("sketch_plan", "step", &Draw::Plan);
  add("sketch_draw", "sampled row", &Draw::DrawRows);
  add("group_attention_bf16", "sampled row", &Draw::Attend);
  add("group_attention_int8", "sampled row", &Draw::AttendInt8);
  return kernels;
}

}  // namespace sounder::instructions
