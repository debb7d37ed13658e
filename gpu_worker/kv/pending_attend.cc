// Attention over remote rows: one request per node (more if it does not fit), answers merged in
// order of position.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/attention/partial_output.h"
#include "common/base/check.h"
#include "gpu_worker/kv/kv_client.h"
#include "gpu_worker/kv/name_node.h"

namespace sounder::gpu_worker {
namespace {

constexpr size_t kMostBytes =
    base::kMaxPayloadBytes - (size_t{1} << 16);  // beside the tables' ends

// Elements converted to the session's dtype for the wire.
void ToWire(const float* values, size_t count, base::DType dtype, std::byte* out) {
  if (dtype == base::DType::kF32) {
    std::memcpy(out, values, count * sizeof(float));
    return;
  }
  for (size_t i = 0; i < count; ++i) base::StoreElement(values[i], out + 2 * i, dtype);
}

// What a shard of a query takes in a message, paddings included: the request or the answer,
// whichever is larger.
size_t ItemBytes(const AttendQuery& query, const policy::Shard& shard) {
  constexpr size_t kAround = 512;  // table entry, alignment
  const RemoteSession& session = *query.session;
  const RemoteSessionOptions& options = session.options();
  const size_t rows =
      size_t{query.query_count} * static_cast<size_t>(shard.kv_heads()) * session.group();
  size_t asked = options.model.head_dim * SizeOf(options.dtype);
  if (query.signatures != nullptr) {
    asked += static_cast<size_t>(session.projection()->params().words()) * sizeof(uint64_t);
  }
  if (query.lse_hints != nullptr) asked += sizeof(float);
  size_t answered = (size_t{options.model.head_dim} + 1) * sizeof(float);
  if (query.want_concentration) answered += sizeof(wire::ErrorTerms);
  return kAround + static_cast<size_t>(shard.kv_heads()) * sizeof(wire::HeadHint) +
         rows * std::max(asked, answered);
}

}  // namespace

size_t KvClient::CallWithRoom(int node, size_t bytes, std::vector<int>* last_call,
                              std::vector<PendingAttend::NodeCall>* calls) const {
  int& last = (*last_call)[static_cast<size_t>(node)];
  if (last >= 0) {
    PendingAttend::NodeCall& call = (*calls)[static_cast<size_t>(last)];
    if (call.items.size() < base::kMaxItems &&
        call.bytes + bytes <= std::min(options_.attend_message_bytes, kMostBytes)) {
      call.bytes += bytes;
      return static_cast<size_t>(last);
    }
  }
  last = static_cast<int>(calls->size());
  PendingAttend::NodeCall& call = calls->emplace_back();
  call.node = node;
  call.address = data_.AddressOf(nodes_[static_cast<size_t>(node)].data);
  call.bytes = bytes;
  return calls->size() - 1;
}

std::unique_ptr<KvClient::PendingAttend> KvClient::StartAttend(uint32_t layer,
                                                               std::span<AttendQuery> queries,
                                                               std::function<void()> on_answered) {
  auto pending = std::make_unique<PendingAttend>(queries, executor_, std::move(on_answered));
  std::vector<wire::AttendRequest> requests;
  std::vector<std::vector<memory::AlignedBuffer>> tensors;  // alive until sent
  std::vector<int> last_call(nodes_.size(), -1);
  for (size_t q = 0; q < queries.size(); ++q) {
    AttendQuery& query = queries[q];
    const RemoteSessionOptions& options = query.session->options();
    query.status = query.session->status();
    query.rows_visible = query.rows_read = query.rows_loaded = query.rows_exact = 0;
    query.outputs.assign(
        size_t{query.query_count} * options.model.query_heads * options.model.head_dim, 0);
    query.lse.assign(size_t{query.query_count} * options.model.query_heads, attention::kEmptyLse);
    query.head_mass.assign(
        query.attention == wire::AttentionKind::kSketch ? options.model.kv_heads : 0, 0);
    query.concentration.assign(query.want_concentration ? query.lse.size() : 0, 0);
    if (!query.status.ok()) continue;
    for (const policy::Shard& shard : query.session->placement().ShardsOf(query.range)) {
      const size_t bytes = ItemBytes(query, shard);
      if (bytes > kMostBytes) {
        query.status = absl::InvalidArgumentError(
            absl::StrCat("a block of ", query.query_count, " queries takes ", bytes,
                         " bytes; at most ", kMostBytes, " fit into a message"));
        break;
      }
      const size_t index = CallWithRoom(shard.node, bytes, &last_call, &pending->calls_);
      if (index == requests.size()) {
        requests.emplace_back();
        tensors.emplace_back();
      }
      pending->order_.emplace_back(index, pending->calls_[index].items.size());
      pending->calls_[index].items.push_back({q, shard});
      AddItem(query, layer, shard, &requests[index], &tensors[index]);
    }
  }
  const bool block = std::any_of(queries.begin(), queries.end(),
                                 [](const AttendQuery& query) { return query.query_count > 1; });
  const base::Duration deadline =
      block ? std::max(options_.deadline, options_.block_deadline) : options_.deadline;
  pending->unanswered_ = requests.size();
  for (size_t i = 0; i < requests.size(); ++i) {
    data_.Attend(nodes_[static_cast<size_t>(pending->calls_[i].node)].data, std::move(requests[i]),
                 deadline, [pending = pending.get(), i](absl::StatusOr<wire::AttendReply> reply) {
                   pending->OnReply(i, std::move(reply));
                 });
  }
  if (requests.empty() && !pending->told_) {
    executor_->Run([pending = pending.get()] { pending->Tell(); });
  }
  return pending;
}

void KvClient::AddItem(const AttendQuery& query, uint32_t layer, const policy::Shard& shard,
                       wire::AttendRequest* request, std::vector<memory::AlignedBuffer>* tensors) {
  const RemoteSession& session = *query.session;
  const RemoteSessionOptions& options = session.options();
  const size_t dim = options.model.head_dim;
  const size_t group = session.group();
  const size_t heads = static_cast<size_t>(shard.kv_heads()) * group;  // query heads of the shard
  const size_t first = static_cast<size_t>(shard.kv_head_begin) * group;
  wire::AttendItem& item = request->items.emplace_back();
  item.session = session.ref();
  item.sequence = session.IssuedSequence(shard.node);
  item.step = query.step;
  item.layer = layer;
  item.kv_head_begin = static_cast<uint32_t>(shard.kv_head_begin);
  item.kv_head_count = static_cast<uint32_t>(shard.kv_heads());
  item.group = static_cast<uint32_t>(group);
  item.query_count = query.query_count;
  item.head_dim = options.model.head_dim;
  item.query_dtype = options.dtype;
  item.range = shard.range;
  item.layout_position = query.layout_position;
  item.causal_from = query.causal_from;
  item.scale = query.scale;
  item.attention = query.attention;
  item.sample_key = query.sample_key;
  item.rows_budget = query.rows_budget;
  item.rows_cap = query.rows_cap;
  item.want_error_terms = query.want_concentration;
  if (query.attention != wire::AttentionKind::kExact) item.row_format = options.row_format;
  request->envelope.tenant = options.tenant;

  memory::AlignedBuffer queries(query.query_count * heads * dim * SizeOf(options.dtype));
  for (size_t t = 0; t < query.query_count; ++t) {
    const float* from = query.queries + (t * options.model.query_heads + first) * dim;
    ToWire(from, heads * dim, options.dtype,
           queries.data() + t * heads * dim * SizeOf(options.dtype));
  }
  item.queries = queries.bytes();
  tensors->push_back(std::move(queries));
  if (query.head_hints != nullptr) {
    item.head_hints = {query.head_hints + shard.kv_head_begin,
                       static_cast<size_t>(shard.kv_heads())};
  }
  // The shard's query heads of a tensor [query_count, query heads, columns].
  const auto of_shard = [&]<typename T>(const T* tensor, size_t columns) {
    memory::AlignedBuffer part(query.query_count * heads * columns * sizeof(T));
    for (size_t t = 0; t < query.query_count; ++t) {
      std::memcpy(part.data() + t * heads * columns * sizeof(T),
                  tensor + (t * options.model.query_heads + first) * columns,
                  heads * columns * sizeof(T));
    }
    tensors->push_back(std::move(part));
    return std::as_const(tensors->back()).template As<T>();
  };
  if (query.lse_hints != nullptr) item.lse_hints = of_shard(query.lse_hints, 1);
  if (query.attention != wire::AttentionKind::kLshTables) return;
  CHECK(query.signatures != nullptr && session.projection() != nullptr);
  const int words = session.projection()->params().words();
  item.signature_words = static_cast<uint32_t>(words);
  item.signatures = of_shard(query.signatures, static_cast<size_t>(words));
}

KvClient::PendingAttend::~PendingAttend() {
  std::unique_lock lock(mutex_);
  WaitUntil(lock, [this] { return unanswered_ == 0 && told_; });
}

void KvClient::PendingAttend::OnReply(size_t call, absl::StatusOr<wire::AttendReply> reply) {
  {
    std::lock_guard lock(mutex_);
    calls_[call].reply = std::move(reply);
    if (--unanswered_ > 0) return;
    done_->NotifyAll();
    if (told_) return;  // from here on a waiter may destroy this
  }
  Tell();
}

void KvClient::PendingAttend::Tell() {
  on_answered_();
  std::lock_guard lock(mutex_);
  told_ = true;
  done_->NotifyAll();
}

bool KvClient::PendingAttend::Answered() const {
  std::lock_guard lock(mutex_);
  return unanswered_ == 0;
}

// Each call ends by its own deadline; a condition that gave up earlier is asked again.
void KvClient::PendingAttend::WaitUntil(std::unique_lock<std::mutex>& lock,
                                        const std::function<bool()>& holds) {
  while (!done_->WaitFor(lock, std::chrono::seconds(1), holds)) {
  }
}

void KvClient::PendingAttend::Wait() {
  std::unique_lock lock(mutex_);
  WaitUntil(lock, [this] { return unanswered_ == 0; });
  if (!std::exchange(merged_, true)) Merge();
}

// In order of position, so that the result does not depend on which node answered first.
void KvClient::PendingAttend::Merge() {
  for (const auto& [call, item] : order_) MergeItem(calls_[call], item);
}

void KvClient::PendingAttend::MergeItem(const NodeCall& call, size_t index) {
  const Item& item = call.items[index];
  AttendQuery& query = queries_[item.query];
  absl::Status status = call.reply.ok() ? call.reply->envelope.status : call.reply.status();
  if (status.ok() && index >= call.reply->items.size()) {
    status = absl::InternalError(absl::StrCat("the answer has ", call.reply->items.size(),
                                              " items, asked were ", call.items.size()));
  }
  if (status.ok()) status = call.reply->items[index].status;
  const RemoteSessionOptions& options = query.session->options();
  const uint32_t heads = static_cast<uint32_t>(item.shard.kv_heads()) * query.session->group();
  if (status.ok()) {
    const wire::AttendReplyItem& reply = call.reply->items[index];
    const size_t masses = query.head_mass.empty() ? 0 : size_t{heads} / query.session->group();
    if (reply.covered != item.shard.range || reply.query_heads != heads ||
        reply.query_count != query.query_count || reply.head_dim != options.model.head_dim ||
        reply.error_terms.empty() == query.want_concentration || reply.head_mass.size() != masses) {
      status = absl::InternalError("the answer covers something else than was asked for");
    }
  }
  if (!status.ok()) {
    if (query.status.ok()) query.status = NameNodeOfSession(status, call.address);
    return;
  }
  const wire::AttendReplyItem& reply = call.reply->items[index];
  const uint32_t first = static_cast<uint32_t>(item.shard.kv_head_begin) * query.session->group();
  for (uint32_t t = 0; t < query.query_count; ++t) {
    for (uint32_t head = 0; head < heads; ++head) {
      const size_t to = size_t{t} * options.model.query_heads + first + head;
      const size_t from = size_t{t} * heads + head;
      if (query.want_concentration) {
        // Sums of squared shares go with the squares of the parts' shares.
        const auto [old_share, share, lse] =
            attention::WeightsOfMerge(query.lse[to], reply.lse[from]);
        query.concentration[to] = old_share * old_share * query.concentration[to] +
                                  share * share * reply.error_terms[from].concentration;
      }
      attention::MergePartial(query.outputs.data() + to * options.model.head_dim, &query.lse[to],
                              reply.outputs.data() + from * reply.head_dim, reply.lse[from],
                              static_cast<int>(reply.head_dim));
    }
  }
  for (size_t head = 0; head < reply.head_mass.size(); ++head) {
    query.head_mass[static_cast<size_t>(item.shard.kv_head_begin) + head] += reply.head_mass[head];
  }
  query.rows_visible += reply.rows_visible;
  query.rows_read += reply.rows_read;
  query.rows_loaded += reply.rows_loaded;
  query.rows_exact += reply.rows_exact;
}

}  // namespace sounder::gpu_worker
