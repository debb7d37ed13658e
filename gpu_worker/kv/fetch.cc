// Rows and token ids read back from the nodes.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "gpu_worker/kv/kv_client.h"
#include "gpu_worker/kv/name_node.h"

namespace sounder::gpu_worker {
namespace {

// Of one read-back: each has the deadline of a request to itself, however many there are.
constexpr size_t kPartsInFlight = 8;

absl::Status CheckAnswer(const wire::FetchItem& asked, const wire::FetchReplyItem& got) {
  RETURN_IF_ERROR(got.status);
  const auto rows = static_cast<size_t>(asked.range.size());
  if (got.kv_head_count == asked.kv_head_count && got.row_count == rows &&
      got.head_dim == asked.head_dim && got.dtype == asked.dtype &&
      got.tokens.size() == (asked.want_tokens ? rows : 0)) {
    return absl::OkStatus();
  }
  return absl::InternalError("the answer holds something else than was asked for");
}

absl::Status CheckRange(const RemoteSession& session, base::PositionRange range) {
  RETURN_IF_ERROR(session.status());
  if (range.begin >= 0 && range.begin <= range.end && range.end <= session.end()) {
    return absl::OkStatus();
  }
  return absl::OutOfRangeError(absl::StrCat("positions [", range.begin, ", ", range.end,
                                            ") were asked for; session ", session.id().ToString(),
                                            " ends at position ", session.end()));
}

wire::FetchItem ItemOf(const RemoteSession& session, int node) {
  wire::FetchItem item;
  item.session = session.ref();
  item.sequence = session.IssuedSequence(node);
  item.head_dim = session.options().model.head_dim;
  item.dtype = session.options().dtype;
  return item;
}

}  // namespace

absl::Status KvClient::FetchParts(const RemoteSession& session, std::span<const FetchPart> parts,
                                  const OnFetched& done) {
  std::mutex mutex;
  const std::unique_ptr<base::Condition> changed = executor_->NewCondition();
  size_t unanswered = 0;  // guarded by mutex, like first
  absl::Status first;
  // Each request ends by its own deadline; a condition that gave up earlier is asked again.
  const auto wait = [&](std::unique_lock<std::mutex>& lock, size_t most) {
    while (!changed->WaitFor(lock, std::chrono::seconds(1), [&] { return unanswered <= most; })) {
    }
  };
  for (const FetchPart& part : parts) {
    {
      std::unique_lock lock(mutex);
      wait(lock, kPartsInFlight - 1);
      if (!first.ok()) break;
      ++unanswered;
    }
    const wire::DataClient::NodeIndex node = nodes_[static_cast<size_t>(part.node)].data;
    wire::FetchRequest request;
    request.envelope.tenant = session.options().tenant;
    request.items.push_back(part.item);
    data_.Fetch(
        node, std::move(request), options_.deadline,
        [&, address = data_.AddressOf(node)](const absl::StatusOr<wire::FetchReply>& reply) {
          std::lock_guard lock(mutex);
          absl::Status status = reply.ok() ? reply->envelope.status : reply.status();
          if (status.ok() && reply->items.size() != 1) {
            status = absl::InternalError(
                absl::StrCat("the answer has ", reply->items.size(), " items, asked was 1"));
          }
          if (status.ok()) status = CheckAnswer(part.item, reply->items[0]);
          if (status.ok()) {
            done(part, reply->items[0]);
          } else if (first.ok()) {
            first = NameNodeOfSession(status, address);
          }
          --unanswered;
          changed->NotifyAll();
        });
  }
  std::unique_lock lock(mutex);
  wait(lock, 0);
  return first;
}

absl::StatusOr<RemoteRows> KvClient::Fetch(RemoteSession* session, uint32_t layer,
                                           base::PositionRange range) {
  RETURN_IF_ERROR(CheckRange(*session, range));
  const RemoteSessionOptions& options = session->options();
  const size_t row_bytes = options.model.head_dim * SizeOf(options.dtype);
  std::vector<FetchPart> parts;
  for (const policy::Shard& shard : session->placement().ShardsOf(range)) {
    const int64_t position_bytes = int64_t{2} * shard.kv_heads() * static_cast<int64_t>(row_bytes);
    const int64_t step = std::max<int64_t>(1, options_.append_message_bytes / position_bytes);
    for (base::Position begin = shard.range.begin; begin < shard.range.end; begin += step) {
      FetchPart& part = parts.emplace_back();
      part.node = shard.node;
      part.item = ItemOf(*session, shard.node);
      part.item.layer = layer;
      part.item.kv_head_begin = static_cast<uint32_t>(shard.kv_head_begin);
      part.item.kv_head_count = static_cast<uint32_t>(shard.kv_heads());
      part.item.range = {begin, std::min(begin + step, shard.range.end)};
    }
  }
  const size_t head_bytes = static_cast<size_t>(range.size()) * row_bytes;
  RemoteRows rows{memory::AlignedBuffer(options.model.kv_heads * head_bytes),
                  memory::AlignedBuffer(options.model.kv_heads * head_bytes)};
  RETURN_IF_ERROR(
      FetchParts(*session, parts, [&](const FetchPart& part, const wire::FetchReplyItem& reply) {
        const auto skip = static_cast<size_t>(part.item.range.begin - range.begin) * row_bytes;
        const size_t bytes = static_cast<size_t>(part.item.range.size()) * row_bytes;
        for (uint32_t head = 0; head < part.item.kv_head_count; ++head) {
          const size_t to = (part.item.kv_head_begin + head) * head_bytes + skip;
          std::memcpy(rows.keys.data() + to, reply.keys.data() + head * bytes, bytes);
          std::memcpy(rows.values.data() + to, reply.values.data() + head * bytes, bytes);
        }
      }));
  return rows;
}

absl::StatusOr<std::vector<int32_t>> KvClient::FetchTokens(RemoteSession* session,
                                                           base::PositionRange range) {
  RETURN_IF_ERROR(CheckRange(*session, range));
  const int64_t step =
      std::max<int64_t>(1, options_.append_message_bytes / static_cast<int64_t>(sizeof(int32_t)));
  std::vector<FetchPart> parts;
  for (const policy::Shard& shard : session->placement().ShardsOf(range)) {
    if (shard.kv_head_begin > 0) continue;  // those of the first heads have them as well
    for (base::Position begin = shard.range.begin; begin < shard.range.end; begin += step) {
      FetchPart& part = parts.emplace_back();
      part.node = shard.node;
      part.item = ItemOf(*session, shard.node);
      part.item.want_tokens = true;
      part.item.range = {begin, std::min(begin + step, shard.range.end)};
    }
  }
  std::vector<int32_t> tokens(static_cast<size_t>(range.size()));
  RETURN_IF_ERROR(
      FetchParts(*session, parts, [&](const FetchPart& part, const wire::FetchReplyItem& reply) {
        std::copy(reply.tokens.begin(), reply.tokens.end(),
                  tokens.begin() + (part.item.range.begin - range.begin));
      }));
  return tokens;
}

}  // namespace sounder::gpu_worker
