#include "kv_node/store/segment_format.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <fstream>
#include <iterator>
#include <string>

#include "common/base/limits.h"
#include "tests/kv_node/store/scratch_folder.h"
#include "tests/kv_node/store/segment_content.h"

namespace sounder::kv_node {
namespace {

using absl::StatusCode;
using base::DType;

// As a reader sees it: header, everything behind the rows, each row page.
absl::Status CheckAll(const StoredShape& shape, std::span<const std::byte> bytes) {
  const SegmentLayout layout(shape);
  auto tail = ParseSegmentTail(shape, bytes.first(kPageBytes), bytes.subspan(layout.tail_begin()));
  if (!tail.ok()) return tail.status();
  for (uint64_t page = 0; page < layout.row_pages(); ++page) {
    absl::Status status =
        CheckRowPage(shape, *tail, page, bytes.subspan((1 + page) * kPageBytes, kPageBytes));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// FORMAT.md's example, worked out by hand: 9 rows of dim 64 bf16 (256 B a row), 5000 B of index.
TEST(SegmentFormatTest, BytesLieWhereTheDocumentSays) {
  const TestSegment segment(3, 9, 64, DType::kBF16, 5000);
  PageBuffer image = EncodeSegment(segment.content());
  const std::byte* const at = image.data();
  ASSERT_EQ(image.size(), 6 * kPageBytes);  // header, rows, 2 of index, checksums, footer
  const auto word = [&](size_t offset, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value |= static_cast<uint64_t>(at[offset + i]) << (8 * i);
    return value;
  };
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(at), 8), "SNDRSEGM");
  EXPECT_EQ(word(8, 4), 1u);    // version
  EXPECT_EQ(word(12, 4), 72u);  // bytes of fields
  EXPECT_EQ(word(16, 8), 0x0303030303030303u);
  EXPECT_EQ(word(24, 8), 0x0303030303030303u);
  EXPECT_EQ(word(32, 8), 3000u);
  EXPECT_EQ(word(40, 4), 9u);
  EXPECT_EQ(word(44, 2), 64u);
  EXPECT_EQ(word(46, 1), 2u);
  EXPECT_EQ(word(47, 1), 0u);
  EXPECT_EQ(word(48, 8), 5000u);
  EXPECT_EQ(word(56, 8), 6 * 4096u);
  EXPECT_EQ(word(64, 8), XXH3_64bits(at, 64));
  for (size_t row = 0; row < 9; ++row) {
    EXPECT_TRUE(SameBytes({at + 4096 + 256 * row, 128}, segment.Key(row)));
    EXPECT_TRUE(SameBytes({at + 4096 + 256 * row + 128, 128}, segment.Value(row)));
  }
  EXPECT_TRUE(SameBytes({at + 2 * 4096, 5000}, segment.content().index));
  const uint64_t seed = XXH3_64bits(at + 16, 16);
  for (uint64_t page = 0; page < 4; ++page) {
    EXPECT_EQ(word(4 * 4096 + 8 * page, 8),
              XXH3_64bits_withSeed(at + 4096 * page, 4096, seed + page));
  }
  const size_t footer = 5 * 4096;
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(at + footer), 8), "SNDRSEGE");
  EXPECT_EQ(word(footer + 8, 8), 1u);
  EXPECT_EQ(word(footer + 16, 8), 0x0303030303030303u);
  EXPECT_EQ(word(footer + 32, 8), 6 * 4096u);
  EXPECT_EQ(word(footer + 40, 8), XXH3_64bits(at + 4 * 4096, 4096));
  EXPECT_EQ(word(footer + 48, 8), XXH3_64bits(at + footer, 48));
}

struct Case {
  int64_t rows;
  int dim;
  DType dtype;
  size_t index_bytes;
};
const Case kCases[] = {{1, 8, DType::kF16, 0},        {7, 40, DType::kBF16, 1},
                       {300, 96, DType::kBF16, 4096}, {65, 128, DType::kBF16, 4097},
                       {33, 512, DType::kF32, 100},   {4096, 128, DType::kBF16, 30000},
                       {65536, 8, DType::kF16, 9}};

TEST(SegmentFormatTest, ReadsBackWhatWasWritten) {
  for (const Case& c : kCases) {
    const TestSegment segment(5, c.rows, c.dim, c.dtype, c.index_bytes);
    PageBuffer image = EncodeSegment(segment.content());
    const auto shape = ParseSegmentHeader(image.bytes().first(kPageBytes));
    ASSERT_TRUE(shape.ok()) << shape.status().ToString();
    EXPECT_EQ(*shape, segment.shape());
    ASSERT_TRUE(CheckAll(*shape, image.bytes()).ok()) << CheckAll(*shape, image.bytes()).ToString();
    const auto tail = ParseSegmentTail(*shape, image.bytes().first(kPageBytes),
                                       image.bytes().subspan(SegmentLayout(*shape).tail_begin()));
    EXPECT_TRUE(SameBytes(tail->index, segment.content().index));
    EXPECT_EQ(RowChecksumsOf(*shape, image.bytes()), tail->row_checksums);
  }
}

// Whichever byte is damaged, anywhere: refused. (One in 61, and all of the first and last page.)
TEST(SegmentFormatTest, AnyFlippedByteIsFound) {
  const TestSegment segment(3, 40, 128, DType::kBF16, 5000);
  PageBuffer image = EncodeSegment(segment.content());
  ASSERT_TRUE(CheckAll(segment.shape(), image.bytes()).ok());
  for (size_t at = 0; at < image.size(); ++at) {
    const bool edge = at < 128 || at + kPageBytes >= image.size();
    if (!edge && at % 61 != 0) continue;
    image.data()[at] ^= std::byte{0x20};
    const absl::Status status = CheckAll(segment.shape(), image.bytes());
    image.data()[at] ^= std::byte{0x20};
    ASSERT_FALSE(status.ok()) << at;
    const bool version = (at >= 8 && at < 12) || (at >= image.size() - kPageBytes + 8 &&
                                                  at < image.size() - kPageBytes + 12);
    EXPECT_EQ(status.code(), version ? StatusCode::kFailedPrecondition : StatusCode::kDataLoss)
        << at << " " << status.ToString();
  }
}

TEST(SegmentFormatTest, PagesOfOtherPlacesAndSegmentsAreFound) {
  const TestSegment a(3, 40, 128, DType::kBF16, 0), b(4, 40, 128, DType::kBF16, 0);
  PageBuffer one = EncodeSegment(a.content()), other = EncodeSegment(b.content());
  const auto tail = *ParseSegmentTail(a.shape(), one.bytes().first(kPageBytes),
                                      one.bytes().subspan(SegmentLayout(a.shape()).tail_begin()));
  const auto row_page = [](PageBuffer& image, uint64_t page) {
    return image.bytes().subspan((1 + page) * kPageBytes, kPageBytes);
  };
  EXPECT_TRUE(CheckRowPage(a.shape(), tail, 2, row_page(one, 2)).ok());
  const absl::Status swapped = CheckRowPage(a.shape(), tail, 2, row_page(one, 3));
  EXPECT_EQ(swapped.ToString(), "DATA_LOSS: page 3 (rows) does not match its checksum");
  EXPECT_FALSE(CheckRowPage(a.shape(), tail, 2, row_page(other, 2)).ok());
  const auto code = [&](PageBuffer& header, PageBuffer& tail_of) {
    return ParseSegmentTail(a.shape(), header.bytes().first(kPageBytes),
                            tail_of.bytes().subspan(SegmentLayout(a.shape()).tail_begin()))
        .status()
        .code();
  };
  EXPECT_EQ(code(other, other), StatusCode::kDataLoss);
  EXPECT_EQ(code(one, other), StatusCode::kDataLoss);
  // The same bytes under another tag have other checksums, page by page.
  SegmentTag tag = a.shape().tag;
  tag[15] ^= std::byte{1};
  EXPECT_NE(PageChecksum(tag, 1, row_page(one, 0)),
            PageChecksum(a.shape().tag, 1, row_page(one, 0)));
}

TEST(SegmentFormatTest, ShapesOutOfRangeAreNamed) {
  const StoredShape good = TestSegment(1, 4, 64, DType::kF16, 0).shape();
  EXPECT_TRUE(CheckShape(good).ok());
  const auto message = [&](auto change) {
    StoredShape shape = good;
    change(shape);
    return CheckShape(shape).ToString();
  };
  EXPECT_EQ(message([](auto& s) { s.num_rows = 0; }),
            "INVALID_ARGUMENT: rows 0: expected [1, 65536]");
  EXPECT_EQ(message([](auto& s) { s.num_rows = 65537; }),
            "INVALID_ARGUMENT: rows 65537: expected [1, 65536]");
  EXPECT_EQ(message([](auto& s) { s.dim = 12; }),
            "INVALID_ARGUMENT: dim 12: expected a multiple of 8 in [8, 512]");
  EXPECT_EQ(message([](auto& s) { s.dim = 520; }),
            "INVALID_ARGUMENT: dim 520: expected a multiple of 8 in [8, 512]");
  EXPECT_EQ(message([](auto& s) { s.first_position = -1; }),
            "INVALID_ARGUMENT: first position -1: expected [0, 2^40]");
  EXPECT_EQ(message([](auto& s) { s.dtype = static_cast<DType>(3); }),
            "INVALID_ARGUMENT: element type 3: expected 0 (f32), 1 (f16), 2 (bf16)");
  EXPECT_EQ(message([](auto& s) { s.index_bytes = kMaxStoredIndexBytes + 1; }),
            "INVALID_ARGUMENT: index bytes 536870913: expected at most 512 MiB");
  // The largest index that a session's options allow.
  const uint64_t starts = base::kMaxTables * 2 * ((1 << base::kMaxBitsPerTable) + 1);
  const uint64_t ids = base::kMaxTables * 2 * base::kMaxSegmentRows;
  EXPECT_EQ(starts + ids, 268'437'504u);
  EXPECT_EQ(message([&](auto& s) { s.index_bytes = starts + ids; }), "OK");
}

// Files of version 1, committed once, are read for ever. Two segments in a row.
TEST(SegmentFormatTest, TheGoldenFileOfVersion1) {
  const TestSegment first(11, 21, 72, DType::kBF16, 333), second(12, 3, 8, DType::kF32, 0);
  std::string written;
  for (const TestSegment* segment : {&first, &second}) {
    PageBuffer image = EncodeSegment(segment->content());
    written.append(reinterpret_cast<const char*>(image.data()), image.size());
  }
  std::ifstream file("tests/golden/store/segments_version_1.bin", std::ios::binary);
  const std::string golden{std::istreambuf_iterator<char>(file), {}};
  if (golden != written) {  // of this version: today's writer must give the same bytes
    const std::string path = testing::TempDir() + "segments_version_1.bin";
    std::ofstream(path, std::ios::binary) << written;
    ADD_FAILURE() << "differs from what is written today, which is in " << path;
  }
  PageBuffer bytes(golden.size());
  std::copy_n(std::as_bytes(std::span(golden)).begin(), golden.size(), bytes.data());
  std::span<const std::byte> rest = bytes.bytes();
  for (const TestSegment* segment : {&first, &second}) {
    ASSERT_GE(rest.size(), kPageBytes);
    const auto shape = ParseSegmentHeader(rest.first(kPageBytes));
    ASSERT_TRUE(shape.ok()) << shape.status().ToString();
    EXPECT_EQ(*shape, segment->shape());
    const SegmentLayout layout(*shape);
    ASSERT_TRUE(CheckAll(*shape, rest.first(layout.bytes())).ok());
    for (size_t row = 0; row < static_cast<size_t>(shape->num_rows); ++row) {
      const auto stored = rest.subspan(kPageBytes + row * shape->row_bytes(), shape->row_bytes());
      EXPECT_TRUE(SameBytes(stored.first(stored.size() / 2), segment->Key(row)));
      EXPECT_TRUE(SameBytes(stored.subspan(stored.size() / 2), segment->Value(row)));
    }
    rest = rest.subspan(layout.bytes());
  }
  EXPECT_TRUE(rest.empty());
}

}  // namespace
}  // namespace sounder::kv_node
