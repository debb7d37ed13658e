#include "kv_node/store/segment_reader.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <numeric>

#include "kv_node/store/faulty_disk.h"
#include "kv_node/store/linux_disk.h"
#include "tests/kv_node/store/await.h"
#include "tests/kv_node/store/scratch_folder.h"
#include "tests/kv_node/store/segment_content.h"

namespace sounder::kv_node {
namespace {

using absl::StatusCode;
using base::DType;
using Reader = std::shared_ptr<const SegmentReader>;

absl::StatusOr<Reader> OpenSegment(Disk& disk, const std::shared_ptr<DiskFile>& file,
                                   uint64_t offset, const StoredShape& shape) {
  return Await<absl::StatusOr<Reader>>(
      [&](auto done) { SegmentReader::Open(disk, file, offset, shape, done); });
}

struct Rows {
  explicit Rows(Reader reader, std::vector<uint16_t> asked)
      : segment(std::move(reader)),
        rows(std::move(asked)),
        keys(rows.size() * segment->shape().row_bytes() / 2),
        values(keys.size()) {}
  RowRead Read() { return {segment, rows, keys, values}; }
  void ExpectRowsOf(const TestSegment& expected) const {
    const size_t half = expected.half_row_bytes();
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_TRUE(SameBytes(std::span(keys).subspan(i * half, half), expected.Key(rows[i]))) << i;
      ASSERT_TRUE(SameBytes(std::span(values).subspan(i * half, half), expected.Value(rows[i])))
          << i;
    }
  }

  Reader segment;
  std::vector<uint16_t> rows;
  std::vector<std::byte> keys;
  std::vector<std::byte> values;
};

struct Outcome {
  std::vector<absl::Status> statuses;
  RowReadCounts counts;
};

Outcome ReadAll(Disk& disk, std::vector<RowRead> reads) {
  return Await<Outcome>([&](auto done) {
    ReadRows(disk, std::move(reads),
             [done](std::span<const absl::Status> statuses, const RowReadCounts& counts) {
               done({{statuses.begin(), statuses.end()}, counts});
             });
  });
}

class SegmentReaderTest : public testing::Test {
 protected:
  SegmentReaderTest()
      : folder_("/dev/shm"),
        linux_(*LinuxDisk::Start(folder_.path())),
        disk_(*FaultyDisk::Start(linux_.get(), {}, 1)),
        file_(*disk_->Create("segments")) {}

  uint64_t Write(const TestSegment& segment) {
    return *file_->Append(EncodeSegment(segment.content()).bytes());
  }

  ScratchFolder folder_;
  std::unique_ptr<LinuxDisk> linux_;
  std::unique_ptr<FaultyDisk> disk_;
  std::shared_ptr<DiskFile> file_;
};

std::vector<uint16_t> AllRows(int64_t count) {
  std::vector<uint16_t> rows(static_cast<size_t>(count));
  std::iota(rows.begin(), rows.end(), uint16_t{0});
  return rows;
}

TEST_F(SegmentReaderTest, AnyRowsOfSegmentsOfAnyShape) {
  base::PhiloxStream random(5, 0);
  uint64_t seed = 20;
  for (int times = 0; times < 2; ++times) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      // 40, 72 and 96: rows that lie across pages.
      for (const int dim : {8, 40, 72, 96, 128, 512}) {
        const int64_t count = 1 + random.NextBelow(700);
        ++seed;
        const TestSegment segment(seed, count, dim, dtype, seed);
        const uint64_t offset = Write(segment);
        auto opened = OpenSegment(*disk_, file_, offset, segment.shape());
        ASSERT_TRUE(opened.ok()) << opened.status().ToString();
        EXPECT_TRUE(SameBytes((*opened)->index(), segment.content().index));
        std::vector<uint16_t> some;
        for (int i = 0; i < 40; ++i) {
          some.push_back(static_cast<uint16_t>(random.NextBelow(static_cast<uint32_t>(count))));
        }
        for (const auto& rows : {some, AllRows(count), std::vector<uint16_t>()}) {
          Rows read(*opened, rows);
          const Outcome outcome = ReadAll(*disk_, {read.Read()});
          ASSERT_TRUE(outcome.statuses[0].ok()) << outcome.statuses[0].ToString();
          read.ExpectRowsOf(segment);
        }
      }
    }
  }
}

TEST_F(SegmentReaderTest, ReadsDistinctPagesAndNeighboursAtOnce) {
  // 512 B a row: 8 a page.
  const TestSegment segment(7, 4096, 128, DType::kBF16, 0);
  const uint64_t offset = Write(segment);
  const Reader reader = *OpenSegment(*disk_, file_, offset, segment.shape());
  const auto counts = [&](const std::vector<uint16_t>& rows) {
    Rows read(reader, rows);
    const RowReadCounts result = ReadAll(*disk_, {read.Read()}).counts;
    return std::pair(result.pages, result.reads);
  };
  using Counts = std::pair<uint64_t, uint64_t>;
  EXPECT_EQ(counts({17, 16, 23, 17}), Counts(1, 1));
  EXPECT_EQ(counts({0, 8, 16, 800, 4095}), Counts(5, 3));
  EXPECT_EQ(counts({15, 40}), Counts(2, 2));
  EXPECT_EQ(counts(AllRows(4096)), Counts(512, 2));  // reads of at most 1 MiB
  EXPECT_EQ(counts({}), Counts(0, 0));
}

TEST_F(SegmentReaderTest, ManySegmentsInOneBatchEachWithItsStatus) {
  std::vector<std::unique_ptr<TestSegment>> segments;
  std::vector<Rows> reads;
  for (uint64_t i = 0; i < 20; ++i) {
    segments.push_back(std::make_unique<TestSegment>(i, 256, 96, DType::kBF16, 100 * i));
    const uint64_t offset = Write(*segments.back());
    reads.emplace_back(*OpenSegment(*disk_, file_, offset, segments.back()->shape()),
                       std::vector<uint16_t>{static_cast<uint16_t>(i), 255, 100});
  }
  const auto read_all = [&] {
    std::vector<RowRead> batch;
    for (Rows& read : reads) batch.push_back(read.Read());
    return ReadAll(*disk_, std::move(batch));
  };
  const Outcome good = read_all();
  for (size_t i = 0; i < 20; ++i) {
    ASSERT_TRUE(good.statuses[i].ok()) << good.statuses[i].ToString();
    reads[i].ExpectRowsOf(*segments[i]);
  }
  // One damaged bit and one unreadable page: two segments are missing, the others are right.
  disk_->Arm(DiskFault::kReadFlip, 10);
  disk_->Arm(DiskFault::kReadError, 30);
  const Outcome bad = read_all();
  size_t lost = 0;
  for (size_t i = 0; i < 20; ++i) {
    if (bad.statuses[i].ok()) {
      reads[i].ExpectRowsOf(*segments[i]);
      continue;
    }
    ++lost;
    EXPECT_EQ(bad.statuses[i].code(), StatusCode::kDataLoss);
    EXPECT_EQ(bad.statuses[i].message().find(reads[i].segment->Describe()), 0u)
        << bad.statuses[i].ToString();
  }
  EXPECT_EQ(lost, 2u);
}

TEST_F(SegmentReaderTest, WhatWasJustWrittenNeedsNoReading) {
  const TestSegment segment(9, 300, 72, DType::kF16, 777);
  PageBuffer image = EncodeSegment(segment.content());
  const uint64_t offset = *file_->Append(image.bytes());
  const Reader written = SegmentReader::OfWritten(file_, offset, segment.shape(),
                                                  RowChecksumsOf(segment.shape(), image.bytes()));
  const Reader opened = *OpenSegment(*disk_, file_, offset, segment.shape());
  EXPECT_EQ(written->shape(), opened->shape());
  EXPECT_EQ(written->tail().row_checksums, opened->tail().row_checksums);
  EXPECT_TRUE(SameBytes(opened->index(), segment.content().index));
  EXPECT_TRUE(written->index().empty()) << "whoever wrote it has it";
  EXPECT_GE(opened->bytes(), 777 + 8 * opened->layout().row_pages());
  EXPECT_LT(written->bytes(), opened->bytes() - 700);
  Rows read(written, AllRows(300));
  EXPECT_TRUE(ReadAll(*disk_, {read.Read()}).statuses[0].ok());
  read.ExpectRowsOf(segment);
}

TEST_F(SegmentReaderTest, WhatIsNotThereIsDataLossWithItsPlace) {
  const TestSegment segment(9, 300, 72, DType::kF16, 777), other(10, 300, 72, DType::kF16, 777);
  Write(segment);
  const uint64_t offset = Write(segment);
  const auto message = [&](uint64_t at, const StoredShape& shape) {
    const auto opened = OpenSegment(*disk_, file_, at, shape);
    EXPECT_EQ(opened.status().code(), StatusCode::kDataLoss);
    return opened.status().ToString();
  };
  EXPECT_NE(message(offset, other.shape()).find("segments: segment at"), std::string::npos);
  EXPECT_NE(message(offset, other.shape()).find("another segment than the one recorded"),
            std::string::npos);
  EXPECT_NE(message(offset - kPageBytes, segment.shape()).find("no segment begins here"),
            std::string::npos);
  EXPECT_NE(message(file_->size(), segment.shape()).find("the file ends before"),
            std::string::npos);
}

// A segment that was being written when the power went is opened whole or refused; the one that was
// synced before it is always whole.
TEST_F(SegmentReaderTest, NothingTornIsServed) {
  int whole = 0, refused = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    auto disk = *FaultyDisk::Start(linux_.get(), {}, seed);
    const std::string name = "crash" + std::to_string(seed);
    auto file = *disk->Create(name);
    const TestSegment durable(1, 64, 96, DType::kBF16, 100), fresh(2, 64, 96, DType::kBF16, 5000);
    ASSERT_TRUE(file->Append(EncodeSegment(durable.content()).bytes()).ok());
    ASSERT_TRUE(file->Sync().ok() && disk->SyncDirectory().ok());
    const uint64_t offset = *file->Append(EncodeSegment(fresh.content()).bytes());
    ASSERT_TRUE(disk->Crash().ok());
    auto after = *linux_->Open(name);
    for (const TestSegment* segment : {&durable, &fresh}) {
      const bool synced = segment == &durable;
      auto opened = OpenSegment(*linux_, after, synced ? 0 : offset, segment->shape());
      if (opened.ok()) {
        Rows read(*opened, AllRows(64));
        const Outcome outcome = ReadAll(*linux_, {read.Read()});
        if (outcome.statuses[0].ok()) {
          read.ExpectRowsOf(*segment);
          if (!synced) ++whole;
          continue;
        }
        opened = outcome.statuses[0];
      }
      ASSERT_FALSE(synced) << "seed " << seed << ": " << opened.status().ToString();
      EXPECT_EQ(opened.status().code(), StatusCode::kDataLoss) << opened.status().ToString();
      ++refused;
    }
  }
  std::printf("unsynced segments: %d whole, %d refused\n", whole, refused);
  EXPECT_GT(whole, 0);
  EXPECT_GT(refused, 50);
}

}  // namespace
}  // namespace sounder::kv_node
