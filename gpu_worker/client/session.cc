// A session as its user sees it: RemoteSession and the calls of KvClient that it takes.
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/dtype.h"
#include "common/base/limits.h"
#include "gpu_worker/client/client_access.h"

namespace sounder::client {
namespace {

Status Closed(const base::SessionId& id) {
  return {Code::kFailedPrecondition, "session " + id.ToString() + " is closed"};
}

}  // namespace

Session::Session(std::shared_ptr<State> state) : state_(std::move(state)) {}

Session::~Session() {
  if (!state_->closed) static_cast<void>(Close());
}

SessionId Session::id() const {
  const base::SessionId& id = state_->remote->id();
  return {id.high, id.low};
}

Position Session::end() const { return state_->remote->end(); }

Status Session::status() const {
  if (state_->closed) return Closed(state_->remote->id());
  return gpu_worker::ToPublic(state_->remote->status());
}

Status Session::Append(const Rows& rows) {
  if (state_->closed) return Closed(state_->remote->id());
  if (rows.first < 0 || rows.count < 0 || rows.first > base::kMaxPositions - rows.count) {
    return {Code::kInvalidArgument,
            absl::StrCat(rows.count, " rows from position ", rows.first,
                         ", expected positions in [0, ", base::kMaxPositions, ")")};
  }
  if (rows.head == nullptr) {
    return {Code::kInvalidArgument, "Rows::head is not set: where are the rows?"};
  }
  const gpu_worker::RemoteSessionOptions& options = state_->remote->options();
  const size_t row_bytes = options.model.head_dim * SizeOf(options.dtype);
  gpu_worker::AppendRows append;
  append.first_position = rows.first;
  append.row_count = rows.count;
  append.seal_after = rows.seal_after;
  if (rows.tokens != nullptr) append.tokens = {rows.tokens, static_cast<size_t>(rows.count)};
  append.rows = [&](uint32_t layer, uint32_t kv_head) -> gpu_worker::AppendRows::Head {
    const HeadRows head = rows.head(layer, kv_head);
    const size_t stride = head.stride == 0 ? row_bytes : head.stride;
    const size_t bytes = static_cast<size_t>(rows.count - 1) * stride + row_bytes;
    return {{static_cast<const std::byte*>(head.keys), bytes},
            {static_cast<const std::byte*>(head.values), bytes},
            stride};
  };
  return gpu_worker::ToPublic(state_->connection->client().Append(state_->remote.get(), append));
}

Status Session::WaitAppended(Position position) {
  if (state_->closed) return Closed(state_->remote->id());
  return gpu_worker::ToPublic(
      state_->connection->client().WaitAppended(state_->remote.get(), position));
}

Status Session::Close() {
  if (state_->closed.exchange(true)) return {};
  return gpu_worker::ToPublic(state_->connection->client().Close(state_->remote.get()));
}

void Session::Leave() {
  state_->closed = true;
  state_->connection->client().Leave(state_->remote.get());
}

Status Session::Truncate(Position position) {
  if (state_->closed) return Closed(state_->remote->id());
  return gpu_worker::ToPublic(
      state_->connection->client().Truncate(state_->remote.get(), position));
}

Status Session::Fork(Position position, std::unique_ptr<Session>* child, SessionId id) {
  if (state_->closed) return Closed(state_->remote->id());
  absl::StatusOr<std::shared_ptr<gpu_worker::RemoteSession>> forked =
      state_->connection->client().Fork(state_->remote.get(), position, {id.high, id.low});
  if (!forked.ok()) return gpu_worker::ToPublic(forked.status());
  child->reset(new Session(std::make_shared<State>(state_->connection, *std::move(forked))));
  return {};
}

Status Session::Fetch(uint32_t layer, Range range, void* keys, void* values) const {
  if (state_->closed) return Closed(state_->remote->id());
  const uint32_t layers = state_->remote->options().model.layers;
  if (layer >= layers) {
    return {Code::kInvalidArgument,
            absl::StrCat("layer ", layer, " of a model with ", layers, " layers")};
  }
  absl::StatusOr<gpu_worker::RemoteRows> rows =
      state_->connection->client().Fetch(state_->remote.get(), layer, {range.begin, range.end});
  if (!rows.ok()) return gpu_worker::ToPublic(rows.status());
  if (rows->keys.size() > 0) {
    std::memcpy(keys, rows->keys.data(), rows->keys.size());
    std::memcpy(values, rows->values.data(), rows->values.size());
  }
  return {};
}

Status Session::FetchTokens(Range range, std::vector<int32_t>* tokens) const {
  if (state_->closed) return Closed(state_->remote->id());
  absl::StatusOr<std::vector<int32_t>> fetched =
      state_->connection->client().FetchTokens(state_->remote.get(), {range.begin, range.end});
  if (fetched.ok()) *tokens = *std::move(fetched);
  return gpu_worker::ToPublic(fetched.status());
}

}  // namespace sounder::client

namespace sounder::gpu_worker {

client::Status ToPublic(const absl::Status& status) {
  if (status.ok()) return {};
  return {static_cast<client::Code>(status.raw_code()), std::string(status.message())};
}

namespace {

// A row of all layers and kv heads of a shard travels in one message.
absl::Status CheckRowBytes(const client::SessionOptions& options) {
  const client::Model& model = options.model;
  if (model.layers > base::kMaxLayers || model.kv_heads > base::kMaxKvHeads ||
      model.head_dim > base::kMaxHeadDim || options.head_shards < 1) {
    return absl::OkStatus();  // refused further on
  }
  const uint64_t shards = static_cast<uint64_t>(options.head_shards);
  const uint64_t bytes = 2 * uint64_t{model.layers} * ((model.kv_heads + shards - 1) / shards) *
                         model.head_dim * SizeOf(static_cast<base::DType>(options.dtype));
  constexpr uint64_t kMost = base::kMaxPayloadBytes / 2;
  if (bytes <= kMost) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the rows of one position take ", bytes, " bytes on a node, at most ", kMost,
                   ": cut the kv heads into more parts (head_shards)"));
}

}  // namespace

absl::StatusOr<RemoteSessionOptions> FromPublic(const client::SessionOptions& options) {
  static_assert(static_cast<int>(base::DType::kBF16) == static_cast<int>(client::DType::kBF16));
  if (options.dtype > client::DType::kBF16) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype ", static_cast<int>(options.dtype), ", expected f32, f16 or bf16"));
  }
  if (absl::Status status = CheckRowBytes(options); !status.ok()) return status;
  RemoteSessionOptions remote;
  remote.id = {options.id.high, options.id.low};
  const client::Model& model = options.model;
  remote.model = {model.name,        model.weights_digest, model.layers,      model.kv_heads,
                  model.query_heads, model.head_dim,       model.rope_digest, model.adapter};
  remote.dtype = static_cast<base::DType>(options.dtype);
  remote.seal_rows = options.seal_rows;
  remote.min_indexed_rows = options.min_indexed_rows;
  remote.lsh.num_tables = options.lsh.num_tables;
  remote.lsh.bits_per_table = options.lsh.bits_per_table;
  remote.lsh.min_collisions = options.lsh.min_collisions;
  remote.lsh.projection =
      options.lsh.gaussian ? wire::Projection::kGaussian : wire::Projection::kHadamard;
  remote.lsh.seed = options.lsh.seed;
  remote.sketch = {options.sketch.bits, options.sketch.seed};
  if (options.int8_rows) remote.row_format = wire::RowFormat::kInt8;
  remote.indexed_layers = options.indexed_layers;
  remote.shard_rows = options.shard_rows;
  remote.head_shards = options.head_shards;
  remote.ttl_seconds = options.ttl_seconds;
  if (options.durable) remote.durability = wire::Durability::kDisk;
  remote.tenant = options.tenant;
  return remote;
}

}  // namespace sounder::gpu_worker
