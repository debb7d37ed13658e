// In which order should the rows of a segment lie on disk, so that a sample touches few pages?
// Counts the 4 KiB pages that samples of 1 % of 512-byte rows touch, in the order they were
// appended and in orders that put rows together which an index holds for alike.
//
//   kv_node_row_order_bench [ROWS]      of a segment, default 4096
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bench/generator/synthetic.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/kernels/signature.h"
#include "kv_node/sampler/lsh_tables_sampler.h"
#include "kv_node/sampler/sketch_sampler.h"

namespace sounder::kv_node {
namespace {

constexpr int kDim = 128;
constexpr int kGroup = 4;
constexpr int kBits = 128;
constexpr int kRowsPerPage = 4096 / (2 * kDim * 2);
constexpr double kRowFraction = .01;
constexpr uint64_t kSeeds = 3;
constexpr int kSteps = 8;

// order[i] is the row at place i.
using Order = std::vector<uint16_t>;

Order Appended(int64_t rows) {
  Order order(static_cast<size_t>(rows));
  std::iota(order.begin(), order.end(), uint16_t{0});
  return order;
}

// Sign bit `bit` of a row's sketch.
bool SignOf(const SketchView& sketches, int64_t row, int bit) {
  const int64_t block = row / kSketchBlockRows * kSketchBlockRows * sketches.bits / 8;
  const int64_t group = bit / 8 * kSketchBlockRows;
  return (sketches.blocks[block + group + row % kSketchBlockRows] >> (bit % 8)) & 1;
}

// By the leading `bits` sign bits.
Order BySigns(const SketchView& sketches, int bits) {
  std::vector<uint32_t> codes(static_cast<size_t>(sketches.rows));
  for (int64_t row = 0; row < sketches.rows; ++row) {
    for (int bit = 0; bit < bits; ++bit) {
      codes[row] = codes[row] << 1 | static_cast<uint32_t>(SignOf(sketches, row, bit));
    }
  }
  Order order = Appended(sketches.rows);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint16_t a, uint16_t b) { return codes[a] < codes[b]; });
  return order;
}

// Of all bits, how many rows have them set.
std::vector<double> CountSigns(const SketchView& sketches, const uint16_t* rows, size_t count,
                               int given = -1) {
  std::vector<double> set(kBits);
  for (size_t i = 0; i < count; ++i) {
    if (given >= 0 && !SignOf(sketches, rows[i], given)) continue;
    for (int bit = 0; bit < kBits; ++bit) set[bit] += SignOf(sketches, rows[i], bit) ? 1 : 0;
  }
  return set;
}

// Splits rows by the bit that leaves the least scatter of all bits in the halves, and so on down to
// a page.
void SplitBySigns(const SketchView& sketches, uint16_t* rows, size_t count) {
  if (count <= kRowsPerPage) return;
  const std::vector<double> set = CountSigns(sketches, rows, count);
  int best = -1;
  double least = 1e300;
  for (int bit = 0; bit < kBits; ++bit) {
    const double ones = set[bit];
    const double zeros = static_cast<double>(count) - ones;
    if (std::min(ones, zeros) < static_cast<double>(count) / 8) continue;
    const std::vector<double> with = CountSigns(sketches, rows, count, bit);
    double scatter = 0;
    for (int other = 0; other < kBits; ++other) {
      const double without = set[other] - with[other];
      scatter += with[other] * (1 - with[other] / ones) + without * (1 - without / zeros);
    }
    if (scatter < least) std::tie(least, best) = std::pair(scatter, bit);
  }
  if (best < 0) return;
  uint16_t* const middle = std::stable_partition(
      rows, rows + count, [&](uint16_t row) { return SignOf(sketches, row, best); });
  const auto ones = static_cast<size_t>(middle - rows);
  SplitBySigns(sketches, rows, ones);
  SplitBySigns(sketches, middle, count - ones);
}

int64_t PagesTouched(const Order& order, const std::vector<uint16_t>& sample) {
  std::vector<uint8_t> sampled(order.size());
  for (const uint16_t row : sample) sampled[row] = 1;
  int64_t pages = 0;
  for (size_t first = 0; first < order.size(); first += kRowsPerPage) {
    const auto end = order.begin() + std::min(first + kRowsPerPage, order.size());
    pages += std::any_of(order.begin() + first, end, [&](uint16_t row) { return sampled[row]; });
  }
  return pages;
}

struct Ordering {
  std::string name;
  Order order;
  double pages = 0;
};

// A sampler, its segment of one seed and the orders compared.
class Contest {
 public:
  Contest(const SamplerSpec& spec, const generator::Head& head, int64_t rows) {
    auto sampler = MakeSampler(spec);
    CHECK(sampler.ok()) << base::MessageOf(sampler.status());
    sampler_ = *std::move(sampler);
    memory::AlignedBuffer keys(rows * kDim * 2);
    memory::AlignedBuffer values(rows * kDim * 2);
    head.RowsAs(base::DType::kBF16, 0, rows, keys.data(), values.data(), kDim * 2);
    segment_ =
        *Segment::Create(0, rows, kDim, base::DType::kBF16, std::move(keys), std::move(values));
    segment_->SetIndex(*sampler_->BuildIndex(*segment_->rows(), scratch_));
    orderings_.push_back({"appended", Appended(rows)});
  }
  const SegmentIndex& index() const { return *segment_->index(); }
  void Add(std::string name, Order order) {
    orderings_.push_back({std::move(name), std::move(order)});
  }
  void Step(const std::vector<float>& queries, int step) {
    std::vector<uint64_t> signatures;
    if (const lsh::Projection* projection = sampler_->projection()) {
      signatures.resize(static_cast<size_t>(kGroup) * projection->params().words());
      kernels::SignVectors(*projection, queries.data(), kDim, kGroup, signatures.data());
    }
    sampler_->Select(*segment_, nullptr,
                     {.queries = queries.data(),
                      .group = kGroup,
                      .signatures = signatures.data(),
                      .row_end = segment_->num_rows(),
                      .scale = 1 / std::sqrt(float{kDim}),
                      .step = static_cast<uint64_t>(step)},
                     scratch_, &selection_);
    const std::vector<uint16_t> sample = selection_.DistinctRows();
    sampled_ += static_cast<double>(sample.size());
    for (Ordering& one : orderings_) {
      one.pages += static_cast<double>(PagesTouched(one.order, sample));
    }
  }
  double sampled() const { return sampled_; }
  const std::vector<Ordering>& orderings() const { return orderings_; }

 private:
  std::unique_ptr<Sampler> sampler_;
  std::unique_ptr<Segment> segment_;
  Scratch scratch_;
  Selection selection_;
  std::vector<Ordering> orderings_;
  double sampled_ = 0;
};

std::unique_ptr<Contest> SketchContest(const generator::Head& head, int64_t rows) {
  auto contest =
      std::make_unique<Contest>(SamplerSpec{.kind = SamplerKind::kSketch,
                                            .sketch = {.bits = kBits, .row_fraction = kRowFraction},
                                            .dim = kDim},
                                head, rows);
  const SketchView sketches = static_cast<const SketchIndex&>(contest->index()).sketches();
  for (const int bits : {4, 8, 12}) {
    contest->Add(std::to_string(bits) + " signs", BySigns(sketches, bits));
  }
  Order tree = Appended(rows);
  SplitBySigns(sketches, tree.data(), tree.size());
  contest->Add("best signs", std::move(tree));
  return contest;
}

std::unique_ptr<Contest> LshContest(const generator::Head& head, int64_t rows) {
  auto contest = std::make_unique<Contest>(
      SamplerSpec{.kind = SamplerKind::kLshTables, .dim = kDim}, head, rows);
  const BucketTables tables = static_cast<const LshTablesIndex&>(contest->index()).tables();
  contest->Add("buckets", Order(tables.ids, tables.ids + rows));
  return contest;
}

void Report(generator::Family family, int64_t rows, const char* sampler,
            const std::function<std::unique_ptr<Contest>(const generator::Head&, int64_t)>& make) {
  double sampled = 0;
  std::vector<std::pair<std::string, double>> pages;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const generator::Head head =
        generator::Cache({.family = family, .seed = seed, .dim = kDim, .group = kGroup, .n = rows})
            .MakeHead(0, 0);
    const std::unique_ptr<Contest> contest = make(head, rows);
    for (int step = 0; step < kSteps; ++step) contest->Step(head.Queries(step), step);
    sampled += contest->sampled();
    pages.resize(contest->orderings().size());
    for (size_t i = 0; i < pages.size(); ++i) {
      pages[i].first = contest->orderings()[i].name;
      pages[i].second += contest->orderings()[i].pages;
    }
  }
  constexpr double kAll = static_cast<double>(kSeeds) * kSteps;
  std::printf("%-8s %-7s %7.1f rows; pages:", std::string(generator::NameOf(family)).c_str(),
              sampler, sampled / kAll);
  for (const auto& [name, touched] : pages) std::printf("  %s %.1f", name.c_str(), touched / kAll);
  std::printf("\n");
}

}  // namespace
}  // namespace sounder::kv_node

int main(int argc, char** argv) {
  using sounder::generator::Family;
  const int64_t rows = argc > 1 ? std::atoll(argv[1]) : 4096;
  if (rows < 1024 || rows > 65536) {
    std::fprintf(stderr, "%s [ROWS], 1024 to 65536\n", argv[0]);
    return 2;
  }
  for (const Family family :
       {Family::kPeaked, Family::kFlat, Family::kMid, Family::kSharp, Family::kDiffuse}) {
    sounder::kv_node::Report(family, rows, "sketch", sounder::kv_node::SketchContest);
    sounder::kv_node::Report(family, rows, "lsh", sounder::kv_node::LshContest);
  }
}
