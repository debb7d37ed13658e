#include "kv_node/sampler/index_bytes.h"

#include <xxhash.h>

#include <bit>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"

namespace sounder::kv_node {
namespace {

static_assert(std::endian::native == std::endian::little);

// As it lies in a file.
struct Header {
  uint32_t magic = 0;
  uint16_t version = 0;
  uint16_t kind = 0;
  uint64_t checksum = 0;  // XXH3-64 of all bytes, these counted as 0
  uint64_t bytes = 0;     // of header and arrays
  uint64_t seed = 0;
  uint32_t rows = 0;
  uint32_t dim = 0;
  uint32_t bits = 0;
  uint32_t tables = 0;
  uint32_t projection = 0;
  int32_t exponent = 0;
  uint64_t reserved = 0;
};
static_assert(sizeof(Header) == kIndexHeaderBytes);

constexpr uint32_t kMagic = 0x58444953;  // "SIDX"
constexpr size_t kChecksumAt = offsetof(Header, checksum);

constexpr size_t Padded(size_t bytes) { return memory::AlignedBuffer::Allocated(bytes); }

uint64_t ChecksumOf(std::span<const std::byte> bytes) {
  constexpr uint64_t kZero = 0;
  const size_t behind = kChecksumAt + sizeof kZero;
  XXH3_state_t* const state = XXH3_createState();
  CHECK(state != nullptr);
  XXH3_64bits_reset(state);
  XXH3_64bits_update(state, bytes.data(), kChecksumAt);
  XXH3_64bits_update(state, &kZero, sizeof kZero);
  XXH3_64bits_update(state, bytes.data() + behind, bytes.size() - behind);
  const uint64_t checksum = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return checksum;
}

std::string TextOf(const IndexIdentity& identity) {
  return absl::StrCat(base::ToAbsl(NameOf(identity.kind)), " of ", identity.rows, " rows of dim ",
                      identity.dim, ", ", identity.bits, " bits, ", identity.tables,
                      " tables, projection ", identity.projection, ", seed ", identity.seed);
}

IndexIdentity IdentityOf(const Header& header) {
  return {.kind = static_cast<SamplerKind>(header.kind),
          .rows = header.rows,
          .dim = static_cast<int>(header.dim),
          .seed = header.seed,
          .bits = static_cast<int>(header.bits),
          .tables = static_cast<int>(header.tables),
          .projection = static_cast<int>(header.projection)};
}

// The parts that later versions keep, then the rest.
absl::StatusOr<Header> ReadHeader(std::span<const std::byte> bytes) {
  Header header;
  if (bytes.size() < sizeof header) {
    return absl::DataLossError(
        absl::StrCat("an index of ", bytes.size(), " bytes, expected at least ", sizeof header));
  }
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kMagic) {
    return absl::DataLossError(absl::StrCat("an index begins with ", absl::Hex(header.magic),
                                            ", expected ", absl::Hex(kMagic)));
  }
  if (header.version != kIndexVersion) {
    return absl::FailedPreconditionError(absl::StrCat("an index of format version ", header.version,
                                                      ", this program reads version ",
                                                      kIndexVersion));
  }
  const uint64_t checksum = ChecksumOf(bytes);
  if (header.checksum != checksum) {
    return absl::DataLossError(absl::StrCat("an index of ", bytes.size(), " bytes has checksum ",
                                            absl::Hex(checksum), ", expected ",
                                            absl::Hex(header.checksum)));
  }
  if (header.reserved != 0) return absl::DataLossError("reserved bytes of an index are not 0");
  return header;
}

}  // namespace

void SealIndexBytes(std::span<std::byte> bytes) {
  CHECK(bytes.size() >= kIndexHeaderBytes) << bytes.size();
  const uint64_t checksum = ChecksumOf(bytes);
  std::memcpy(bytes.data() + kChecksumAt, &checksum, sizeof checksum);
}

memory::AlignedBuffer EncodeIndexBytes(const IndexIdentity& identity, int exponent,
                                       std::span<const std::span<const std::byte>> arrays) {
  size_t size = kIndexHeaderBytes;
  for (const std::span<const std::byte> array : arrays) size += Padded(array.size());
  memory::AlignedBuffer bytes = memory::AlignedBuffer::Zeroed(size);
  const Header header = {.magic = kMagic,
                         .version = kIndexVersion,
                         .kind = static_cast<uint16_t>(identity.kind),
                         .bytes = size,
                         .seed = identity.seed,
                         .rows = static_cast<uint32_t>(identity.rows),
                         .dim = static_cast<uint32_t>(identity.dim),
                         .bits = static_cast<uint32_t>(identity.bits),
                         .tables = static_cast<uint32_t>(identity.tables),
                         .projection = static_cast<uint32_t>(identity.projection),
                         .exponent = exponent};
  std::memcpy(bytes.data(), &header, sizeof header);
  size_t at = kIndexHeaderBytes;
  for (const std::span<const std::byte> array : arrays) {
    if (!array.empty()) std::memcpy(bytes.data() + at, array.data(), array.size());
    at += Padded(array.size());
  }
  SealIndexBytes(bytes.bytes());
  return bytes;
}

absl::StatusOr<IndexArrays> DecodeIndexBytes(std::span<const std::byte> bytes,
                                             const IndexIdentity& expected,
                                             std::span<const size_t> array_bytes) {
  const absl::StatusOr<Header> header = ReadHeader(bytes);
  if (!header.ok()) return header.status();
  if (const IndexIdentity identity = IdentityOf(*header); identity != expected) {
    return absl::FailedPreconditionError(
        absl::StrCat("an index by ", TextOf(identity), "; expected ", TextOf(expected)));
  }
  size_t size = kIndexHeaderBytes;
  for (const size_t array : array_bytes) size += Padded(array);
  if (bytes.size() != size || header->bytes != size) {
    return absl::DataLossError(absl::StrCat("an index of ", bytes.size(), " bytes that says ",
                                            header->bytes, ", expected ", size));
  }
  IndexArrays decoded = {.exponent = header->exponent, .arrays = {}};
  size_t at = kIndexHeaderBytes;
  for (const size_t array : array_bytes) {
    decoded.arrays.push_back(memory::AlignedBuffer::CopyOf(bytes.subspan(at, array)));
    at += Padded(array);
  }
  return decoded;
}

}  // namespace sounder::kv_node
