// A session that outlives the node's process.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kv_node/session/session.h"

namespace sounder::kv_node {

void Session::SetJournal(std::shared_ptr<SessionJournal> journal, const JournalOptions& options) {
  CHECK(journal_ == nullptr);
  journal_ = std::move(journal);
  journal_options_ = options;
  JournalSource source;
  source.take =
      [weak = weak_from_this()](const RecordedExtent& recorded) -> std::optional<SessionImage> {
    const auto self = weak.lock();
    if (self == nullptr) return std::nullopt;
    SessionImage image = self->TakeImage(recorded);
    if (image.streams.empty()) return std::nullopt;  // closed
    return image;
  };
  source.load = [weak = weak_from_this()](const std::shared_ptr<SealedSegment>& segment) {
    if (const auto self = weak.lock()) self->LoadForJournal(segment);
  };
  journal_->SetSource(std::move(source));
}

SessionImage Session::TakeImage(const RecordedExtent& recorded) {
  SessionImage image;
  std::lock_guard lock(mutex_);
  image.record.spec = spec_;
  image.record.epoch = epoch_;
  image.record.holder = holder_;
  image.record.applied_sequence = applied_;
  image.record.parent = parent_;
  image.record.fork_position = fork_position_;
  image.record.fork_sequence = fork_sequence_;
  image.unchanged_before = std::exchange(unchanged_before_, base::kMaxPositions);
  journal_->OnChanged(image.unchanged_before);
  base::Position whole_before = base::kMaxPositions;
  for (const RowStream& stream : streams_) {
    whole_before = std::min(whole_before, stream.end_position());
  }
  for (const auto& [segment, begin] : unbuilt_) whole_before = std::min(whole_before, begin);
  image.streams.reserve(streams_.size());
  for (size_t i = 0; i < streams_.size(); ++i) {
    StreamImage& stream = image.streams.emplace_back();
    stream.layer = static_cast<uint32_t>(i) / spec_.kv_head_count;
    stream.kv_head = spec_.kv_head_begin + static_cast<uint32_t>(i) % spec_.kv_head_count;
    streams_[i].AddTo(recorded.segments.empty() ? 0 : recorded.segments[i], image.unchanged_before,
                      whole_before, &stream);
  }
  image.tokens_from = std::min(recorded.tokens, image.unchanged_before) / kTokenBlock * kTokenBlock;
  image.tokens = tokens_.From(image.tokens_from);
  unrecorded_rows_ = 0;
  return image;
}

// With the lock held.
void Session::NoteAppended(const wire::AppendItem& item) {
  if (journal_ == nullptr) return;
  // Positions, not rows of all layers: of the last one, which usually completes them.
  if (item.layer + 1 == spec_.model.layers) unrecorded_rows_ += item.row_count;
  const bool enough = unrecorded_rows_ >= journal_options_.tail_rows;
  journal_->Request(enough ? base::Duration{} : journal_options_.tail_interval);
}

absl::Status Session::MakeDurable() {
  return journal_ == nullptr ? absl::OkStatus() : journal_->Sync();
}

// Streams of layers may have been recorded up to different positions: what all of them have is the
// session. Whoever wrote it knows of more, and must not go on as if it were there.
absl::Status Session::StartFrom(RecordedRows rows) {
  std::lock_guard lock(mutex_);
  CHECK(applied_ == 0 && rows.streams.size() == streams_.size());
  base::Position end = base::kMaxPositions;
  for (const RowStream& stream : rows.streams) end = std::min(end, stream.end_position());
  for (RowStream& stream : rows.streams) stream.Truncate(end);
  rows.tokens.Truncate(end);
  unchanged_before_ = end;
  streams_ = std::move(rows.streams);
  tokens_ = std::move(rows.tokens);
  epoch_ = rows.record.epoch;
  holder_ = rows.record.holder;
  applied_ = rows.record.applied_sequence;
  parent_ = rows.record.parent;
  fork_position_ = rows.record.fork_position;
  fork_sequence_ = rows.record.fork_sequence;
  restored_ = absl::FailedPreconditionError(
      absl::StrCat("session ", spec_.session.id.ToString(), " was restored up to position ", end,
                   " when the node restarted: adopt it to go on"));
  for (const RowStream& stream : streams_) {
    for (const Held<SealedSegment>& segment : stream.segments()) segment->AddLife(life_);
  }
  // What was sealed before its index was built.
  for (size_t i = 0; i < streams_.size(); ++i) {
    if (!streams_[i].AtSealMark()) continue;
    const auto stream = static_cast<uint32_t>(i);
    RETURN_IF_ERROR(SealStream(stream / spec_.kv_head_count,
                               spec_.kv_head_begin + stream % spec_.kv_head_count));
  }
  return absl::OkStatus();
}

}  // namespace sounder::kv_node
