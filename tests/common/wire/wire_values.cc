#include "tests/common/wire/wire_values.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <sstream>

#include "common/base/absl_text.h"
#include "common/base/limits.h"

namespace sounder::wire {
namespace {

uint32_t Pick(base::PhiloxStream& random, uint32_t low, uint32_t high) {
  return low + random.NextBelow(high - low + 1);
}
bool Coin(base::PhiloxStream& random) { return random.NextBelow(2) == 1; }

std::string RandomText(base::PhiloxStream& random, uint32_t bytes_max) {
  std::string text(random.NextBelow(bytes_max + 1), ' ');
  for (char& each : text) each = static_cast<char>(Pick(random, 1, 255));  // no NUL
  return text;
}

absl::Status RandomStatus(base::PhiloxStream& random) {
  if (Coin(random)) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(Pick(random, 1, 16)), RandomText(random, 40));
}

SessionRef RandomSession(base::PhiloxStream& random) {
  return {{random.Next64(), random.Next64()}, random.Next64()};
}

base::PositionRange RandomRange(base::PhiloxStream& random) {
  const auto end = static_cast<int64_t>(random.Next64() >> 24);  // below kMaxPositions
  return {Coin(random) ? end : end / 3, end};
}

base::DType RandomDType(base::PhiloxStream& random) {
  return static_cast<base::DType>(random.NextBelow(3));
}

// ---- text -------------------------------------------------------------------------------------

struct Text {
  std::ostringstream out;
  Text() { out.precision(9); }
  Text& operator()(const char* name) {
    out << "\n" << name;
    return *this;
  }
  template <typename T>
  Text& operator()(const char* name, const T& value) {
    out << "\n" << name << " " << value;
    return *this;
  }
  template <typename T>
  Text& Span(const char* name, std::span<const T> values) {
    out << "\n" << name << " [" << values.size() << "]";
    for (const std::byte byte : std::as_bytes(values)) out << " " << static_cast<int>(byte);
    return *this;
  }
  Text& Status(const char* name, const absl::Status& status) {
    out << "\n" << name << " " << static_cast<int>(status.code()) << " " << base::MessageOf(status);
    return *this;
  }
  Text& Session(const SessionRef& session) {
    out << "\nsession " << session.id.ToString() << " " << session.epoch;
    return *this;
  }
};

void Add(Text& text, const Envelope& envelope) {
  text("kind", static_cast<int>(envelope.kind))("tenant", envelope.tenant)(
      "ticket", envelope.ticket)("trace", envelope.trace_id)("deadline", envelope.deadline_us);
  text.Status("status", envelope.status)("queue", envelope.timings.queue_us)(
      "wait", envelope.timings.wait_us)("compute", envelope.timings.compute_us)(
      "merge", envelope.timings.merge_us)("retry", envelope.retry_after_us);
}

void Add(Text& text, const AttendItem& item) {
  text("item").Session(item.session)("sequence", item.sequence)("step", item.step)(
      "layer", item.layer)("head", item.kv_head_begin)("heads", item.kv_head_count)(
      "group", item.group)("queries", item.query_count)("dim", item.head_dim)(
      "dtype", static_cast<int>(item.query_dtype))("begin", item.range.begin)(
      "end", item.range.end)("layout", item.layout_position)("causal", item.causal_from)(
      "scale", std::bit_cast<uint32_t>(item.scale))("kind", static_cast<int>(item.attention))(
      "key", item.sample_key)("budget", std::bit_cast<uint32_t>(item.rows_budget))(
      "cap", item.rows_cap)("words", item.signature_words)("errors", item.want_error_terms)(
      "row format", static_cast<int>(item.row_format));
  text.Span("q", item.queries).Span("signatures", item.signatures).Span("hints", item.lse_hints);
  text.Span("head hints", item.head_hints);
}

void Add(Text& text, const AttendReplyItem& item) {
  text("item").Status("status", item.status)("queries", item.query_count)(
      "heads", item.query_heads)("dim", item.head_dim)("begin", item.covered.begin)(
      "end", item.covered.end)("visible", item.rows_visible)("read", item.rows_read)(
      "loaded", item.rows_loaded)("exact", item.rows_exact);
  text.Span("o", item.outputs).Span("lse", item.lse).Span("errors", item.error_terms);
  text.Span("mass", item.head_mass);
}

void Add(Text& text, const AppendItem& item) {
  text("item").Session(item.session)("sequence", item.sequence)("layer", item.layer)(
      "head", item.kv_head_begin)("heads", item.kv_head_count)("first", item.first_position)(
      "rows", item.row_count)("dim", item.head_dim)("dtype", static_cast<int>(item.dtype))(
      "seal", item.seal_after);
  text.Span("k", item.keys).Span("v", item.values).Span("tokens", item.tokens);
}

void Add(Text& text, const AppendReplyItem& item) {
  text("item").Status("status", item.status)("applied", item.applied_sequence)("credit",
                                                                               item.credit_bytes);
}

void Add(Text& text, const FetchItem& item) {
  text("item").Session(item.session)("sequence", item.sequence)("layer", item.layer)(
      "head", item.kv_head_begin)("heads", item.kv_head_count)("begin", item.range.begin)(
      "end", item.range.end)("dim", item.head_dim)("dtype", static_cast<int>(item.dtype))(
      "tokens", item.want_tokens);
}

void Add(Text& text, const FetchReplyItem& item) {
  text("item").Status("status", item.status)("heads", item.kv_head_count)("rows", item.row_count)(
      "dim", item.head_dim)("dtype", static_cast<int>(item.dtype));
  text.Span("k", item.keys).Span("v", item.values).Span("tokens", item.tokens);
}

void Add(Text& text, const SessionSpec& spec) {
  const ModelIdentity& model = spec.model;
  text("version", spec.protocol_version)
      .Session(spec.session)("tenant", spec.tenant)("model", model.name)(
          "weights", model.weights_digest)("layers", model.layers)("kv", model.kv_heads)(
          "q", model.query_heads)("dim", model.head_dim)("rope", model.rope_digest)(
          "adapter", model.adapter)("kv layout", model.kv_layout);
  text("dtype", static_cast<int>(spec.dtype))("seal", spec.seal_rows)(
      "indexed", spec.min_indexed_rows)("bits", spec.lsh.bits_per_table)(
      "tables", spec.lsh.num_tables)("collisions", spec.lsh.min_collisions)(
      "projection", static_cast<int>(spec.lsh.projection))("seed", spec.lsh.seed);
  for (const uint32_t layer : spec.indexed_layers) text("layer", layer);
  text("head", spec.kv_head_begin)("heads", spec.kv_head_count)("ttl", spec.ttl_seconds)(
      "durability", static_cast<int>(spec.durability))("row format",
                                                       static_cast<int>(spec.row_format));
  text("sketch bits", spec.sketch.bits)("sketch seed", spec.sketch.seed);
  text("placed by", spec.placement.id.ToString())("shard rows", spec.placement.shard_rows)(
      "head shards", spec.placement.head_shards)("nodes", spec.placement.nodes);
}

template <typename Message>
std::string DescribeItems(const Message& message) {
  Text text;
  Add(text, message.envelope);
  for (const auto& item : message.items) Add(text, item);
  return text.out.str();
}

}  // namespace

std::span<const std::byte> Tensors::Bytes(size_t count) {
  const std::span<std::byte> bytes = New<std::byte>(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_.Next32());
  return bytes;
}
std::span<const float> Tensors::Floats(size_t count) {
  const std::span<float> values = New<float>(count);
  for (float& value : values) {
    value = std::ldexp(static_cast<float>(static_cast<int32_t>(random_.Next32()) >> 8), -16);
  }
  return values;
}
std::span<const uint64_t> Tensors::Words(size_t count) {
  const std::span<uint64_t> words = New<uint64_t>(count);
  for (uint64_t& word : words) word = random_.Next64();
  return words;
}
std::span<const int32_t> Tensors::Tokens(size_t count) {
  const std::span<int32_t> tokens = New<int32_t>(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random_.Next32() >> 1);
  return tokens;
}

std::span<const HeadHint> Tensors::HeadHints(size_t count) {
  const std::span<HeadHint> hints = New<HeadHint>(count);
  for (HeadHint& hint : hints) {
    hint.mean_size = static_cast<float>(random_.NextUniform());
    hint.uniform_fraction = static_cast<float>(random_.NextUniform());
  }
  return hints;
}
std::span<const ErrorTerms> Tensors::Errors(size_t count) {
  const std::span<ErrorTerms> errors = New<ErrorTerms>(count);
  for (ErrorTerms& each : errors) {
    const std::span<const float> values = Floats(3);
    each = {values[0], values[1], values[2]};
  }
  return errors;
}
std::span<const float> Tensors::Masses(size_t count) {
  const std::span<float> masses = New<float>(count);
  for (float& mass : masses) mass = static_cast<float>(4 * random_.NextUniform());
  return masses;
}

void Fill(AttendItem* item, bool hints, Tensors* tensors) {
  const size_t rows = size_t{item->query_count} * item->query_heads();
  item->queries = tensors->Bytes(rows * item->head_dim * base::SizeOf(item->query_dtype));
  item->signatures = tensors->Words(rows * item->signature_words);
  item->lse_hints = tensors->Floats(hints ? rows : 0);
  item->head_hints = tensors->HeadHints(hints ? item->kv_head_count : 0);
}

void Fill(AttendReplyItem* item, bool error_terms, Tensors* tensors) {
  const size_t rows = size_t{item->query_count} * item->query_heads;
  item->outputs = tensors->Floats(rows * item->head_dim);
  item->lse = tensors->Floats(rows);
  item->error_terms = tensors->Errors(error_terms ? rows : 0);
  item->head_mass = tensors->Masses(error_terms ? item->query_heads : 0);
}

void Fill(AppendItem* item, bool tokens, Tensors* tensors) {
  item->keys = tensors->Bytes(item->kv_head_count * item->head_bytes());
  item->values = tensors->Bytes(item->kv_head_count * item->head_bytes());
  item->tokens = tensors->Tokens(tokens ? item->row_count : 0);
}

void Fill(FetchReplyItem* item, bool tokens, Tensors* tensors) {
  item->keys = tensors->Bytes(item->row_bytes());
  item->values = tensors->Bytes(item->row_bytes());
  item->tokens = tensors->Tokens(tokens ? item->row_count : 0);
}

AttendItem SmallAttend(Tensors* tensors) {
  AttendItem item;
  item.session = {{1, 2}, 3};
  item.kv_head_count = 1;
  item.group = 1;
  item.query_count = 1;
  item.head_dim = 8;
  item.range = {0, 1};
  item.scale = 0.25f;
  Fill(&item, /*hints=*/false, tensors);
  return item;
}

AttendReplyItem SmallReply(Tensors* tensors) {
  AttendReplyItem item;
  item.query_count = 1;
  item.query_heads = 1;
  item.head_dim = 8;
  item.covered = {0, 1};
  Fill(&item, /*error_terms=*/false, tensors);
  return item;
}

AppendItem SmallAppend(Tensors* tensors) {
  AppendItem item;
  item.session = {{1, 2}, 3};
  item.sequence = 1;
  item.kv_head_count = 1;
  item.row_count = 1;
  item.head_dim = 8;
  Fill(&item, /*tokens=*/false, tensors);
  return item;
}

FetchItem SmallFetch() {
  FetchItem item;
  item.session = {{1, 2}, 3};
  item.kv_head_count = 1;
  item.head_dim = 8;
  item.range = {0, 1};
  return item;
}

FetchReplyItem SmallFetchReply(Tensors* tensors) {
  FetchReplyItem item;
  item.kv_head_count = 1;
  item.row_count = 1;
  item.head_dim = 8;
  Fill(&item, /*tokens=*/false, tensors);
  return item;
}

Envelope RandomEnvelope(base::PhiloxStream& random, MessageKind kind) {
  Envelope envelope;
  envelope.kind = kind;
  envelope.tenant = random.Next32();
  envelope.ticket = random.Next64();
  envelope.trace_id = random.Next64();
  envelope.deadline_us = random.Next32();
  envelope.retry_after_us = random.Next32();
  envelope.status = RandomStatus(random);
  if (kind == MessageKind::kAttendReply) {
    envelope.timings = {random.Next32(), random.Next32(), random.Next32(), random.Next32()};
  }
  return envelope;
}

AttendRequest RandomAttend(base::PhiloxStream& random, Tensors* tensors) {
  AttendRequest request;
  request.envelope = RandomEnvelope(random, MessageKind::kAttend);
  for (uint32_t i = random.NextBelow(4); i > 0; --i) {
    AttendItem item;
    item.session = RandomSession(random);
    item.sequence = random.Next64();
    item.step = random.Next64();
    item.layer = random.NextBelow(base::kMaxLayers);
    item.kv_head_count = Pick(random, 1, 5);
    item.kv_head_begin = random.NextBelow(base::kMaxKvHeads - item.kv_head_count + 1);
    item.group = Pick(random, 1, 4);
    item.query_count = Pick(random, 1, 7);
    item.head_dim = 8 * Pick(random, 1, 5);
    item.query_dtype = RandomDType(random);
    item.range = RandomRange(random);
    item.layout_position = RandomRange(random).end;
    item.causal_from = Coin(random) ? -1 : RandomRange(random).end;
    item.scale = static_cast<float>(random.NextGaussian());
    item.attention = static_cast<AttentionKind>(random.NextBelow(3));
    item.sample_key = random.Next64();
    item.rows_budget = static_cast<float>(random.NextUniform());
    item.rows_cap = random.Next64();
    item.signature_words = Coin(random) ? 0 : Pick(random, 1, 5);
    item.want_error_terms = Coin(random);
    item.row_format = static_cast<RowFormat>(Coin(random));
    Fill(&item, Coin(random), tensors);
    if (Coin(random)) item.head_hints = {};
    if (Coin(random)) item.lse_hints = {};
    request.items.push_back(item);
  }
  return request;
}

AttendReply RandomAttendReply(base::PhiloxStream& random, Tensors* tensors) {
  AttendReply reply;
  reply.envelope = RandomEnvelope(random, MessageKind::kAttendReply);
  for (uint32_t i = random.NextBelow(4); i > 0; --i) {
    AttendReplyItem item;
    item.status = RandomStatus(random);
    if (item.status.ok()) {
      item.query_count = Pick(random, 1, 7);
      item.query_heads = Pick(random, 1, 9);
      item.head_dim = 8 * Pick(random, 1, 5);
      item.covered = RandomRange(random);
      item.rows_visible = random.Next64();
      item.rows_read = random.Next64();
      item.rows_loaded = random.Next64();
      item.rows_exact = random.Next64();
      Fill(&item, Coin(random), tensors);
      item.head_mass = tensors->Masses(random.NextBelow(4));
    }
    reply.items.push_back(item);
  }
  return reply;
}

AppendRequest RandomAppend(base::PhiloxStream& random, Tensors* tensors) {
  AppendRequest request;
  request.envelope = RandomEnvelope(random, MessageKind::kAppend);
  for (uint32_t i = random.NextBelow(4); i > 0; --i) {
    AppendItem item;
    item.session = RandomSession(random);
    item.sequence = random.Next64();
    item.layer = random.NextBelow(base::kMaxLayers);
    item.kv_head_count = Pick(random, 1, 5);
    item.kv_head_begin = random.NextBelow(base::kMaxKvHeads - item.kv_head_count + 1);
    item.first_position = RandomRange(random).begin;
    item.row_count = random.NextBelow(9);
    item.head_dim = 8 * Pick(random, 1, 5);
    item.dtype = RandomDType(random);
    item.seal_after = Coin(random);
    Fill(&item, Coin(random), tensors);
    request.items.push_back(item);
  }
  return request;
}

AppendReply RandomAppendReply(base::PhiloxStream& random) {
  AppendReply reply;
  reply.envelope = RandomEnvelope(random, MessageKind::kAppendReply);
  for (uint32_t i = random.NextBelow(4); i > 0; --i) {
    reply.items.push_back({RandomStatus(random), random.Next64(), random.Next32()});
  }
  return reply;
}

FetchRequest RandomFetch(base::PhiloxStream& random) {
  FetchRequest request;
  request.envelope = RandomEnvelope(random, MessageKind::kFetch);
  for (uint32_t i = random.NextBelow(4); i > 0; --i) {
    FetchItem item;
    item.session = RandomSession(random);
    item.sequence = random.Next64();
    item.layer = random.NextBelow(base::kMaxLayers);
    item.want_tokens = Coin(random);
    item.kv_head_count = Pick(random, item.want_tokens ? 0 : 1, 5);
    item.kv_head_begin = random.NextBelow(base::kMaxKvHeads - item.kv_head_count);
    item.range.begin = RandomRange(random).begin;
    item.range.end = item.range.begin + random.NextBelow(9);
    item.head_dim = 8 * Pick(random, 1, 5);
    item.dtype = RandomDType(random);
    request.items.push_back(item);
  }
  return request;
}

FetchReply RandomFetchReply(base::PhiloxStream& random, Tensors* tensors) {
  FetchReply reply;
  reply.envelope = RandomEnvelope(random, MessageKind::kFetchReply);
  for (uint32_t i = random.NextBelow(4); i > 0; --i) {
    FetchReplyItem item;
    item.status = RandomStatus(random);
    if (item.status.ok()) {
      item.kv_head_count = random.NextBelow(5);
      item.row_count = random.NextBelow(9);
      item.head_dim = 8 * Pick(random, 1, 5);
      item.dtype = RandomDType(random);
      Fill(&item, Coin(random), tensors);
    }
    reply.items.push_back(item);
  }
  return reply;
}

SessionSpec RandomSpec(base::PhiloxStream& random) {
  SessionSpec spec;
  spec.session = RandomSession(random);
  spec.tenant = random.Next32();
  spec.model.name = RandomText(random, base::kMaxNameBytes);
  spec.model.weights_digest = RandomText(random, 64);
  spec.model.rope_digest = RandomText(random, 64);
  spec.model.adapter = RandomText(random, 10);
  spec.model.kv_layout = RandomText(random, 40);
  spec.model.layers = Pick(random, 1, base::kMaxLayers);
  spec.model.kv_heads = Pick(random, 1, 20);
  spec.model.query_heads = spec.model.kv_heads * Pick(random, 1, base::kMaxGroup);
  spec.model.head_dim = 8 * Pick(random, 1, base::kMaxHeadDim / 8);
  spec.dtype = RandomDType(random);
  spec.seal_rows = random.NextBelow(base::kMaxSegmentRows + 1);
  spec.min_indexed_rows = random.Next32();
  if (Coin(random)) {
    const uint32_t tables = Pick(random, 1, base::kMaxTables);
    spec.lsh = {Pick(random, 1, base::kMaxBitsPerTable), tables,
                Pick(random, 1, std::min(tables, 255u)), static_cast<Projection>(Coin(random)),
                random.Next64()};
  } else if (Coin(random)) {
    spec.sketch = {64u << random.NextBelow(3), random.Next64()};
  }
  for (uint32_t i = random.NextBelow(5); i > 0; --i) {
    spec.indexed_layers.push_back(random.NextBelow(spec.model.layers));
  }
  spec.kv_head_count = Pick(random, 1, spec.model.kv_heads);
  spec.kv_head_begin = random.NextBelow(spec.model.kv_heads - spec.kv_head_count + 1);
  spec.ttl_seconds = random.Next32();
  spec.durability = static_cast<Durability>(Coin(random));
  spec.row_format = static_cast<RowFormat>(Coin(random));
  spec.placement = {{random.Next64(), random.Next64()},
                    RandomRange(random).begin,
                    random.Next32(),
                    random.Next32()};
  return spec;
}

SessionInfo RandomInfo(base::PhiloxStream& random) {
  SessionInfo info{RandomSpec(random),      random.Next64(), RandomRange(random).begin,
                   RandomRange(random).end, random.Next64(), random.Next64(),
                   random.Next64(),         random.Next64(), random.Next64()};
  for (uint32_t i = random.NextBelow(4); i > 0; --i) {
    info.head_ends.push_back(RandomRange(random).end);
  }
  info.parent = {random.Next64(), random.Next64()};
  info.fork_position = Coin(random) ? -1 : RandomRange(random).end;
  info.shared_bytes = random.Next64();
  info.ttl_remaining_seconds = random.Next32();
  info.durable_position = Coin(random) ? -1 : RandomRange(random).end;
  info.warm_segments = random.Next64();
  info.cold_segments = random.Next64();
  info.stored_bytes = random.Next64();
  info.pinned_seconds = random.Next32();
  info.pinned_softly = random.NextBelow(2) == 1;
  return info;
}

NodeStatus RandomNodeStatus(base::PhiloxStream& random) {
  NodeStatus status;
  status.version = RandomText(random, 20);
  status.protocol_version = static_cast<uint16_t>(random.Next32());
  status.control_address = RandomText(random, 20);
  status.data_address = RandomText(random, 20);
  status.http_address = RandomText(random, 20);
  status.sessions = random.Next64();
  status.memory_used = random.Next64();
  status.memory_limit = random.Next64();
  status.row_bytes = random.Next64();
  status.index_bytes = random.Next64();
  status.threads = random.Next32();
  status.simd = RandomText(random, 10);
  status.uptime_seconds = random.Next64();
  status.draining = Coin(random);
  status.stored_bytes = random.Next64();
  status.store = RandomText(random, 40);
  for (uint32_t i = random.NextBelow(4); i > 0; --i) {
    status.connections.push_back(
        {RandomText(random, 20), RandomText(random, 20), RandomText(random, 300)});
  }
  return status;
}

std::string Describe(const Envelope& envelope) {
  Text text;
  Add(text, envelope);
  return text.out.str();
}
std::string Describe(const AttendRequest& request) { return DescribeItems(request); }
std::string Describe(const AttendReply& reply) { return DescribeItems(reply); }
std::string Describe(const AppendRequest& request) { return DescribeItems(request); }
std::string Describe(const AppendReply& reply) { return DescribeItems(reply); }
std::string Describe(const FetchRequest& request) { return DescribeItems(request); }
std::string Describe(const FetchReply& reply) { return DescribeItems(reply); }

std::string Describe(const SessionSpec& spec) {
  Text text;
  Add(text, spec);
  return text.out.str();
}

std::string Describe(const SessionInfo& info) {
  Text text;
  Add(text, info.spec);
  text("applied", info.applied_sequence)("first", info.first_position)("end", info.end_position)(
      "rows", info.rows)("segments", info.segments)("row bytes", info.row_bytes)(
      "index bytes", info.index_bytes)("tokens", info.tokens)("parent", info.parent.ToString())(
      "forked", info.fork_position)("shared", info.shared_bytes)("ttl", info.ttl_remaining_seconds)(
      "durable", info.durable_position)("warm", info.warm_segments)("cold", info.cold_segments)(
      "stored", info.stored_bytes)("pinned", info.pinned_seconds)("softly", info.pinned_softly);
  for (const base::Position end : info.head_ends) text("head end", end);
  return text.out.str();
}

std::string Describe(const NodeStatus& status) {
  Text text;
  text("version", status.version)("protocol", status.protocol_version)(
      "control", status.control_address)("data", status.data_address)("http", status.http_address)(
      "sessions", status.sessions)("used", status.memory_used)("limit", status.memory_limit)(
      "row bytes", status.row_bytes)("index bytes", status.index_bytes)("threads", status.threads)(
      "simd", status.simd)("uptime", status.uptime_seconds)("draining", status.draining);
  for (const NodeConnection& each : status.connections) {
    text("peer", each.peer)("transport", each.transport)("detail", each.detail);
  }
  return text.out.str();
}

}  // namespace sounder::wire
