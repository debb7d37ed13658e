#include "kv_node/session/session_journal.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {
namespace {

constexpr base::Duration kRetryAfter = std::chrono::milliseconds(500);

base::Position BlockOf(base::Position position) { return position / kTokenBlock * kTokenBlock; }

}  // namespace

base::Position RecordedStream::end() const {
  if (tail_end > tail_first) return tail_end;
  if (cut != nullptr) return cut_end;
  return segments.empty() ? 0 : segments.back().end;
}

void SessionJournal::StartFrom(RecordedSession recorded) {
  std::lock_guard working(work_mutex_);
  CHECK(streams_.empty() && rewrite_);
  streams_ = std::move(recorded.streams);
  tokens_ = recorded.tokens;
  durable_position_ = recorded.durable;
  rewrite_ = false;
}

void SessionJournal::Request(base::Duration delay) {
  base::Executor* const io = segments_->io();
  const base::Time when = io->clock().Now() + delay;
  {
    std::lock_guard lock(mutex_);
    if (due_ <= when) return;
    due_ = when;
  }
  io->RunAt(when, [self = shared_from_this()] {
    const absl::Status status = self->Sync();
    if (!status.ok()) self->Request(kRetryAfter);
  });
}

absl::Status SessionJournal::Sync() {
  std::lock_guard working(work_mutex_);
  {
    std::lock_guard lock(mutex_);
    due_ = base::kNever;
  }
  absl::Status status = SyncLocked();
  std::lock_guard lock(mutex_);
  last_status_ = status;
  return status;
}

absl::Status SessionJournal::last_status() const {
  std::lock_guard lock(mutex_);
  return last_status_;
}

absl::Status SessionJournal::SyncLocked() {
  if (removing_) return absl::OkStatus();
  RecordedExtent extent;
  if (!rewrite_) {
    extent.tokens = tokens_;
    for (const Stream& stream : streams_) extent.segments.push_back(stream.segments.size());
  }
  const std::optional<SessionImage> image = take_(extent);
  if (!image.has_value()) return absl::OkStatus();
  absl::Status status = Commit(*image);
  if (!status.ok()) rewrite_ = true;
  return status;
}

absl::Status SessionJournal::Commit(const SessionImage& image) {
  Write write;
  if (rewrite_) {
    write.batch.RemoveSession(session_);
    for (Stream& stream : streams_) {
      for (Stream::Entry& entry : stream.segments) Drop(std::move(entry.stored));
      Drop(std::move(stream.cut));
    }
    streams_.clear();
    tokens_ = 0;
  }
  streams_.resize(image.streams.size());
  base::Position durable = image.streams.empty() ? 0 : base::kMaxPositions;
  for (size_t i = 0; i < image.streams.size(); ++i) {
    RETURN_IF_ERROR(AddStream(image, i, &write));
    durable = std::min(durable, streams_[i].end());
  }
  AddTokens(image, &write);
  SessionRecord record = image.record;
  record.committed_position = durable;
  write.batch.PutSession(record);
  if (!write.segments.empty()) RETURN_IF_ERROR(segments_->MakeDurable(write.segments));
  RETURN_IF_ERROR(records_->Commit(write.batch));
  rewrite_ = false;
  ForgetDropped();
  durable_position_ = durable;
  return absl::OkStatus();
}

absl::Status SessionJournal::AddStream(const SessionImage& image, size_t i, Write* write) {
  const StreamImage& of = image.streams[i];
  Stream& stream = streams_[i];
  while (stream.segments.size() > of.first_segment) {
    Stream::Entry& last = stream.segments.back();
    write->batch.RemoveSegment(session_, of.layer, of.kv_head, last.first);
    Drop(std::move(last.stored));
    stream.segments.pop_back();
  }
  const bool same_cut = stream.cut != nullptr && of.cut != nullptr &&
                        of.cut->stored() == stream.cut &&
                        stream.cut_end == of.tail_first + of.tail_rows;
  if (stream.cut != nullptr && !same_cut) {
    write->batch.RemoveSegment(session_, of.layer, of.kv_head, stream.cut_first);
    Drop(std::exchange(stream.cut, nullptr));
  }
  bool complete = true;
  RETURN_IF_ERROR(AddSegments(of, &stream, write, &complete));
  if (complete && of.cut != nullptr && !same_cut) RETURN_IF_ERROR(AddCut(of, &stream, write));
  AddTail(image, of, complete, &stream, write);
  return absl::OkStatus();
}

// As far as their indexes are built: the others follow when they are. (Their rows may be recorded
// as a tail's; recording more of them would lose where the seal mark lies.)
absl::Status SessionJournal::AddSegments(const StreamImage& image, Stream* stream, Write* write,
                                         bool* complete) {
  for (const auto& segment : image.segments) {
    if (!segment->ready() && segment->stored() == nullptr) {
      *complete = false;
      break;
    }
    RETURN_IF_ERROR(segment->Write(segments_));
    PutSegment(image, *segment, segment->shape().num_rows, write);
    stream->segments.push_back({segment->range().begin, segment->range().end, segment->stored()});
  }
  return absl::OkStatus();
}

absl::Status SessionJournal::AddCut(const StreamImage& image, Stream* stream, Write* write) {
  if (image.cut->stored() == nullptr && !image.cut->ready()) return absl::OkStatus();
  RETURN_IF_ERROR(image.cut->Write(segments_));
  PutSegment(image, *image.cut, image.tail_rows, write);
  stream->cut = image.cut->stored();
  stream->cut_first = image.tail_first;
  stream->cut_end = image.tail_first + image.tail_rows;
  return absl::OkStatus();
}

void SessionJournal::AddTail(const SessionImage& image, const StreamImage& of, bool complete,
                             Stream* stream, Write* write) {
  const base::Position segments_end = stream->segments.empty() ? 0 : stream->segments.back().end;
  const base::Position end = of.tail_first + of.tail_rows;
  const bool has_tail = complete && of.tail != nullptr && of.tail_rows > 0;
  const bool recorded = stream->tail_end > stream->tail_first;
  const bool stale =
      recorded && (stream->tail_first < segments_end || of.cut != nullptr ||
                   image.unchanged_before < stream->tail_end ||
                   (has_tail && of.tail_first != stream->tail_first) || (complete && !has_tail));
  if (stale) {
    write->batch.RemoveTails(session_, of.layer, of.kv_head, 0);
    stream->tail_first = stream->tail_end = 0;
  }
  if (!has_tail) return;
  if (stream->tail_end == stream->tail_first) stream->tail_first = stream->tail_end = of.tail_first;
  if (stream->tail_end == end) return;
  TailRecord record;
  record.layer = of.layer;
  record.kv_head = of.kv_head;
  record.first_position = stream->tail_end;
  record.rows = end - stream->tail_end;
  record.dim = of.dim;
  record.dtype = of.dtype;
  const size_t row = static_cast<size_t>(of.dim) * base::SizeOf(of.dtype);
  const size_t begin = static_cast<size_t>(stream->tail_end - of.tail_first) * row;
  record.keys = of.tail->keys.bytes().subspan(begin, record.half_bytes());
  record.values = of.tail->values.bytes().subspan(begin, record.half_bytes());
  write->batch.PutTail(session_, record);
  stream->tail_end = end;
}

void SessionJournal::AddTokens(const SessionImage& image, Write* write) {
  write->batch.RemoveTokensFrom(session_, BlockOf(image.tokens_from));
  TokenRecord block;
  base::Position end = image.tokens_from;
  for (const TokenRuns::Ids& run : image.tokens) {
    base::Position position = run.first;
    for (const int32_t id : run.ids) {
      if (BlockOf(position) != block.first_position && block.known.any()) {
        write->batch.PutTokens(session_, std::exchange(block, {}));
      }
      block.first_position = BlockOf(position);
      block.Put(position++, id);
    }
    end = position;
  }
  if (block.known.any()) write->batch.PutTokens(session_, block);
  tokens_ = end;
}

void SessionJournal::PutSegment(const StreamImage& image, const SealedSegment& segment,
                                int64_t rows, Write* write) {
  const std::shared_ptr<const StoredSegment> stored = segment.stored();
  SegmentRecord record;
  record.layer = image.layer;
  record.kv_head = image.kv_head;
  record.shape = stored->shape();
  record.place = stored->place();
  record.rows_used = rows;
  record.indexed = record.shape.index_bytes > 0;
  record.content_hash = segment.content_hash();
  stored->AddName();
  write->batch.PutSegment(session_, record);
  write->segments.push_back(stored);
}

void SessionJournal::ForgetDropped() {
  for (const auto& stored : dropped_) stored->RemoveName();
  dropped_.clear();
}

void SessionJournal::Drop(std::shared_ptr<const StoredSegment> stored) {
  if (stored != nullptr) dropped_.push_back(std::move(stored));
}

void SessionJournal::Remove() {
  removing_ = true;
  segments_->io()->Run([self = shared_from_this()] {
    if (self->RemoveNow().ok()) return;
    base::Executor* const io = self->segments_->io();
    io->RunAt(io->clock().Now() + kRetryAfter, [self] { self->Remove(); });
  });
}

absl::Status SessionJournal::RemoveNow() {
  std::lock_guard working(work_mutex_);
  if (removed_) return absl::OkStatus();
  RecordBatch batch;
  batch.RemoveSession(session_);
  RETURN_IF_ERROR(records_->Commit(batch));
  removed_ = true;
  for (Stream& stream : streams_) {
    for (Stream::Entry& entry : stream.segments) Drop(std::move(entry.stored));
    Drop(std::move(stream.cut));
  }
  streams_.clear();
  ForgetDropped();
  return absl::OkStatus();
}

}  // namespace sounder::kv_node
