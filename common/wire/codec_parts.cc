#include "common/wire/codec_parts.h"

#include <xxhash.h>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace sounder::wire {

uint16_t ToWireCode(const absl::Status& status) {
  return static_cast<uint16_t>(static_cast<int>(status.code()));
}

std::string ToWireText(const absl::Status& status) {
  return std::string(status.message()).substr(0, kMaxStatusMessage);
}

absl::Status FromWire(uint16_t code, std::string message) {
  if (code == 0) return absl::OkStatus();
  if (message.size() > kMaxStatusMessage) message.resize(kMaxStatusMessage);
  const auto known = static_cast<int>(absl::StatusCode::kUnauthenticated);
  const int value = code <= known ? code : static_cast<int>(absl::StatusCode::kUnknown);
  return absl::Status(static_cast<absl::StatusCode>(value), message);
}

absl::StatusOr<base::DType> GetDType(proto::DType dtype) {
  const auto value = static_cast<uint16_t>(dtype);
  if (value > static_cast<uint16_t>(base::DType::kBF16)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown dtype ", value, ", expected 0 to ",
                                                   static_cast<int>(base::DType::kBF16)));
  }
  return static_cast<base::DType>(value);
}

absl::StatusOr<RowFormat> GetRowFormat(proto::RowFormat format) {
  const auto value = static_cast<uint16_t>(format);
  if (value > static_cast<uint16_t>(RowFormat::kInt8)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown row format ", value, ", expected 0 to ",
                                                   static_cast<int>(RowFormat::kInt8)));
  }
  return static_cast<RowFormat>(value);
}

void Put(const SessionRef& session, proto::SessionRef::Builder out) {
  out.setIdHigh(session.id.high);
  out.setIdLow(session.id.low);
  out.setEpoch(session.epoch);
}

SessionRef Get(proto::SessionRef::Reader in) {
  return {{in.getIdHigh(), in.getIdLow()}, in.getEpoch()};
}

absl::Status CheckDims(uint32_t layer, uint32_t head_begin, uint32_t heads, uint32_t dim) {
  if (layer >= base::kMaxLayers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", layer, ", expected less than ", base::kMaxLayers));
  }
  if (heads == 0 || heads > base::kMaxKvHeads || head_begin > base::kMaxKvHeads - heads) {
    return absl::InvalidArgumentError(absl::StrCat("kv heads [", head_begin, ", +", heads,
                                                   "), expected one or more in [0, ",
                                                   base::kMaxKvHeads, ")"));
  }
  if (dim == 0 || dim % 8 != 0 || dim > base::kMaxHeadDim) {
    return absl::InvalidArgumentError(
        absl::StrCat("head dim ", dim, ", expected a multiple of 8 up to ", base::kMaxHeadDim));
  }
  return absl::OkStatus();
}

absl::Status CheckRange(base::PositionRange range) {
  if (range.begin < 0 || range.end < range.begin || range.end > base::kMaxPositions) {
    return absl::InvalidArgumentError(
        absl::StrCat("malformed position range [", range.begin, ", ", range.end,
                     "), expected ordered positions of 0 to ", base::kMaxPositions));
  }
  return absl::OkStatus();
}

std::vector<std::byte> EncodeHeader(const Envelope& envelope, const PayloadShape& shape) {
  capnp::MallocMessageBuilder builder;
  auto header = builder.initRoot<proto::DataHeader>();
  header.setVersion(kProtocolVersion);
  header.setKind(static_cast<proto::Kind>(envelope.kind));
  header.setTenant(envelope.tenant);
  header.setTicket(envelope.ticket);
  header.setTraceId(envelope.trace_id);
  header.setDeadlineMicros(envelope.deadline_us);
  header.setItemCount(shape.item_count);
  header.setItemTableBytes(shape.item_table_bytes);
  header.setPayloadBytes(shape.payload_bytes);
  header.setChecksum(shape.checksum);
  header.setRetryAfterMicros(envelope.retry_after_us);
  if (!envelope.status.ok()) {
    header.setStatusCode(ToWireCode(envelope.status));
    header.setStatusMessage(ToWireText(envelope.status).c_str());
  }
  if (envelope.kind == MessageKind::kAttendReply) {
    auto timings = header.initTimings();
    timings.setQueue(envelope.timings.queue_us);
    timings.setWait(envelope.timings.wait_us);
    timings.setCompute(envelope.timings.compute_us);
    timings.setMerge(envelope.timings.merge_us);
  }
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  const kj::ArrayPtr<const kj::byte> bytes = words.asBytes();
  const XXH64_hash_t seal = XXH3_64bits(bytes.begin(), bytes.size());
  CHECK(bytes.size() + sizeof seal <= base::kMaxHeaderBytes) << bytes.size();
  std::vector<std::byte> out(bytes.size() + sizeof seal);
  std::memcpy(out.data(), bytes.begin(), bytes.size());
  std::memcpy(out.data() + bytes.size(), &seal, sizeof seal);
  return out;
}

namespace {

// `seal_is_right`: the hash behind the words is theirs.
absl::StatusOr<Envelope> ReadHeader(std::span<const capnp::word> words, bool seal_is_right,
                                    PayloadShape* shape) {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = 1024;
  options.nestingLimit = 4;
  capnp::FlatArrayMessageReader reader(kj::arrayPtr(words.data(), words.size()), options);
  const auto header = reader.getRoot<proto::DataHeader>();
  if (header.getVersion() != kProtocolVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("data protocol version mismatch: the peer speaks version ",
                     header.getVersion(), ", this side speaks version ", kProtocolVersion));
  }
  // After the version, so that a later version may seal its headers in another way.
  if (!seal_is_right) return absl::DataLossError("header checksum mismatch");
  const auto kind = static_cast<uint16_t>(header.getKind());
  if (kind == 0 || kind > static_cast<uint16_t>(MessageKind::kFetchReply)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown message kind ", kind,
                                                   ", expected 1 to ",
                                                   static_cast<int>(MessageKind::kFetchReply)));
  }
  Envelope envelope;
  envelope.kind = static_cast<MessageKind>(kind);
  envelope.tenant = header.getTenant();
  envelope.ticket = header.getTicket();
  envelope.trace_id = header.getTraceId();
  envelope.deadline_us = header.getDeadlineMicros();
  envelope.retry_after_us = header.getRetryAfterMicros();
  if (header.getStatusCode() != 0) {
    envelope.status = FromWire(header.getStatusCode(), header.getStatusMessage().cStr());
  }
  if (header.hasTimings()) {
    const auto timings = header.getTimings();
    envelope.timings = {timings.getQueue(), timings.getWait(), timings.getCompute(),
                        timings.getMerge()};
  }
  *shape = {header.getItemCount(), header.getItemTableBytes(), header.getPayloadBytes(),
            header.getChecksum()};
  return envelope;
}

}  // namespace

absl::StatusOr<Envelope> DecodeHeader(std::span<const std::byte> header, PayloadShape* shape) {
  uint64_t seal;
  if (header.size() <= sizeof seal || header.size() % sizeof(capnp::word) != 0 ||
      header.size() > base::kMaxHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("malformed header: ", header.size(),
                                                   " bytes, expected a multiple of 8 in 16 to ",
                                                   base::kMaxHeaderBytes));
  }
  const size_t bytes = header.size() - sizeof seal;
  std::memcpy(&seal, header.data() + bytes, sizeof seal);
  // Copied, because Cap'n Proto reads aligned words only.
  std::vector<capnp::word> words(bytes / sizeof(capnp::word));
  std::memcpy(static_cast<void*>(words.data()), header.data(), bytes);
  try {
    return ReadHeader(words, seal == XXH3_64bits(header.data(), bytes), shape);
  } catch (const kj::Exception& exception) {
    return absl::InvalidArgumentError(std::string("malformed header: ") +
                                      exception.getDescription().cStr());
  }
}

memory::AlignedBuffer BuildPayload(capnp::MessageBuilder& table, uint32_t item_count,
                                   const TensorList& tensors, PayloadShape* shape) {
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(table);
  const kj::ArrayPtr<const kj::byte> table_bytes = words.asBytes();
  size_t total = Padded(table_bytes.size());
  for (const auto& tensor : tensors) total += Padded(tensor.size());
  CHECK(total <= base::kMaxPayloadBytes) << total << " bytes of payload";
  memory::AlignedBuffer payload(total);
  size_t offset = 0;
  const auto put = [&](const void* data, size_t bytes) {
    if (bytes > 0) std::memcpy(payload.data() + offset, data, bytes);
    std::memset(payload.data() + offset + bytes, 0, Padded(bytes) - bytes);
    offset += Padded(bytes);
  };
  put(table_bytes.begin(), table_bytes.size());
  for (const auto& tensor : tensors) put(tensor.data(), tensor.size());
  *shape = {item_count, static_cast<uint32_t>(table_bytes.size()), static_cast<uint32_t>(total),
            XXH3_64bits(payload.data(), payload.size())};
  return payload;
}

absl::Status CheckPayloadSize(const memory::AlignedBuffer& payload, const PayloadShape& shape) {
  if (shape.payload_bytes != payload.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "payload of ", payload.size(), " bytes, the header announces ", shape.payload_bytes));
  }
  if (payload.size() % kTensorAlignment != 0 || payload.size() > base::kMaxPayloadBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("payload of ", payload.size(), " bytes, expected a multiple of ",
                     kTensorAlignment, " up to ", base::kMaxPayloadBytes));
  }
  return absl::OkStatus();
}

absl::StatusOr<Envelope> DecodeAndCheck(const transport::Message& message, MessageKind kind,
                                        PayloadShape* shape) {
  ASSIGN_OR_RETURN(Envelope envelope, DecodeHeader(message.header, shape));
  if (envelope.kind != kind) {
    return absl::InvalidArgumentError(absl::StrCat("message of kind ",
                                                   static_cast<int>(envelope.kind), ", expected ",
                                                   static_cast<int>(kind)));
  }
  RETURN_IF_ERROR(CheckPayloadSize(message.payload, *shape));
  if (shape->item_count > base::kMaxItems) {
    return absl::InvalidArgumentError(
        absl::StrCat(shape->item_count, " items, at most ", base::kMaxItems, " are allowed"));
  }
  if (XXH3_64bits(message.payload.data(), message.payload.size()) != shape->checksum) {
    return absl::DataLossError("payload checksum mismatch");
  }
  return envelope;
}

}  // namespace sounder::wire
