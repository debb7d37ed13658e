#include "kv_node/server/fetch_job.h"

#include <cstring>
#include <numeric>
#include <utility>

#include "common/base/check.h"

namespace sounder::kv_node {
namespace {

// Of the room, for what an item reads at a time: others read meanwhile.
constexpr uint64_t kRoomShare = 4;

}  // namespace

FetchJob::FetchJob(wire::FetchRequest request, base::Time deadline, SessionMap* sessions,
                   RowSource* rows, ByteQuota* room, base::Executor* executor, Done done)
    : request_(std::move(request)),
      deadline_(deadline),
      sessions_(sessions),
      source_(rows),
      room_(room),
      executor_(executor),
      done_(std::move(done)),
      unfinished_(request_.items.size() + 1),  // one for Start
      rows_(request_.items.size()),
      tokens_(request_.items.size()),
      stored_(request_.items.size()) {
  reply_.envelope = request_.envelope;
  reply_.envelope.kind = wire::MessageKind::kFetchReply;
  reply_.items.resize(request_.items.size());
}

void FetchJob::Start() {
  for (size_t i = 0; i < request_.items.size(); ++i) {
    const wire::FetchItem& item = request_.items[i];
    absl::StatusOr<std::shared_ptr<Session>> session =
        sessions_->Find(item.session.id, request_.envelope.tenant);
    if (!session.ok()) {
      OnFetched(i, session.status());
      continue;
    }
    (*session)->Fetch(item, deadline_,
                      [self = shared_from_this(), i](absl::StatusOr<FetchedRows> rows) {
                        self->OnFetched(i, std::move(rows));
                      });
  }
  FinishOne();
}

void FetchJob::FinishOne() {
  if (unfinished_.fetch_sub(1) == 1) done_(reply_);
}

void FetchJob::OnFetched(size_t item, absl::StatusOr<FetchedRows> rows) {
  if (rows.ok()) {
    FillReplyItem(item, *std::move(rows));
    if (!stored_[item].requests.empty()) {
      ReadNext(item);
      return;
    }
  } else {
    reply_.items[item].status = rows.status();
  }
  FinishOne();
}

void FetchJob::FillReplyItem(size_t item, FetchedRows rows) {
  const wire::FetchItem& asked = request_.items[item];
  wire::FetchReplyItem& reply = reply_.items[item];
  reply.kv_head_count = asked.kv_head_count;
  reply.row_count = static_cast<uint32_t>(asked.range.size());
  reply.head_dim = asked.head_dim;
  reply.dtype = asked.dtype;
  const size_t bytes = reply.row_bytes();
  memory::AlignedBuffer& buffer = rows_[item];
  buffer = memory::AlignedBuffer(2 * bytes);
  size_t at = 0;
  for (const std::vector<Piece>& pieces : rows.pieces) {
    for (const Piece& piece : pieces) {
      const size_t part = static_cast<size_t>(piece.rows()) * asked.head_dim * SizeOf(asked.dtype);
      const std::span<std::byte> keys = buffer.bytes().subspan(at, part);
      const std::span<std::byte> values = buffer.bytes().subspan(bytes + at, part);
      if (piece.in_memory()) {
        std::memcpy(keys.data(), piece.keys.Row(piece.row_begin), part);
        std::memcpy(values.data(), piece.values.Row(piece.row_begin), part);
      } else {
        AddStoredRun(item, piece, keys, values);
      }
      at += part;
    }
  }
  reply.keys = std::as_const(buffer).bytes().first(bytes);
  reply.values = std::as_const(buffer).bytes().subspan(bytes);
  tokens_[item] = std::move(rows.tokens);
  reply.tokens = tokens_[item];
}

void FetchJob::AddStoredRun(size_t item, const Piece& piece, std::span<std::byte> keys,
                            std::span<std::byte> values) {
  CHECK(source_ != nullptr && piece.store != nullptr) << "rows that are nowhere";
  StoredRuns& stored = stored_[item];
  std::vector<uint16_t>& rows = stored.rows.emplace_back(static_cast<size_t>(piece.rows()));
  std::iota(rows.begin(), rows.end(), static_cast<uint16_t>(piece.row_begin));
  stored.requests.push_back({piece.store, rows, keys, values});
}

void FetchJob::ReadNext(size_t item) {
  StoredRuns& stored = stored_[item];
  stored.room = 0;
  for (; stored.next < stored.requests.size(); ++stored.next) {
    const RowRequest& request = stored.requests[stored.next];
    const uint64_t more = MostPageBytes(*request.segment, request.rows.size());
    if (!stored.batch.empty() && stored.room + more > room_->limit() / kRoomShare) break;
    stored.room += more;
    stored.batch.push_back(request);
  }
  const auto granted = [self = shared_from_this(), item] {
    self->executor_->Run([self, item] { self->ReadBatch(item); });
  };
  if (room_->Take(stored.room, granted)) ReadBatch(item);
}

void FetchJob::ReadBatch(size_t item) {
  source_->Read(std::exchange(stored_[item].batch, {}),
                [self = shared_from_this(), item](std::span<const absl::Status> statuses) {
                  self->OnRead(item, statuses);
                });
}

// On the disk's thread: what is left to do is done elsewhere.
void FetchJob::OnRead(size_t item, std::span<const absl::Status> statuses) {
  room_->Give(stored_[item].room);
  absl::Status status;
  for (const absl::Status& each : statuses) status.Update(each);
  if (status.ok() && stored_[item].next < stored_[item].requests.size()) {
    executor_->Run([self = shared_from_this(), item] { self->ReadNext(item); });
    return;
  }
  if (!status.ok()) {
    reply_.items[item] = wire::FetchReplyItem();
    reply_.items[item].status = std::move(status);
  }
  executor_->Run([self = shared_from_this()] { self->FinishOne(); });
}

}  // namespace sounder::kv_node
