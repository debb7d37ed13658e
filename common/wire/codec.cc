#include "common/wire/codec.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/wire/codec_parts.h"

namespace sounder::wire {
namespace {

using Tensors = std::vector<std::span<const std::byte>>;

void Put(const SessionRef& session, proto::SessionRef::Builder out) {
  out.setIdHigh(session.id.high);
  out.setIdLow(session.id.low);
  out.setEpoch(session.epoch);
}

SessionRef Get(proto::SessionRef::Reader in) {
  return {{in.getIdHigh(), in.getIdLow()}, in.getEpoch()};
}

absl::Status Bad(size_t index, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("item ", index, ": ", what));
}

absl::Status CheckDims(uint32_t layer, uint32_t head_begin, uint32_t heads, uint32_t dim) {
  if (layer >= base::kMaxLayers) return absl::InvalidArgumentError(absl::StrCat("layer ", layer));
  if (heads == 0 || heads > base::kMaxKvHeads || head_begin > base::kMaxKvHeads - heads) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv heads [", head_begin, ", +", heads, ") out of bounds"));
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
        absl::StrCat("malformed position range [", range.begin, ", ", range.end, ")"));
  }
  return absl::OkStatus();
}

void PutAttendItem(const AttendItem& item, proto::AttendItem::Builder out, Tensors* tensors) {
  const uint64_t rows = uint64_t{item.query_count} * item.query_heads();
  CHECK(item.queries.size() == rows * item.head_dim * base::SizeOf(item.query_dtype));
  CHECK(item.signatures.size() == rows * item.signature_words);
  CHECK(item.lse_hints.empty() || item.lse_hints.size() == rows);
  Put(item.session, out.initSession());
  out.setSequence(item.sequence);
  out.setStep(item.step);
  out.setLayer(item.layer);
  out.setKvHeadBegin(item.kv_head_begin);
  out.setKvHeadCount(item.kv_head_count);
  out.setGroup(item.group);
  out.setQueryCount(item.query_count);
  out.setHeadDim(item.head_dim);
  out.setQueryDtype(static_cast<proto::DType>(item.query_dtype));
  out.setRangeBegin(item.range.begin);
  out.setRangeEnd(item.range.end);
  out.setLayoutPosition(item.layout_position);
  out.setCausalFrom(item.causal_from);
  out.setScale(item.scale);
  out.setAttention(static_cast<proto::Attention>(item.attention));
  out.setSampleKey(item.sample_key);
  out.setRowsBudget(item.rows_budget);
  out.setRowsCap(item.rows_cap);
  out.setSignatureWords(item.signature_words);
  out.setHasLseHints(!item.lse_hints.empty());
  out.setWantErrorTerms(item.want_error_terms);
  out.setRowFormat(static_cast<proto::RowFormat>(item.row_format));
  tensors->push_back(item.queries);
  if (!item.signatures.empty()) tensors->push_back(std::as_bytes(item.signatures));
  if (!item.lse_hints.empty()) tensors->push_back(std::as_bytes(item.lse_hints));
}

absl::Status CheckAttendItem(const AttendItem& item) {
  RETURN_IF_ERROR(CheckDims(item.layer, item.kv_head_begin, item.kv_head_count, item.head_dim));
  RETURN_IF_ERROR(CheckRange(item.range));
  if (item.group == 0 || item.group > base::kMaxGroup) {
    return absl::InvalidArgumentError(absl::StrCat("group of ", item.group, " query heads"));
  }
  if (item.query_count == 0 || item.query_count > base::kMaxQueryBlock) {
    return absl::InvalidArgumentError(absl::StrCat("block of ", item.query_count, " queries"));
  }
  if (item.layout_position < 0 || item.layout_position > base::kMaxPositions ||
      item.causal_from < -1 || item.causal_from > base::kMaxPositions) {
    return absl::InvalidArgumentError("layout position or causal bound out of bounds");
  }
  if (!(item.scale > -1e6f && item.scale < 1e6f) || !(item.rows_budget >= 0) ||
      item.rows_budget > 1) {
    return absl::InvalidArgumentError("scale or rows budget is not a sensible number");
  }
  if (item.signature_words > base::kMaxTables * base::kMaxBitsPerTable / 64) {
    return absl::InvalidArgumentError(
        absl::StrCat("signatures of ", item.signature_words, " words"));
  }
  return absl::OkStatus();
}

absl::StatusOr<AttendItem> GetAttendItem(proto::AttendItem::Reader in, TensorCursor* tensors) {
  AttendItem item;
  item.session = Get(in.getSession());
  item.sequence = in.getSequence();
  item.step = in.getStep();
  item.layer = in.getLayer();
  item.kv_head_begin = in.getKvHeadBegin();
  item.kv_head_count = in.getKvHeadCount();
  item.group = in.getGroup();
  item.query_count = in.getQueryCount();
  item.head_dim = in.getHeadDim();
  ASSIGN_OR_RETURN(item.query_dtype, GetDType(in.getQueryDtype()));
  item.range = {in.getRangeBegin(), in.getRangeEnd()};
  item.layout_position = in.getLayoutPosition();
  item.causal_from = in.getCausalFrom();
  item.scale = in.getScale();
  if (static_cast<uint16_t>(in.getAttention()) > static_cast<uint16_t>(AttentionKind::kLshTables)) {
    return absl::InvalidArgumentError("unknown attention kind");
  }
  item.attention = static_cast<AttentionKind>(in.getAttention());
  item.sample_key = in.getSampleKey();
  item.rows_budget = in.getRowsBudget();
  item.rows_cap = in.getRowsCap();
  item.signature_words = in.getSignatureWords();
  item.want_error_terms = in.getWantErrorTerms();
  ASSIGN_OR_RETURN(item.row_format, GetRowFormat(in.getRowFormat()));
  RETURN_IF_ERROR(CheckAttendItem(item));
  const uint64_t rows = uint64_t{item.query_count} * item.query_heads();
  if (!tensors->Next(rows * item.head_dim * base::SizeOf(item.query_dtype), &item.queries) ||
      (item.signature_words > 0 && !tensors->Next(rows * item.signature_words, &item.signatures)) ||
      (in.getHasLseHints() && !tensors->Next(rows, &item.lse_hints))) {
    return absl::InvalidArgumentError("the payload is too short for the item's tensors");
  }
  return item;
}

// The reply must fit into a message as well: f32 outputs may be twice the size of the queries.
absl::Status CheckReplyFits(const std::vector<AttendItem>& items) {
  constexpr uint64_t kTableRowBytes = 1024;  // of a reply item with the longest status, and more
  uint64_t bytes = kTableRowBytes;
  for (const AttendItem& item : items) {
    const uint64_t rows = uint64_t{item.query_count} * item.query_heads();
    bytes += kTableRowBytes + Padded(rows * item.head_dim * sizeof(float)) +
             Padded(rows * sizeof(float)) + Padded(2 * rows * sizeof(float));
  }
  if (bytes > base::kMaxPayloadBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the answer would take ", bytes,
                                                   " bytes, at most ", base::kMaxPayloadBytes,
                                                   " are allowed: ask for fewer queries at once"));
  }
  return absl::OkStatus();
}

void PutAttendReplyItem(const AttendReplyItem& item, proto::AttendReplyItem::Builder out,
                        Tensors* tensors) {
  if (!item.status.ok()) {
    out.setStatusCode(ToWireCode(item.status));
    out.setStatusMessage(ToWireText(item.status).c_str());
    return;
  }
  const uint64_t rows = uint64_t{item.query_count} * item.query_heads;
  CHECK(item.outputs.size() == rows * item.head_dim && item.lse.size() == rows);
  CHECK(item.error_terms.empty() || item.error_terms.size() == 2 * rows);
  out.setQueryCount(item.query_count);
  out.setQueryHeads(item.query_heads);
  out.setHeadDim(item.head_dim);
  out.setCoveredBegin(item.covered.begin);
  out.setCoveredEnd(item.covered.end);
  out.setRowsVisible(item.rows_visible);
  out.setRowsRead(item.rows_read);
  out.setRowsLoaded(item.rows_loaded);
  out.setRowsExact(item.rows_exact);
  out.setHasErrorTerms(!item.error_terms.empty());
  tensors->push_back(std::as_bytes(item.outputs));
  tensors->push_back(std::as_bytes(item.lse));
  if (!item.error_terms.empty()) tensors->push_back(std::as_bytes(item.error_terms));
}

absl::StatusOr<AttendReplyItem> GetAttendReplyItem(proto::AttendReplyItem::Reader in,
                                                   TensorCursor* tensors) {
  AttendReplyItem item;
  item.status = FromWire(in.getStatusCode(), in.getStatusMessage().cStr());
  if (!item.status.ok()) return item;
  item.query_count = in.getQueryCount();
  item.query_heads = in.getQueryHeads();
  item.head_dim = in.getHeadDim();
  item.covered = {in.getCoveredBegin(), in.getCoveredEnd()};
  item.rows_visible = in.getRowsVisible();
  item.rows_read = in.getRowsRead();
  item.rows_loaded = in.getRowsLoaded();
  item.rows_exact = in.getRowsExact();
  if (item.query_count > base::kMaxQueryBlock ||
      item.query_heads > base::kMaxKvHeads * base::kMaxGroup || item.head_dim > base::kMaxHeadDim) {
    return absl::InvalidArgumentError("reply dimensions out of bounds");
  }
  RETURN_IF_ERROR(CheckRange(item.covered));
  const uint64_t rows = uint64_t{item.query_count} * item.query_heads;
  if (!tensors->Next(rows * item.head_dim, &item.outputs) || !tensors->Next(rows, &item.lse) ||
      (in.getHasErrorTerms() && !tensors->Next(2 * rows, &item.error_terms))) {
    return absl::InvalidArgumentError("the payload is too short for the item's tensors");
  }
  return item;
}

void PutAppendItem(const AppendItem& item, proto::AppendItem::Builder out, Tensors* tensors) {
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
    return absl::InvalidArgumentError("append positions out of bounds");
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
  Tensors tensors;
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
      return absl::InvalidArgumentError("item count differs between header and table");
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
      [](const AppendReplyItem& item, proto::AppendReplyItem::Builder out, Tensors*) {
        out.setAppliedSequence(item.applied_sequence);
        if (item.status.ok()) return;
        out.setStatusCode(ToWireCode(item.status));
        out.setStatusMessage(ToWireText(item.status).c_str());
      });
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
  ASSIGN_OR_RETURN(Envelope bare, DecodeEnvelope(message));
  if (bare.kind == MessageKind::kAttendReply && !bare.status.ok() && message.payload.empty()) {
    reply.envelope = std::move(bare);
    return reply;
  }
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
  ASSIGN_OR_RETURN(Envelope bare, DecodeEnvelope(message));
  if (bare.kind == MessageKind::kAppendReply && !bare.status.ok() && message.payload.empty()) {
    reply.envelope = std::move(bare);
    return reply;
  }
  ASSIGN_OR_RETURN(reply.envelope, DecodeAndCheck(message, MessageKind::kAppendReply, &shape));
  const auto get = [](proto::AppendReplyItem::Reader in,
                      TensorCursor*) -> absl::StatusOr<AppendReplyItem> {
    return AppendReplyItem{FromWire(in.getStatusCode(), in.getStatusMessage().cStr()),
                           in.getAppliedSequence()};
  };
  RETURN_IF_ERROR((DecodeItems<proto::AppendReplyItems, AppendReplyItem>(message.payload, shape,
                                                                         get, &reply.items)));
  return reply;
}

size_t WireBytes(const transport::Message& message) {
  return message.header.size() + message.payload.size();
}

}  // namespace sounder::wire
