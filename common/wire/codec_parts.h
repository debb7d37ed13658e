// Pieces the codec is made of: the header, the item table and the tensors behind it. Private to
// common/wire. Pure functions and plain cursors.
#ifndef SOUNDER_COMMON_WIRE_CODEC_PARTS_H_
#define SOUNDER_COMMON_WIRE_CODEC_PARTS_H_

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/transport/transport.h"
#include "common/wire/messages.h"
#include "proto/data.capnp.h"

namespace sounder::wire {

inline constexpr size_t kTensorAlignment = 64;
// Of a reply item in the table, with the longest status, and more.
inline constexpr uint64_t kReplyRowBytes = 1024;
inline constexpr size_t kMaxStatusMessage = 512;

constexpr size_t Padded(size_t bytes) {
  return (bytes + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
}

// Of a message, in order.
using TensorList = std::vector<std::span<const std::byte>>;

// What the header says of the payload.
struct PayloadShape {
  uint32_t item_count = 0;
  uint32_t item_table_bytes = 0;
  uint32_t payload_bytes = 0;
  uint64_t checksum = 0;
};

uint16_t ToWireCode(const absl::Status& status);
std::string ToWireText(const absl::Status& status);  // at most kMaxStatusMessage bytes
// An unknown code becomes UNKNOWN; a message longer than the protocol allows is cut.
absl::Status FromWire(uint16_t code, std::string message);

// INVALID_ARGUMENT for values that this version does not know.
absl::StatusOr<base::DType> GetDType(proto::DType dtype);
absl::StatusOr<RowFormat> GetRowFormat(proto::RowFormat format);

void Put(const SessionRef& session, proto::SessionRef::Builder out);
SessionRef Get(proto::SessionRef::Reader in);
// INVALID_ARGUMENT for what limits.h does not allow.
absl::Status CheckDims(uint32_t layer, uint32_t head_begin, uint32_t heads, uint32_t dim);
absl::Status CheckRange(base::PositionRange range);

std::vector<std::byte> EncodeHeader(const Envelope& envelope, const PayloadShape& shape);
absl::StatusOr<Envelope> DecodeHeader(std::span<const std::byte> header, PayloadShape* shape);

// The table as bytes, followed by the tensors in order, each padded; and its shape.
memory::AlignedBuffer BuildPayload(capnp::MessageBuilder& table, uint32_t item_count,
                                   const TensorList& tensors, PayloadShape* shape);

// The payload has the size that the header announces, and one that a payload may have.
absl::Status CheckPayloadSize(const memory::AlignedBuffer& payload, const PayloadShape& shape);

// Decodes the header, checks kind, sizes and checksum. The payload stays in `message`.
absl::StatusOr<Envelope> DecodeAndCheck(const transport::Message& message, MessageKind kind,
                                        PayloadShape* shape);

// Runs `read` with the root of the item table; a malformed table becomes INVALID_ARGUMENT.
template <typename Root>
absl::Status ReadTable(const memory::AlignedBuffer& payload, const PayloadShape& shape,
                       const std::function<absl::Status(typename Root::Reader)>& read) {
  if (shape.item_table_bytes % 8 != 0 || shape.item_table_bytes > payload.size()) {
    return absl::InvalidArgumentError(absl::StrCat("an item table of ", shape.item_table_bytes,
                                                   " bytes does not fit into the payload of ",
                                                   payload.size(), " bytes"));
  }
  try {
    capnp::ReaderOptions options;
    options.traversalLimitInWords = 2 * (shape.item_table_bytes / 8) + 1024;
    options.nestingLimit = 8;
    const auto* words = reinterpret_cast<const capnp::word*>(payload.data());
    capnp::FlatArrayMessageReader reader(kj::arrayPtr(words, shape.item_table_bytes / 8), options);
    return read(reader.getRoot<Root>());
  } catch (const kj::Exception& exception) {
    return absl::InvalidArgumentError(std::string("malformed item table: ") +
                                      exception.getDescription().cStr());
  }
}

// Walks the tensors behind the item table. The payload has passed CheckPayloadSize.
class TensorCursor {
 public:
  TensorCursor(const memory::AlignedBuffer& payload, const PayloadShape& shape)
      : payload_(payload.bytes()), offset_(Padded(shape.item_table_bytes)) {}

  // The next tensor of `count` elements; false if the payload is too short for it.
  template <typename T>
  bool Next(uint64_t count, std::span<const T>* tensor) {
    if (offset_ > payload_.size()) return false;
    if (count > (payload_.size() - offset_) / sizeof(T)) return false;
    *tensor = {reinterpret_cast<const T*>(payload_.data() + offset_), count};
    offset_ += Padded(count * sizeof(T));
    return true;
  }
  // All bytes were used: the payload is no longer than its items say.
  bool AtEnd() const { return offset_ == payload_.size(); }

 private:
  std::span<const std::byte> payload_;
  size_t offset_;
};

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_CODEC_PARTS_H_
