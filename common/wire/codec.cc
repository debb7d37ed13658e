#include "common/wire/codec.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/wire/attend_items.h"
#include "common/wire/codec_parts.h"
#include "common/wire/fetch_items.h"

namespace sounder::wire {
namespace {

absl::Status Bad(size_t index, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("item ", index, ": ", what));
}

void PutAppendItem(const AppendItem& item, proto::AppendItem::Builder out, TensorList* tensors) {
  CHECK(item.keys.size() == item.kv_head_count * item.head_bytes());
  CHECK(item.values.size() == item.keys.size());
  CHECK(item.tokens.empty() || item.tokens.size() == item.row_count);
  Put(item.session, out.initSession());
  out.setSequence(item.sequence);
  out.setLayer(item.layer);
  out.setKvHeadBegin(item.kv_head_begin);
  out.setKvHeadCount(item.kv_head_count);
  out.setFirstPosition(item.first_position);
  out.setRowCount(item.row_count);
  out.setHeadDim(item.head_dim);
  out.setDtype(static_cast<proto::DType>(item.dtype));
  out.setHasTokens(!item.tokens.empty());
  out.setSealAfter(item.seal_after);
  tensors->push_back(item.keys);
  tensors->push_back(item.values);
  if (!item.tokens.empty()) tensors->push_back(std::as_bytes(item.tokens));
}

absl::StatusOr<AppendItem> GetAppendItem(proto::AppendItem::Reader in, TensorCursor* tensors) {
  AppendItem item;
  item.session = Get(in.getSession());
  item.sequence = in.getSequence();
  item.layer = in.getLayer();
  item.kv_head_begin = in.getKvHeadBegin();
  item.kv_head_count = in.getKvHeadCount();
  item.first_position = in.getFirstPosition();
  item.row_count = in.getRowCount();
  item.head_dim = in.getHeadDim();
  ASSIGN_OR_RETURN(item.dtype, GetDType(in.getDtype()));
  item.seal_after = in.getSealAfter();
  RETURN_IF_ERROR(CheckDims(item.layer, item.kv_head_begin, item.kv_head_count, item.head_dim));
  if (item.first_position < 0 || item.first_position > base::kMaxPositions - item.row_count) {
    return absl::InvalidArgumentError(
        absl::StrCat("append of ", item.row_count, " rows at position ", item.first_position,
                     ", expected positions of 0 to ", base::kMaxPositions));
  }
  const uint64_t bytes = uint64_t{item.kv_head_count} * item.head_bytes();
  if (!tensors->Next(bytes, &item.keys) || !tensors->Next(bytes, &item.values) ||
      (in.getHasTokens() && !tensors->Next(item.row_count, &item.tokens))) {
    return absl::InvalidArgumentError("the payload is too short for the item's tensors");
  }
  return item;
}

// Encodes a table of Root{items} from `items` with `put`.
template <typename Root, typename Item, typename PutItem>
transport::Message EncodeItems(const Envelope& envelope, const std::vector<Item>& items,
                               PutItem put) {
  capnp::MallocMessageBuilder table;
  auto list = table.initRoot<Root>().initItems(static_cast<unsigned>(items.size()));
  TensorList tensors;
  for (size_t i = 0; i < items.size(); ++i) put(items[i], list[static_cast<unsigned>(i)], &tensors);
  transport::Message message;
  PayloadShape shape;
  message.payload = BuildPayload(table, static_cast<uint32_t>(items.size()), tensors, &shape);
  message.header = EncodeHeader(envelope, shape);
  return message;
}

// Decodes what EncodeItems made; `get` reads one item and its tensors.
template <typename Root, typename Item, typename GetItem>
absl::Status DecodeItems(const memory::AlignedBuffer& payload, const PayloadShape& shape,
                         GetItem get, std::vector<Item>* items) {
  TensorCursor tensors(payload, shape);
  RETURN_IF_ERROR(ReadTable<Root>(payload, shape, [&](typename Root::Reader root) -> absl::Status {
    const auto list = root.getItems();
    if (list.size() != shape.item_count) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the item table has ", list.size(), " items, the header announces ", shape.item_count));
    }
    items->reserve(list.size());
    for (unsigned i = 0; i < list.size(); ++i) {
      absl::StatusOr<Item> item = get(list[i], &tensors);
      if (!item.ok()) return Bad(i, std::string(item.status().message()));
      items->push_back(*std::move(item));
    }
    return absl::OkStatus();
  }));
  if (!tensors.AtEnd()) return absl::InvalidArgumentError("bytes left over behind the tensors");
  return absl::OkStatus();
}

}  // namespace

transport::Message Encode(const AttendRequest& request) {
  return EncodeItems<proto::AttendItems>(request.envelope, request.items, PutAttendItem);
}

transport::Message Encode(const AttendReply& reply) {
  return EncodeItems<proto::AttendReplyItems>(reply.envelope, reply.items, PutAttendReplyItem);
}

transport::Message Encode(const AppendRequest& request) {
  return EncodeItems<proto::AppendItems>(request.envelope, request.items, PutAppendItem);
}

transport::Message Encode(const AppendReply& reply) {
  return EncodeItems<proto::AppendReplyItems>(
      reply.envelope, reply.items,
      [](const AppendReplyItem& item, proto::AppendReplyItem::Builder out, TensorList*) {
        out.setAppliedSequence(item.applied_sequence);
        out.setCreditBytes(item.credit_bytes);
        if (item.status.ok()) return;
        out.setStatusCode(ToWireCode(item.status));
        out.setStatusMessage(ToWireText(item.status).c_str());
      });
}

transport::Message Encode(const FetchRequest& request) {
  return EncodeItems<proto::FetchItems>(request.envelope, request.items,
                                        [](const FetchItem& item, proto::FetchItem::Builder out,
                                           TensorList*) { PutFetchItem(item, out); });
}

transport::Message Encode(const FetchReply& reply) {
  return EncodeItems<proto::FetchReplyItems>(reply.envelope, reply.items, PutFetchReplyItem);
}

transport::Message EncodeBare(const Envelope& envelope) {
  transport::Message message;
  PayloadShape shape;
  shape.checksum = 0;
  message.header = EncodeHeader(envelope, shape);
  return message;
}

absl::StatusOr<Envelope> DecodeEnvelope(const transport::Message& message) {
  PayloadShape shape;
  ASSIGN_OR_RETURN(Envelope envelope, DecodeHeader(message.header, &shape));
  RETURN_IF_ERROR(CheckPayloadSize(message.payload, shape));
  return envelope;
}

uint32_t DeadlineMicros(base::Duration deadline) {
  const int64_t micros = deadline.count() / 1000;
  return micros > UINT32_MAX ? UINT32_MAX : static_cast<uint32_t>(micros < 1 ? 1 : micros);
}

transport::Message CopyOf(const transport::Message& message) {
  return {message.header, memory::AlignedBuffer::CopyOf(message.payload.bytes())};
}

void SetDeadline(uint32_t deadline_us, transport::Message* message) {
  PayloadShape shape;
  absl::StatusOr<Envelope> envelope = DecodeHeader(message->header, &shape);
  CHECK(envelope.ok()) << envelope.status().ToString();
  envelope->deadline_us = deadline_us;
  message->header = EncodeHeader(*envelope, shape);
}

namespace {

// An answer that failed as a whole is an envelope alone: true, and the envelope is the reply's.
template <typename Reply>
absl::StatusOr<bool> IsRefusal(const transport::Message& message, MessageKind kind, Reply* reply) {
  ASSIGN_OR_RETURN(Envelope bare, DecodeEnvelope(message));
  if (bare.kind != kind || bare.status.ok() || !message.payload.empty()) return false;
  reply->envelope = std::move(bare);
  return true;
}

}  // namespace

absl::StatusOr<AttendRequest> DecodeAttend(transport::Message message) {
  AttendRequest request;
  PayloadShape shape;
  ASSIGN_OR_RETURN(request.envelope, DecodeAndCheck(message, MessageKind::kAttend, &shape));
  request.payload = std::move(message.payload);
  RETURN_IF_ERROR((DecodeItems<proto::AttendItems, AttendItem>(request.payload, shape,
                                                               GetAttendItem, &request.items)));
  RETURN_IF_ERROR(CheckReplyFits(request.items));
  return request;
}

absl::StatusOr<AttendReply> DecodeAttendReply(transport::Message message) {
  AttendReply reply;
  PayloadShape shape;
  ASSIGN_OR_RETURN(const bool refused, IsRefusal(message, MessageKind::kAttendReply, &reply));
  if (refused) return reply;
  ASSIGN_OR_RETURN(reply.envelope, DecodeAndCheck(message, MessageKind::kAttendReply, &shape));
  reply.payload = std::move(message.payload);
  RETURN_IF_ERROR((DecodeItems<proto::AttendReplyItems, AttendReplyItem>(
      reply.payload, shape, GetAttendReplyItem, &reply.items)));
  return reply;
}

absl::StatusOr<AppendRequest> DecodeAppend(transport::Message message) {
  AppendRequest request;
  PayloadShape shape;
  ASSIGN_OR_RETURN(request.envelope, DecodeAndCheck(message, MessageKind::kAppend, &shape));
  request.payload = std::move(message.payload);
  RETURN_IF_ERROR((DecodeItems<proto::AppendItems, AppendItem>(request.payload, shape,
                                                               GetAppendItem, &request.items)));
  return request;
}

absl::StatusOr<AppendReply> DecodeAppendReply(transport::Message message) {
  AppendReply reply;
  PayloadShape shape;
  ASSIGN_OR_RETURN(const bool refused, IsRefusal(message, MessageKind::kAppendReply, &reply));
  if (refused) return reply;
  ASSIGN_OR_RETURN(reply.envelope, DecodeAndCheck(message, MessageKind::kAppendReply, &shape));
  const auto get = [](proto::AppendReplyItem::Reader in,
                      TensorCursor*) -> absl::StatusOr<AppendReplyItem> {
    return AppendReplyItem{FromWire(in.getStatusCode(), in.getStatusMessage().cStr()),
                           in.getAppliedSequence(), in.getCreditBytes()};
  };
  RETURN_IF_ERROR((DecodeItems<proto::AppendReplyItems, AppendReplyItem>(message.payload, shape,
                                                                         get, &reply.items)));
  return reply;
}

absl::StatusOr<FetchRequest> DecodeFetch(transport::Message message) {
  FetchRequest request;
  PayloadShape shape;
  ASSIGN_OR_RETURN(request.envelope, DecodeAndCheck(message, MessageKind::kFetch, &shape));
  RETURN_IF_ERROR((DecodeItems<proto::FetchItems, FetchItem>(
      message.payload, shape,
      [](proto::FetchItem::Reader in, TensorCursor*) { return GetFetchItem(in); },
      &request.items)));
  RETURN_IF_ERROR(CheckReplyFits(request.items));
  return request;
}

absl::StatusOr<FetchReply> DecodeFetchReply(transport::Message message) {
  FetchReply reply;
  PayloadShape shape;
  ASSIGN_OR_RETURN(const bool refused, IsRefusal(message, MessageKind::kFetchReply, &reply));
  if (refused) return reply;
  ASSIGN_OR_RETURN(reply.envelope, DecodeAndCheck(message, MessageKind::kFetchReply, &shape));
  reply.payload = std::move(message.payload);
  RETURN_IF_ERROR((DecodeItems<proto::FetchReplyItems, FetchReplyItem>(
      reply.payload, shape, GetFetchReplyItem, &reply.items)));
  return reply;
}

size_t WireBytes(const transport::Message& message) {
  return message.header.size() + message.payload.size();
}

}  // namespace sounder::wire
