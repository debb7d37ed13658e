#include "kv_node/server/fetch_job.h"

#include <cstring>
#include <utility>

namespace sounder::kv_node {

FetchJob::FetchJob(wire::FetchRequest request, base::Time deadline, SessionMap* sessions, Done done)
    : request_(std::move(request)),
      deadline_(deadline),
      sessions_(sessions),
      done_(std::move(done)),
      unfinished_(request_.items.size() + 1),  // one for Start
      rows_(request_.items.size()),
      tokens_(request_.items.size()) {
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
  if (unfinished_.fetch_sub(1) == 1) done_(reply_);
}

void FetchJob::OnFetched(size_t item, absl::StatusOr<FetchedRows> rows) {
  if (rows.ok()) {
    FillReplyItem(item, *std::move(rows));
  } else {
    reply_.items[item].status = rows.status();
  }
  if (unfinished_.fetch_sub(1) == 1) done_(reply_);
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
  std::byte* out = buffer.data();
  for (const std::vector<Piece>& pieces : rows.pieces) {
    for (const Piece& piece : pieces) {
      const size_t part = static_cast<size_t>(piece.rows() * piece.keys.row_stride);
      std::memcpy(out, piece.keys.Row(piece.row_begin), part);
      std::memcpy(out + bytes, piece.values.Row(piece.row_begin), part);
      out += part;
    }
  }
  reply.keys = std::as_const(buffer).bytes().first(bytes);
  reply.values = std::as_const(buffer).bytes().subspan(bytes);
  tokens_[item] = std::move(rows.tokens);
  reply.tokens = tokens_[item];
}

}  // namespace sounder::kv_node
