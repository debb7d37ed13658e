// Indexes as bytes: what comes back answers as what was written, to the bit; bytes that are damaged
// or hostile are refused or harmless; the format of version 1 is the committed files. Missing files
// are written by
//   kv_node_sampler_index_bytes_test --gtest_also_run_disabled_tests
//   --gtest_filter='*WriteMissing*'
#include "kv_node/sampler/index_bytes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/philox.h"
#include "kv_node/kernels/int8_rows.h"
#include "tests/kv_node/sampler/conformance.h"
#include "tests/kv_node/sampler/testing.h"

namespace sounder::kv_node {
namespace {

using base::DType;
using testing::HasSubstr;
using Bytes = std::vector<std::byte>;

constexpr int kDim = 16;

Bytes Copy(const memory::AlignedBuffer& buffer) {
  return {buffer.bytes().begin(), buffer.bytes().end()};
}

std::unique_ptr<Segment> Rows(const Sampler& sampler, int64_t rows, int dim = kDim) {
  return MakeSegment(sampler, rows, dim, DType::kBF16, Gaussian(1, 1, .4), Gaussian(2));
}

// The same rows under another index.
std::unique_ptr<Segment> WithIndex(const Segment& segment, std::unique_ptr<SegmentIndex> index) {
  auto other = *Segment::CreateWithoutRows(segment.shape());
  other->SetRows(segment.rows());
  BuiltIndex built;
  built.index = std::move(index);
  other->SetIndex(std::move(built));
  return other;
}

bool Same(const Answer& a, const Answer& b) {
  return std::memcmp(a.outputs.data(), b.outputs.data(), a.outputs.size() * sizeof(float)) == 0 &&
         std::memcmp(a.lse.data(), b.lse.data(), a.lse.size() * sizeof(float)) == 0 &&
         std::memcmp(a.errors.data(), b.errors.data(), a.errors.size() * sizeof(ErrorTerms)) == 0;
}

// Those that build an index and keep it.
std::vector<Configuration> Stored() {
  std::vector<Configuration> stored;
  for (const Configuration& one : Configurations()) {
    if (one.lsh() || one.sampler->name == "sketch") stored.push_back(one);
  }
  return stored;
}

class IndexBytesTest : public testing::TestWithParam<Configuration> {};

TEST_P(IndexBytesTest, WhatComesBackAnswersTheSame) {
  for (const auto& [rows, dim] :
       std::vector<std::pair<int64_t, int>>{{1, 8}, {63, 40}, {64, 16}, {1000, 128}}) {
    SCOPED_TRACE(rows);
    const auto sampler = GetParam().Make(dim);
    const auto segment = Rows(*sampler, rows, dim);
    const memory::AlignedBuffer bytes = sampler->EncodeIndex(*segment->index());
    EXPECT_EQ(bytes.size() % 64, 0u);
    const auto twin = GetParam().Make(dim);
    auto index = twin->DecodeIndex(segment->shape(), bytes.bytes());
    ASSERT_TRUE(index.ok()) << index.status();
    EXPECT_EQ((*index)->bytes(), segment->index_bytes());
    EXPECT_EQ(Copy(twin->EncodeIndex(**index)), Copy(bytes));
    const auto again = WithIndex(*segment, *std::move(index));
    const Group group(*sampler, 4, dim, Gaussian(3, 1.5));
    const GroupQuery query = group.Query(rows / 10, rows);
    EXPECT_TRUE(Same(Ask(*sampler, *segment, query), Ask(*twin, *again, query)));
  }
}

// All rows in one bucket of each table, at the size where starts wrap around.
TEST(IndexBytesTest, FullBucketsComeBack) {
  const auto sampler = *MakeSampler(
      {.kind = SamplerKind::kLshTables, .lsh = {.bits_per_table = 3, .num_tables = 4}, .dim = 8});
  const auto segment = MakeSegment(
      *sampler, 65536, 8, DType::kF32, [](int64_t, int) { return 1.0f; },
      [](int64_t r, int) { return static_cast<float>(r); });
  const memory::AlignedBuffer bytes = sampler->EncodeIndex(*segment->index());
  auto index = sampler->DecodeIndex(segment->shape(), bytes.bytes());
  ASSERT_TRUE(index.ok()) << index.status();
  const auto again = WithIndex(*segment, *std::move(index));
  const Group group(*sampler, 2, 8, Gaussian(3));
  EXPECT_TRUE(Same(Ask(*sampler, *segment, group.Query(0, 65536)),
                   Ask(*sampler, *again, group.Query(0, 65536))));
}

// An index that was not refused is used: nothing it says may lead outside the segment.
void Use(const Sampler& sampler, const Segment& segment, std::unique_ptr<SegmentIndex> index) {
  const auto other = WithIndex(segment, std::move(index));
  const Group group(sampler, 5, segment.dim(), Gaussian(3, 1.5));
  Scratch scratch;
  Selection selection;
  const GroupQuery query = group.Query(3, segment.num_rows());
  sampler.Select(*other, nullptr, query, scratch, &selection);
  for (const uint16_t row : selection.rows) {
    ASSERT_GE(row, query.row_begin);
    ASSERT_LT(row, query.row_end);
  }
  if (!selection.from_copies) Ask(sampler, *other, query, scratch);
  for (int i = 0; i < 65536; ++i) ASSERT_EQ(scratch.counts()[i], 0) << "left for other segments";
}

TEST_P(IndexBytesTest, TruncatedBytesAreRefused) {
  const auto sampler = GetParam().Make(kDim);
  const auto segment = Rows(*sampler, 100);
  const Bytes whole = Copy(sampler->EncodeIndex(*segment->index()));
  for (size_t size = 0; size < whole.size(); size += size < 200 ? 1 : 37) {
    Bytes bytes(whole.begin(), whole.begin() + static_cast<int64_t>(size));
    EXPECT_EQ(sampler->DecodeIndex(segment->shape(), bytes).status().code(),
              absl::StatusCode::kDataLoss);
    if (size < kIndexHeaderBytes) continue;
    SealIndexBytes(bytes);
    EXPECT_THAT(sampler->DecodeIndex(segment->shape(), bytes).status().ToString(),
                HasSubstr("bytes that says"));
  }
  Bytes longer = whole;
  longer.resize(whole.size() + 64);
  SealIndexBytes(longer);
  EXPECT_FALSE(sampler->DecodeIndex(segment->shape(), longer).ok());
}

TEST_P(IndexBytesTest, EveryFlippedBitIsRefused) {
  const auto sampler = GetParam().Make(kDim);
  const auto segment = Rows(*sampler, 40);
  const Bytes whole = Copy(sampler->EncodeIndex(*segment->index()));
  ASSERT_TRUE(sampler->DecodeIndex(segment->shape(), whole).ok());
  for (size_t bit = 0; bit < 8 * whole.size(); bit += bit < 8 * 80 ? 1 : 13) {
    Bytes bytes = whole;
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    const absl::Status status = sampler->DecodeIndex(segment->shape(), bytes).status();
    ASSERT_FALSE(status.ok()) << "bit " << bit;
    ASSERT_FALSE(status.message().empty());
  }
}

// Behind the checksum, as whoever writes hostile files would be: refused, or safe to use.
TEST_P(IndexBytesTest, HostileBytesAreRefusedOrHarmless) {
  const auto sampler = GetParam().Make(kDim);
  const auto segment = Rows(*sampler, 100);
  const Bytes whole = Copy(sampler->EncodeIndex(*segment->index()));
  constexpr uint64_t kSeed = 7;
  base::PhiloxStream random(kSeed, 0);
  int accepted = 0;
  constexpr int kTrials = 600;
  for (int trial = 0; trial < kTrials; ++trial) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + " trial " + std::to_string(trial));
    Bytes bytes = whole;
    const int edits = 1 + static_cast<int>(random.Next32() % 4);
    for (int edit = 0; edit < edits; ++edit) {
      // Words of two bytes: what starts and ids are made of.
      const size_t at = random.Next32() % (bytes.size() / 2) * 2;
      const uint16_t values[] = {0,      1,      99,     100,
                                 0x7fff, 0x8000, 0xffff, static_cast<uint16_t>(random.Next32())};
      std::memcpy(bytes.data() + at, &values[random.Next32() % 8], 2);
    }
    SealIndexBytes(bytes);
    auto index = sampler->DecodeIndex(segment->shape(), bytes);
    if (!index.ok()) {
      ASSERT_FALSE(index.status().message().empty());
      continue;
    }
    ++accepted;
    Use(*sampler, *segment, *std::move(index));
  }
  EXPECT_GT(accepted, 0);
  // Most of tables are ids and starts.
  EXPECT_LT(accepted, GetParam().lsh() ? kTrials / 2 : kTrials + 1);
}

TEST_P(IndexBytesTest, RefusesWhatIsOfSomethingElse) {
  const auto sampler = GetParam().Make(kDim);
  const auto segment = Rows(*sampler, 100);
  const Bytes bytes = Copy(sampler->EncodeIndex(*segment->index()));
  const auto refusal = [&](const Sampler& by, SegmentShape shape) {
    const absl::Status status = by.DecodeIndex(shape, bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    return status.ToString();
  };
  EXPECT_THAT(refusal(*GetParam().Make(kDim, /*seed=*/2), segment->shape()),
              HasSubstr("seed 1; expected"));
  EXPECT_THAT(refusal(*GetParam().Make(24), segment->shape()), HasSubstr("dim 24"));
  SegmentShape longer = segment->shape();
  longer.num_rows = 101;
  EXPECT_THAT(refusal(*sampler, longer), HasSubstr("of 100 rows"));
  for (const Configuration& other : Stored()) {
    if (other.lsh() == GetParam().lsh()) continue;
    EXPECT_THAT(refusal(*other.Make(kDim), segment->shape()), HasSubstr("index by"));
  }
  const auto exact = *MakeSampler({.kind = SamplerKind::kExact, .dim = kDim});
  EXPECT_THAT(refusal(*exact, segment->shape()), HasSubstr("exact"));
  Bytes next = bytes;
  next[4] = std::byte{2};
  EXPECT_THAT(sampler->DecodeIndex(segment->shape(), next).status().ToString(),
              HasSubstr("format version 2, this program reads version 1"));
}

TEST_P(IndexBytesTest, SaysHowLargeACopyOfARowIs) {
  const auto sampler = GetParam().Make(kDim);
  const auto segment = Rows(*sampler, 100);
  const size_t copy = sampler->copy_bytes(segment->shape());
  EXPECT_EQ(segment->rows()->copies().size(), 100 * copy);
  EXPECT_EQ(copy, GetParam().spec.sketch.int8_rows ? Int8Rows::RecordBytes(kDim) : 0);
  EXPECT_EQ(GetParam().Make(kDim, 1, 101)->copy_bytes(segment->shape()), 0u);
}

INSTANTIATE_TEST_SUITE_P(Samplers, IndexBytesTest, testing::ValuesIn(Stored()),
                         [](const auto& test) { return test.param.label; });

// Copies of rows may hold anything.
TEST(CopiesTest, AnyBytesAreSafeToReadRowsFrom) {
  const auto sampler = *MakeSampler({.kind = SamplerKind::kSketch,
                                     .sketch = {.row_fraction = .2, .int8_rows = true},
                                     .dim = kDim,
                                     .min_indexed_rows = 1});
  const auto segment = Rows(*sampler, 300);
  const size_t size = segment->rows()->copies().size();
  const Group group(*sampler, 4, kDim, Gaussian(3, 1.5));
  base::PhiloxStream random(3, 0);
  for (int trial = 0; trial < 50; ++trial) {
    memory::AlignedBuffer copies(size);
    for (std::byte& b : copies.bytes()) b = static_cast<std::byte>(random.Next32());
    segment->SetRows(segment->rows()->WithCopies(
        std::make_shared<const memory::AlignedBuffer>(std::move(copies))));
    Ask(*sampler, *segment, group.Query(0, 300));
  }
}

struct Golden {
  const char* name;
  SamplerSpec spec;
};

std::vector<Golden> Goldens() {
  return {{"lsh_tables_version_1",
           {.kind = SamplerKind::kLshTables,
            .lsh = {.bits_per_table = 4, .num_tables = 6},
            .dim = kDim,
            .min_indexed_rows = 1}},
          {"sketch_version_1",
           {.kind = SamplerKind::kSketch,
            .sketch = {.bits = 64, .row_fraction = .1},
            .dim = kDim,
            .min_indexed_rows = 1}}};
}

std::string PathOf(const Golden& golden) {
  return std::string("tests/golden/index/") + golden.name + ".bin";
}

// Whole numbers: no rounding of any machine is in the files.
std::unique_ptr<Segment> GoldenRows(const Sampler& sampler) {
  return MakeSegment(
      sampler, 64, kDim, DType::kBF16,
      [](int64_t r, int c) { return static_cast<float>((r * 7 + c * c * 5 + r * c) % 17 - 8); },
      [](int64_t r, int c) { return static_cast<float>(r - c); });
}

TEST(GoldenTest, StoredIndexesAreRead) {
  for (const Golden& golden : Goldens()) {
    SCOPED_TRACE(golden.name);
    std::ifstream in(PathOf(golden), std::ios::binary);
    ASSERT_TRUE(in) << PathOf(golden);
    const std::string file((std::istreambuf_iterator<char>(in)), {});
    const auto bytes = std::as_bytes(std::span(file));
    const auto sampler = *MakeSampler(golden.spec);
    const auto segment = GoldenRows(*sampler);
    auto index = sampler->DecodeIndex(segment->shape(), bytes);
    ASSERT_TRUE(index.ok()) << index.status();
    EXPECT_EQ(Copy(sampler->EncodeIndex(**index)), Bytes(bytes.begin(), bytes.end()));
    // What this program builds of the same rows selects the same.
    const auto stored = WithIndex(*segment, *std::move(index));
    const Group group(*sampler, 4, kDim, Gaussian(3));
    Scratch scratch;
    Selection today;
    Selection then;
    sampler->Select(*segment, nullptr, group.Query(0, 64), scratch, &today);
    sampler->Select(*stored, nullptr, group.Query(0, 64), scratch, &then);
    EXPECT_FALSE(today.rows.empty());
    EXPECT_EQ(today.rows, then.rows);
    EXPECT_EQ(today.probabilities, then.probabilities);
  }
}

TEST(GoldenTest, DISABLED_WriteMissingFiles) {
  for (const Golden& golden : Goldens()) {
    if (std::ifstream(PathOf(golden))) continue;
    const auto sampler = *MakeSampler(golden.spec);
    const memory::AlignedBuffer bytes = sampler->EncodeIndex(*GoldenRows(*sampler)->index());
    std::ofstream(PathOf(golden), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
}

}  // namespace
}  // namespace sounder::kv_node
