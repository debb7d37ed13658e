#include "kv_node/store/segment_format.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is written as it lies");
// Of tables of buckets, the largest index: where each bucket starts, and the rows in it; means,
// norms and the like are little beside them.
static_assert(base::kMaxTables * sizeof(uint16_t) *
                      ((uint64_t{1} << base::kMaxBitsPerTable) + 1 + base::kMaxSegmentRows) +
                  (uint64_t{1} << 20) <=
              kMaxStoredIndexBytes);

constexpr std::string_view kHeaderMagic = "SNDRSEGM";
constexpr std::string_view kFooterMagic = "SNDRSEGE";

// Offsets in the first page, then in the last.
constexpr size_t kVersionAt = 8, kFieldBytesAt = 12, kTagAt = 16, kPositionAt = 32, kRowsAt = 40,
                 kDimAt = 44, kDTypeAt = 46, kIndexBytesAt = 48, kTotalAt = 56, kHeaderSumAt = 64,
                 kHeaderBytes = 72;
constexpr size_t kFooterTotalAt = 32, kTableSumAt = 40, kFooterSumAt = 48;

template <typename T>
void Put(std::byte* page, size_t at, T value) {
  std::memcpy(page + at, &value, sizeof value);
}

template <typename T>
T Get(std::span<const std::byte> bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

uint64_t Hash(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

bool AllZero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

uint64_t PagesFor(uint64_t bytes) { return WholePages(bytes) / kPageBytes; }

void EncodeHeader(const StoredShape& shape, std::byte* page) {
  std::memset(page, 0, kPageBytes);
  std::memcpy(page, kHeaderMagic.data(), kHeaderMagic.size());
  Put(page, kVersionAt, kSegmentFormatVersion);
  Put(page, kFieldBytesAt, static_cast<uint32_t>(kHeaderBytes));
  std::memcpy(page + kTagAt, shape.tag.data(), shape.tag.size());
  Put(page, kPositionAt, static_cast<uint64_t>(shape.first_position));
  Put(page, kRowsAt, static_cast<uint32_t>(shape.num_rows));
  Put(page, kDimAt, static_cast<uint16_t>(shape.dim));
  Put(page, kDTypeAt, static_cast<uint8_t>(shape.dtype));
  Put(page, kIndexBytesAt, shape.index_bytes);
  Put(page, kTotalAt, SegmentLayout(shape).bytes());
  Put(page, kHeaderSumAt, Hash({page, kHeaderSumAt}));
}

void EncodeFooter(const StoredShape& shape, uint64_t table_hash, std::byte* page) {
  std::memset(page, 0, kPageBytes);
  std::memcpy(page, kFooterMagic.data(), kFooterMagic.size());
  Put(page, kVersionAt, kSegmentFormatVersion);
  std::memcpy(page + kTagAt, shape.tag.data(), shape.tag.size());
  Put(page, kFooterTotalAt, SegmentLayout(shape).bytes());
  Put(page, kTableSumAt, table_hash);
  Put(page, kFooterSumAt, Hash({page, kFooterSumAt}));
}

absl::Status CheckVersion(std::span<const std::byte> page) {
  const auto version = Get<uint32_t>(page, kVersionAt);
  if (version == kSegmentFormatVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("segment of format version ", version,
                                                    "; this program reads version ",
                                                    kSegmentFormatVersion));
}

bool HasMagic(std::span<const std::byte> page, std::string_view magic) {
  return std::memcmp(page.data(), magic.data(), magic.size()) == 0;
}

absl::Status CheckFooter(const StoredShape& shape, std::span<const std::byte> table,
                         std::span<const std::byte> footer) {
  if (!HasMagic(footer, kFooterMagic)) {
    return absl::DataLossError("the segment's last page is not a footer: it was not written whole");
  }
  RETURN_IF_ERROR(CheckVersion(footer));
  PageBuffer expected(kPageBytes);
  EncodeFooter(shape, Hash(table), expected.data());
  if (std::memcmp(footer.data(), expected.data(), kPageBytes) != 0) {
    return absl::DataLossError("footer and page checksums do not fit the segment's header");
  }
  return absl::OkStatus();
}

// `table`: the checksums part.
std::vector<uint64_t> RowChecksumsIn(const SegmentLayout& layout,
                                     std::span<const std::byte> table) {
  std::vector<uint64_t> checksums(layout.row_pages());
  std::memcpy(checksums.data(), table.data() + SegmentLayout::kRows * sizeof(uint64_t),
              checksums.size() * sizeof(uint64_t));
  return checksums;
}

absl::Status PageMismatch(uint64_t page, std::string_view part) {
  return absl::DataLossError(
      absl::StrCat("page ", page, " (", std::string(part), ") does not match its checksum"));
}

}  // namespace

absl::Status CheckShape(const StoredShape& shape) {
  const auto refuse = [](const char* field, auto value, std::string_view expected) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " ", value, ": expected ", std::string(expected)));
  };
  if (shape.first_position < 0 || shape.first_position > base::kMaxPositions) {
    return refuse("first position", shape.first_position, "[0, 2^40]");
  }
  if (shape.num_rows < 1 || shape.num_rows > base::kMaxSegmentRows) {
    return refuse("rows", shape.num_rows, "[1, 65536]");
  }
  if (shape.dim < 8 || shape.dim > base::kMaxHeadDim || shape.dim % 8 != 0) {
    return refuse("dim", shape.dim, "a multiple of 8 in [8, 512]");
  }
  if (shape.dtype > base::DType::kBF16) {
    return refuse("element type", static_cast<int>(shape.dtype), "0 (f32), 1 (f16), 2 (bf16)");
  }
  if (shape.index_bytes > kMaxStoredIndexBytes) {
    return refuse("index bytes", shape.index_bytes, "at most 512 MiB");
  }
  return absl::OkStatus();
}

SegmentLayout::SegmentLayout(const StoredShape& shape) {
  const auto rows = static_cast<uint64_t>(shape.num_rows);
  index = kRows + PagesFor(rows * shape.row_bytes());
  checksums = index + PagesFor(shape.index_bytes);
  footer = checksums + PagesFor(checksums * sizeof(uint64_t));
}

StoredShape ShapeOf(const SegmentContent& content) {
  return {.tag = content.tag,
          .first_position = content.first_position,
          .num_rows = content.keys.rows,
          .dim = content.keys.dim,
          .dtype = content.keys.dtype,
          .index_bytes = content.index.size()};
}

uint64_t PageChecksum(const SegmentTag& tag, uint64_t page, std::span<const std::byte> bytes) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), Hash(tag) + page);
}

PageBuffer EncodeSegment(const SegmentContent& content) {
  const StoredShape shape = ShapeOf(content);
  CHECK(CheckShape(shape).ok()) << CheckShape(shape).ToString();
  const memory::RowsView &keys = content.keys, &values = content.values;
  CHECK(values.rows == keys.rows && values.dim == keys.dim && values.dtype == keys.dtype);

  const SegmentLayout layout(shape);
  PageBuffer buffer(layout.bytes());
  std::byte* const base = buffer.data();
  EncodeHeader(shape, base);
  std::byte* const rows = base + SegmentLayout::kRows * kPageBytes;
  const size_t half = shape.row_bytes() / 2;
  for (int64_t row = 0; row < keys.rows; ++row) {
    std::byte* const to = rows + static_cast<size_t>(row) * shape.row_bytes();
    std::memcpy(to, keys.Row(row), half);
    std::memcpy(to + half, values.Row(row), half);
  }
  const auto zero_until = [&](std::byte* from, uint64_t page) {
    std::memset(from, 0, static_cast<size_t>(base + page * kPageBytes - from));
  };
  zero_until(rows + static_cast<size_t>(keys.rows) * shape.row_bytes(), layout.index);
  const auto put = [&](std::span<const std::byte> bytes, uint64_t page, uint64_t end) {
    std::byte* const to = base + page * kPageBytes;
    if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
    zero_until(to + bytes.size(), end);
  };
  put(content.index, layout.index, layout.checksums);
  std::vector<uint64_t> table(layout.checksums);
  for (uint64_t page = 0; page < layout.checksums; ++page) {
    table[page] = PageChecksum(shape.tag, page, {base + page * kPageBytes, kPageBytes});
  }
  put(std::as_bytes(std::span(table)), layout.checksums, layout.footer);
  const uint64_t table_bytes = (layout.footer - layout.checksums) * kPageBytes;
  EncodeFooter(shape, Hash({base + layout.checksums * kPageBytes, table_bytes}),
               base + layout.footer * kPageBytes);
  return buffer;
}

std::vector<uint64_t> RowChecksumsOf(const StoredShape& shape, std::span<const std::byte> segment) {
  const SegmentLayout layout(shape);
  CHECK(segment.size() == layout.bytes()) << segment.size() << " " << layout.bytes();
  return RowChecksumsIn(layout, segment.subspan(layout.checksums * kPageBytes));
}

absl::StatusOr<StoredShape> ParseSegmentHeader(std::span<const std::byte> page) {
  if (page.size() != kPageBytes || !HasMagic(page, kHeaderMagic)) {
    return absl::DataLossError("no segment begins here: another magic number");
  }
  RETURN_IF_ERROR(CheckVersion(page));
  if (Get<uint64_t>(page, kHeaderSumAt) != Hash(page.first(kHeaderSumAt))) {
    return absl::DataLossError("the segment's header does not match its checksum");
  }
  StoredShape shape;
  std::memcpy(shape.tag.data(), page.data() + kTagAt, shape.tag.size());
  shape.first_position = static_cast<base::Position>(Get<uint64_t>(page, kPositionAt));
  shape.num_rows = Get<uint32_t>(page, kRowsAt);
  shape.dim = Get<uint16_t>(page, kDimAt);
  shape.dtype = static_cast<base::DType>(Get<uint8_t>(page, kDTypeAt));
  shape.index_bytes = Get<uint64_t>(page, kIndexBytesAt);
  if (const absl::Status status = CheckShape(shape); !status.ok()) {
    return absl::DataLossError(absl::StrCat("the segment's header: ", status.message()));
  }
  // What is left: a length that does not follow from the rest, bytes behind the
  // end, or between fields.
  PageBuffer expected(kPageBytes);
  EncodeHeader(shape, expected.data());
  if (std::memcmp(page.data(), expected.data(), kPageBytes) != 0) {
    return absl::DataLossError("the segment's header has fields that do not fit each other");
  }
  return shape;
}

absl::StatusOr<SegmentTail> ParseSegmentTail(const StoredShape& shape,
                                             std::span<const std::byte> header,
                                             std::span<const std::byte> tail) {
  ASSIGN_OR_RETURN(const StoredShape found, ParseSegmentHeader(header));
  if (found != shape) {
    return absl::DataLossError(absl::StrCat(
        "another segment than the one recorded lies here: of ", found.num_rows, " rows from ",
        found.first_position, ", expected ", shape.num_rows, " from ", shape.first_position));
  }
  const SegmentLayout layout(shape);
  CHECK(tail.size() == layout.tail_bytes()) << tail.size() << " " << layout.tail_bytes();
  const auto at = [&](uint64_t page) { return tail.subspan((page - layout.index) * kPageBytes); };
  const auto table = at(layout.checksums).first((layout.footer - layout.checksums) * kPageBytes);
  RETURN_IF_ERROR(CheckFooter(shape, table, at(layout.footer)));
  const auto sum = [&](uint64_t page) { return Get<uint64_t>(table, page * sizeof(uint64_t)); };
  if (!AllZero(table.subspan(layout.checksums * sizeof(uint64_t)))) {
    return absl::DataLossError("bytes behind the page checksums are not zero");
  }
  if (PageChecksum(shape.tag, 0, header) != sum(0)) return PageMismatch(0, "header");
  for (uint64_t page = layout.index; page < layout.checksums; ++page) {
    if (PageChecksum(shape.tag, page, at(page).first(kPageBytes)) != sum(page)) {
      return PageMismatch(page, "index");
    }
  }
  SegmentTail result;
  result.row_checksums = RowChecksumsIn(layout, table);
  const auto index = tail.first((layout.checksums - layout.index) * kPageBytes);
  result.index.assign(index.begin(),
                      index.begin() + static_cast<std::ptrdiff_t>(shape.index_bytes));
  if (!AllZero(index.subspan(shape.index_bytes))) {
    return absl::DataLossError("bytes behind the index are not zero");
  }
  return result;
}

absl::Status CheckRowPage(const StoredShape& shape, const SegmentTail& tail, uint64_t row_page,
                          std::span<const std::byte> bytes) {
  CHECK(row_page < tail.row_checksums.size()) << row_page;
  const uint64_t page = SegmentLayout::kRows + row_page;
  if (PageChecksum(shape.tag, page, bytes) == tail.row_checksums[row_page]) return absl::OkStatus();
  return PageMismatch(page, "rows");
}

}  // namespace sounder::kv_node
