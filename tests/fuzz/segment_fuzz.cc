// Stored segments (kv_node/store).
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "common/base/limits.h"
#include "kv_node/store/segment_format.h"
#include "tests/fuzz/mutations.h"
#include "tests/fuzz/target.h"

namespace sounder::fuzz {
namespace {

using kv_node::kPageBytes;
using kv_node::SegmentLayout;
using kv_node::StoredShape;
using Bytes = std::vector<std::byte>;

constexpr uint64_t kMaxBytes = 512 * 1024;
constexpr size_t kFields = 24;  // position, rows, dim, type, zero, bytes of index: as in the header
constexpr size_t kEdit = 4;     // of the built segment: offset (16 bits), value, when

template <typename T>
T Take(std::span<const std::byte>& input) {
  T value{};
  const size_t size = std::min(input.size(), sizeof value);
  if (size > 0) std::memcpy(&value, input.data(), size);
  input = input.subspan(size);
  return value;
}

void Put64(Bytes& bytes, size_t at, uint64_t value) { std::memcpy(&bytes[at], &value, 8); }

// Header and footer with right checksums; the checksums of all pages between.
void Seal(Bytes& bytes, const StoredShape& shape, const SegmentLayout& layout) {
  for (uint64_t page = 0; page < layout.checksums; ++page) {
    const auto content = std::span(bytes).subspan(page * kPageBytes, kPageBytes);
    Put64(bytes, layout.checksums * kPageBytes + 8 * page,
          kv_node::PageChecksum(shape.tag, page, content));
  }
  const size_t footer = layout.footer * kPageBytes;
  std::memcpy(&bytes[footer], "SNDRSEGE\1\0\0\0", 12);
  std::memcpy(&bytes[footer + 16], shape.tag.data(), 16);
  Put64(bytes, footer + 32, bytes.size());
  Put64(bytes, footer + 40,
        XXH3_64bits(&bytes[layout.checksums * kPageBytes],
                    (layout.footer - layout.checksums) * kPageBytes));
  Put64(bytes, footer + 48, XXH3_64bits(&bytes[footer], 48));
}

// Random bytes do not get past checksums, so an input that begins with 's' says what a segment is
// made of: the fields of its header, how many edits, the edits, and bytes for index and rows. Edits
// are made before or after the checksums. Any other first byte: a file as it is, folded.
Bytes SegmentOf(std::span<const std::byte> input) {
  if (input.empty() || input[0] != std::byte{'s'}) {
    const std::string text = Unfold(AsText(input.empty() ? input : input.subspan(1)));
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
  }
  input = input.subspan(1);
  Bytes bytes(kPageBytes);
  std::memcpy(bytes.data(), "SNDRSEGM\1\0\0\0\x48\0\0\0", 16);
  std::fill_n(bytes.begin() + 16, 16, std::byte{7});
  std::memcpy(&bytes[32], input.data(), std::min(input.size(), kFields));
  input = input.subspan(std::min(input.size(), kFields));
  StoredShape shape;
  shape.tag.fill(std::byte{7});
  std::memcpy(&shape.first_position, &bytes[32], 8);
  uint32_t rows = 0;
  uint16_t dim = 0;
  std::memcpy(&rows, &bytes[40], 4);
  std::memcpy(&dim, &bytes[44], 2);
  shape.num_rows = rows;
  shape.dim = dim;
  shape.dtype = static_cast<base::DType>(bytes[46]);
  std::memcpy(&shape.index_bytes, &bytes[48], 8);
  const bool possible = rows <= base::kMaxSegmentRows && dim <= base::kMaxHeadDim &&
                        shape.index_bytes <= kMaxBytes && SegmentLayout(shape).bytes() <= kMaxBytes;
  const SegmentLayout layout(possible ? shape : StoredShape{});
  Put64(bytes, 56, layout.bytes());
  Put64(bytes, 64, XXH3_64bits(bytes.data(), 64));
  bytes.resize(layout.bytes());
  std::vector<uint32_t> edits(std::to_integer<size_t>(Take<std::byte>(input)) % 8);
  for (uint32_t& edit : edits) edit = Take<uint32_t>(input);
  const auto apply = [&](uint32_t when) {
    for (const uint32_t edit : edits) {
      if (edit >> 31 == when) bytes[(edit & 0xffff) * 5 % bytes.size()] ^= std::byte(edit >> 16);
    }
  };
  const auto fill = [&](size_t at, size_t size) {
    size = std::min({size, input.size(), bytes.size() - at});
    std::copy_n(input.begin(), size, bytes.begin() + static_cast<std::ptrdiff_t>(at));
    input = input.subspan(size);
  };
  fill(layout.index * kPageBytes, possible ? shape.index_bytes : 0);
  fill(kPageBytes, possible ? rows * shape.row_bytes() : 0);
  apply(0);
  Seal(bytes, shape, layout);
  apply(1);
  static_assert(sizeof edits[0] == kEdit);
  return bytes;
}

const std::initializer_list<absl::StatusCode> kRefusals = {absl::StatusCode::kDataLoss,
                                                           absl::StatusCode::kFailedPrecondition};

// What was accepted is what would be written: the same bytes come out again. Bytes between the last
// row and its page's end are not looked at by readers.
void CheckRewritten(const StoredShape& shape, const kv_node::SegmentTail& tail,
                    const Bytes& bytes) {
  const auto rows = static_cast<size_t>(shape.num_rows);
  const size_t half = shape.row_bytes() / 2;
  Bytes keys(rows * half), values(rows * half);
  for (size_t row = 0; row < rows; ++row) {
    std::memcpy(&keys[row * half], &bytes[kPageBytes + row * 2 * half], half);
    std::memcpy(&values[row * half], &bytes[kPageBytes + row * 2 * half + half], half);
  }
  const auto view = [&](const Bytes& packed) {
    return memory::RowsView{packed.data(), shape.num_rows, static_cast<int64_t>(half), shape.dim,
                            shape.dtype};
  };
  auto again = kv_node::EncodeSegment({.tag = shape.tag,
                                       .first_position = shape.first_position,
                                       .keys = view(keys),
                                       .values = view(values),
                                       .index = tail.index});
  const SegmentLayout layout(shape);
  const size_t end_of_rows = kPageBytes + rows * 2 * half;
  const bool padded = std::any_of(bytes.begin() + static_cast<std::ptrdiff_t>(end_of_rows),
                                  bytes.begin() + static_cast<std::ptrdiff_t>(layout.tail_begin()),
                                  [](std::byte b) { return b != std::byte{0}; });
  if (padded) return;
  CHECK(std::equal(bytes.begin(), bytes.end(), again.bytes().begin(), again.bytes().end()));
}

}  // namespace

bool RunTarget(std::span<const std::byte> input) {
  const Bytes bytes = SegmentOf(input);
  const auto first = std::span(bytes).first(std::min(bytes.size(), kPageBytes));
  const auto shape = kv_node::ParseSegmentHeader(first);
  if (!shape.ok()) {
    CheckRefusal(shape.status(), kRefusals);
    return false;
  }
  CHECK(kv_node::CheckShape(*shape).ok());
  const SegmentLayout layout(*shape);
  if (bytes.size() < layout.bytes()) return false;  // the disk says so
  const auto tail = kv_node::ParseSegmentTail(
      *shape, first, std::span(bytes).subspan(layout.tail_begin(), layout.tail_bytes()));
  if (!tail.ok()) {
    CheckRefusal(tail.status(), kRefusals);
    return false;
  }
  CHECK(tail->index.size() == shape->index_bytes);
  CHECK(tail->row_checksums.size() == layout.row_pages());
  for (uint64_t page = 0; page < layout.row_pages(); ++page) {
    const absl::Status status = kv_node::CheckRowPage(
        *shape, *tail, page, std::span(bytes).subspan((1 + page) * kPageBytes, kPageBytes));
    if (status.ok()) continue;
    CheckRefusal(status, kRefusals);
    return false;
  }
  if (bytes.size() == layout.bytes()) CheckRewritten(*shape, *tail, bytes);
  return true;
}

}  // namespace sounder::fuzz
