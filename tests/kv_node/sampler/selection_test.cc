// The two steps of an attend: what is selected without the rows and attended from rows that were
// gathered later is, to the bit, what Attend makes of the segment in memory.
#include "kv_node/sampler/selection.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "common/kernels/simd_level.h"
#include "tests/kv_node/sampler/conformance.h"
#include "tests/kv_node/sampler/testing.h"

namespace sounder::kv_node {
namespace {

using base::DType;

// The rows of a selection as a reader of files has them: K and V of a row side by side.
class Gathered {
 public:
  Gathered(const SegmentRows& from, const Selection& selection) : ids_(selection.DistinctRows()) {
    const size_t row_bytes = from.shape().row_bytes();
    const memory::RowsView keys = from.keys();
    const memory::RowsView values = from.values();
    const size_t record = from.copies().size() / static_cast<size_t>(from.shape().num_rows);
    for (const uint16_t id : ids_) {
      if (selection.from_copies) {
        Append(from.copies().data() + id * record, record);
      } else {
        Append(keys.Row(id), row_bytes);
        Append(values.Row(id), row_bytes);
      }
    }
    rows_.ids = &ids_;
    if (selection.from_copies) {
      rows_.copies = bytes_.data();
      return;
    }
    rows_.keys = keys;
    rows_.keys.data = bytes_.data();
    rows_.keys.rows = static_cast<int64_t>(ids_.size());
    rows_.keys.row_stride = static_cast<int64_t>(2 * row_bytes);
    rows_.values = rows_.keys;
    rows_.values.data = bytes_.data() + row_bytes;
  }
  const SelectedRows& rows() const { return rows_; }
  std::vector<uint16_t>& ids() { return ids_; }
  std::vector<std::byte>& bytes() { return bytes_; }

 private:
  void Append(const std::byte* data, size_t size) {
    bytes_.insert(bytes_.end(), data, data + size);
  }
  std::vector<uint16_t> ids_;
  std::vector<std::byte> bytes_;
  SelectedRows rows_;
};

// Both steps with the rows elsewhere in between.
Answer AskInSteps(const Sampler& sampler, Segment& segment, const GroupQuery& query,
                  Scratch& scratch, int damage = 0) {
  const std::shared_ptr<const SegmentRows> rows = segment.rows();
  segment.SetRows(nullptr);
  Answer answer = {std::vector<float>(query.group * segment.dim(), NAN),
                   std::vector<float>(query.group, NAN),
                   std::vector<ErrorTerms>(query.group),
                   {}};
  Selection selection;
  sampler.Select(segment, sampler.selects_without_rows() ? nullptr : rows.get(), query, scratch,
                 &selection);
  {
    Scratch other;  // the thread that reads may be another
    const int64_t half = (query.row_begin + query.row_end) / 2;
    GroupQuery between = query;
    between.row_begin = half;
    Selection unrelated;
    sampler.Select(segment, rows.get(), between, scratch, &unrelated);
    Gathered gathered(*rows, selection);
    if (damage > 0 && !gathered.bytes().empty()) {
      gathered.bytes()[gathered.bytes().size() - 1] ^= std::byte{0x40};
    }
    sampler.AttendSelected(segment, query, selection, gathered.rows(), other, answer.outputs.data(),
                           answer.lse.data(), answer.errors.data());
  }
  answer.stats = selection.stats;
  segment.SetRows(rows);
  return answer;
}

bool SameBits(const void* a, const void* b, size_t bytes) { return std::memcmp(a, b, bytes) == 0; }

bool Same(const Answer& a, const Answer& b) {
  return SameBits(a.outputs.data(), b.outputs.data(), a.outputs.size() * sizeof(float)) &&
         SameBits(a.lse.data(), b.lse.data(), a.lse.size() * sizeof(float)) &&
         SameBits(a.errors.data(), b.errors.data(), a.errors.size() * sizeof(ErrorTerms));
}

void ExpectSame(const Answer& hot, const Answer& gathered) {
  EXPECT_TRUE(Same(hot, gathered));
  EXPECT_EQ(hot.stats.rows_read, gathered.stats.rows_read);
  EXPECT_EQ(hot.stats.rows_loaded, gathered.stats.rows_loaded);
  EXPECT_EQ(hot.stats.ids_walked, gathered.stats.ids_walked);
  EXPECT_EQ(hot.stats.tables_walked, gathered.stats.tables_walked);
  EXPECT_EQ(hot.stats.exact, gathered.stats.exact);
  EXPECT_EQ(hot.stats.mass, gathered.stats.mass);
}

class SelectionTest : public testing::TestWithParam<Configuration> {
 protected:
  ~SelectionTest() override { EXPECT_TRUE(kernels::ForceSimdLevel("best").ok()); }
};

TEST_P(SelectionTest, GatheredRowsGiveTheSameBits) {
  for (const std::string& level : kernels::SimdLevels()) {
    ASSERT_TRUE(kernels::ForceSimdLevel(level).ok());
    for (const auto& [dim, dtype] :
         std::vector<std::pair<int, DType>>{{128, DType::kBF16}, {40, DType::kF32}}) {
      const auto sampler = GetParam().Make(dim);
      const auto segment =
          MakeSegment(*sampler, 1500, dim, dtype, Gaussian(1, 1, .3), Gaussian(2), 7000);
      Scratch scratch;
      // An odd group, and a block that is selected in parts.
      for (const int queries : {3, 40}) {
        const Group group(*sampler, queries, dim, Gaussian(3, 1.5));
        const std::vector<float> hints(queries, 8.0f);
        for (const auto& [begin, end] :
             std::vector<std::pair<int64_t, int64_t>>{{5, 1490}, {700, 701}, {64, 64}}) {
          SCOPED_TRACE(level + " " + std::to_string(dim) + " " + std::to_string(queries) + " " +
                       std::to_string(begin) + " to " + std::to_string(end));
          GroupQuery query = group.Query(begin, end);
          query.sample_key = 11;
          query.step = 5;
          ExpectSame(Ask(*sampler, *segment, query, scratch),
                     AskInSteps(*sampler, *segment, query, scratch));
          if (!GetParam().budgeted()) continue;
          query.lse_hints = hints;
          query.mean_size_hint = .001;
          ExpectSame(Ask(*sampler, *segment, query, scratch),
                     AskInSteps(*sampler, *segment, query, scratch));
          query.uniform_fraction = .03;
          ExpectSame(Ask(*sampler, *segment, query, scratch),
                     AskInSteps(*sampler, *segment, query, scratch));
        }
      }
    }
  }
}

// Negative control: other bytes give another answer.
TEST_P(SelectionTest, TheGatheredRowsAreWhatIsRead) {
  const auto sampler = GetParam().Make(32);
  const auto segment =
      MakeSegment(*sampler, 700, 32, DType::kBF16, Gaussian(1, 1, .3), Gaussian(2));
  const Group group(*sampler, 4, 32, Gaussian(3, .5));
  Scratch scratch;
  const GroupQuery query = group.Query(0, 700);
  const Answer hot = Ask(*sampler, *segment, query, scratch);
  EXPECT_TRUE(Same(hot, AskInSteps(*sampler, *segment, query, scratch)));
  if (GetParam().roulette()) return;  // may not read that row's values
  EXPECT_FALSE(Same(hot, AskInSteps(*sampler, *segment, query, scratch, /*damage=*/1)));
}

TEST_P(SelectionTest, ShortSegmentsAreReadWhole) {
  const auto sampler = GetParam().Make(32, 1, 701);
  const auto segment = MakeSegment(*sampler, 700, 32, DType::kF16, Gaussian(1, 1, .3), Gaussian(2));
  const Group group(*sampler, 40, 32, Gaussian(3));
  Scratch scratch;
  const GroupQuery query = group.Query(3, 650);
  ExpectSame(Ask(*sampler, *segment, query, scratch),
             AskInSteps(*sampler, *segment, query, scratch));
  Selection selection;
  sampler->Select(*segment, nullptr, query, scratch, &selection);
  EXPECT_TRUE(selection.all_visible);
  EXPECT_FALSE(selection.from_copies);
  const std::vector<uint16_t> rows = selection.DistinctRows();
  ASSERT_EQ(rows.size(), 647u);
  EXPECT_EQ(rows.front(), 3);
  EXPECT_EQ(rows.back(), 649);
}

TEST_P(SelectionTest, DistinctRowsAreTheRowsLoaded) {
  const auto sampler = GetParam().Make(32);
  const auto segment =
      MakeSegment(*sampler, 700, 32, DType::kBF16, Gaussian(1, 1, .3), Gaussian(2));
  const Group group(*sampler, 4, 32, Gaussian(3, 1.5));
  Scratch scratch;
  Selection selection;
  sampler->Select(*segment, segment->rows().get(), group.Query(10, 690), scratch, &selection);
  EXPECT_EQ(selection.from_copies, GetParam().spec.sketch.int8_rows && !selection.all_visible);
  const std::vector<uint16_t> rows = selection.DistinctRows();
  EXPECT_EQ(static_cast<int64_t>(rows.size()), selection.stats.rows_loaded);
  for (size_t i = 1; i < rows.size(); ++i) ASSERT_LT(rows[i - 1], rows[i]);
  EXPECT_GE(rows.front(), 10);
  EXPECT_LT(rows.back(), 690);
}

// A snapshot outlives what becomes of the segment's rows.
TEST_P(SelectionTest, DroppedRowsStayForTheirReaders) {
  const auto sampler = GetParam().Make(32);
  const auto segment =
      MakeSegment(*sampler, 700, 32, DType::kBF16, Gaussian(1, 1, .3), Gaussian(2));
  const Group group(*sampler, 4, 32, Gaussian(3, 1.5));
  const GroupQuery query = group.Query(0, 700);
  Scratch scratch;
  const Answer before = Ask(*sampler, *segment, query, scratch);
  const std::shared_ptr<const SegmentRows> rows = segment->rows();
  segment->SetRows(nullptr);
  EXPECT_EQ(segment->row_bytes(), memory::AlignedBuffer::Allocated(segment->copies().size()));
  Answer after = before;
  after.outputs.assign(after.outputs.size(), NAN);
  sampler->Attend(*segment, *rows, query, scratch, after.outputs.data(), after.lse.data(),
                  after.errors.data(), &after.stats);
  ExpectSame(before, after);
}

INSTANTIATE_TEST_SUITE_P(Samplers, SelectionTest, testing::ValuesIn(Configurations()),
                         [](const auto& test) { return test.param.label; });

TEST(SelectionDeathTest, RowsThatWereNotGatheredAreMissed) {
  const auto sampler = *MakeSampler({.kind = SamplerKind::kSketch, .dim = 32});
  const auto segment = MakeSegment(*sampler, 2000, 32, DType::kBF16, Gaussian(1), Gaussian(2));
  const Group group(*sampler, 4, 32, Gaussian(3));
  Scratch scratch;
  Selection selection;
  const GroupQuery query = group.Query(0, 2000);
  sampler->Select(*segment, nullptr, query, scratch, &selection);
  Gathered gathered(*segment->rows(), selection);
  gathered.ids()[3] -= 1;
  std::vector<float> outputs(4 * 32);
  std::vector<float> lse(4);
  EXPECT_DEATH(sampler->AttendSelected(*segment, query, selection, gathered.rows(), scratch,
                                       outputs.data(), lse.data(), nullptr),
               "was selected and is not among those gathered");
}

}  // namespace
}  // namespace sounder::kv_node
