#include "kv_node/session/session_journal.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/config/logging.h"

namespace sounder::kv_node {
namespace {

constexpr base::Duration kRetryAfter = std::chrono::milliseconds(500);
constexpr base::Duration kSoon = std::chrono::milliseconds(5);

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
  for (const Stream& stream : streams_) {
    kept_.push_back(stream.end());
    for (const Stream::Entry& entry : stream.segments) names_.Found(entry.stored);
    if (stream.cut != nullptr) names_.Found(stream.cut);
  }
  tokens_ = recorded.tokens;
  durable_position_ = recorded.durable;
  rewrite_ = false;
}

void SessionJournal::StartAfter(std::shared_ptr<SessionJournal> before) {
  std::lock_guard working(work_mutex_);
  before_ = std::move(before);
}

void SessionJournal::Request(base::Duration delay) {
  base::Executor* const io = stores_.segments->io();
  const base::Time when = io->clock().Now() + delay;
  {
    std::lock_guard lock(mutex_);
    if (due_ <= when) return;
    due_ = when;
  }
  io->RunAt(when, [self = shared_from_this(), when] { self->RunDue(when); });
}

void SessionJournal::RunDue(base::Time when) {
  {
    std::lock_guard lock(mutex_);
    if (due_ != when) return;  // what was due has been done
  }
  Sync().IgnoreError();  // it will be tried again
}

absl::Status SessionJournal::Sync() {
  std::lock_guard working(work_mutex_);
  {
    std::lock_guard lock(mutex_);
    due_ = base::kNever;
  }
  absl::Status status = SyncLocked();
  if (!status.ok()) {
    ++*stores_.failed_commits;
    Request(kRetryAfter);
  }
  if (const bool failed = !status.ok(); failed != failing_) {
    failing_ = failed;
    const std::string name = absl::StrCat("session ", session_.ToString(), " is ");
    const std::string place = absl::StrCat(" position ", durable_position_.load());
    if (failed) {
      config::LogWarning(name + "not durable beyond" + place + ": " + base::MessageOf(status));
    } else {
      config::LogInfo(name + "durable again, up to" + place);
    }
  }
  return status;
}

absl::Status SessionJournal::SyncLocked() {
  if (removing_) return absl::OkStatus();
  if (before_ != nullptr) {
    RETURN_IF_ERROR(before_->RemoveNow());
    before_ = nullptr;
  }
  RecordedExtent extent;
  if (!rewrite_) {
    extent.tokens = tokens_;
    for (const Stream& stream : streams_) extent.segments.push_back(stream.segments.size());
  }
  const std::optional<SessionImage> image = source_.take(extent);
  if (!image.has_value()) return absl::OkStatus();
  absl::Status status = Commit(*image);
  if (!status.ok()) rewrite_ = true;
  return status;
}

absl::Status SessionJournal::Commit(const SessionImage& image) {
  Write write;
  if (rewrite_) {
    write.batch.RemoveSession(session_);
    write.changes = true;
    DropAll();
  }
  streams_.resize(image.streams.size());
  kept_.resize(image.streams.size(), 0);
  awaited_.resize(image.streams.size(), nullptr);
  for (base::Position& kept : kept_) kept = std::min(kept, image.unchanged_before);
  base::Position durable = image.streams.empty() ? 0 : base::kMaxPositions;
  for (size_t i = 0; i < image.streams.size(); ++i) {
    RETURN_IF_ERROR(AddStream(image, i, &write));
    durable = std::min(durable, streams_[i].end());
  }
  AddTokens(image, &write);
  SessionRecord record = image.record;
  record.committed_position = durable;
  EncodedRecord encoded = EncodeRecord(record);
  if (!write.changes && encoded.value == record_) return absl::OkStatus();
  write.batch.PutSession(record);
  RETURN_IF_ERROR(MakeDurable(write));
  RETURN_IF_ERROR(stores_.records->Commit(write.batch));
  rewrite_ = false;
  record_ = std::move(encoded.value);
  names_.Committed();
  for (size_t i = 0; i < streams_.size(); ++i) kept_[i] = streams_[i].end();
  durable_position_ = durable;
  return absl::OkStatus();
}

void SessionJournal::DropAll() {
  for (const Stream& stream : streams_) {
    for (const Stream::Entry& entry : stream.segments) names_.Drop(entry.stored);
    names_.Drop(stream.cut);
  }
  streams_.clear();
  tokens_ = 0;
  record_.clear();
}

absl::Status SessionJournal::MakeDurable(const Write& write) {
  if (write.named.empty()) return absl::OkStatus();
  std::vector<std::shared_ptr<const StoredSegment>> all;
  for (const Named& named : write.named) all.push_back(named.stored);
  absl::Status status = stores_.segments->MakeDurable(all);
  if (status.ok()) return status;
  // What a failed sync lost never becomes durable: next time it is written anew, from memory.
  for (const Named& named : write.named) {
    if (stores_.segments->MakeDurable({&named.stored, 1}).ok()) continue;
    if (!named.segment->ForgetStored(named.stored)) source_.load(named.segment);
  }
  return status;
}

// Segments as far as their indexes are built; the others follow when they are. What was durable of
// those is recorded as a tail until then, and no more: that would lose where the seal mark lies.
// What is being merged is recorded as it was before.
absl::Status SessionJournal::AddStream(const SessionImage& image, size_t i, Write* write) {
  const StreamImage& of = image.streams[i];
  Stream& stream = streams_[i];
  while (stream.segments.size() > of.first_segment) {
    Stream::Entry& last = stream.segments.back();
    RemoveSegment(of, last.first, std::move(last.stored), write);
    stream.segments.pop_back();
  }
  const base::Position end = of.tail_first + of.tail_rows;
  const bool same_cut = stream.cut != nullptr && of.cut != nullptr &&
                        of.cut->stored() == stream.cut && stream.cut_end == end;
  if (stream.cut != nullptr && !same_cut) {
    RemoveSegment(of, stream.cut_first, std::exchange(stream.cut, nullptr), write);
  }
  std::shared_ptr<SealedSegment> unbuilt;
  std::shared_ptr<const SegmentRows> unbuilt_rows;
  const auto built = [&](const std::shared_ptr<SealedSegment>& segment) {
    SegmentView view = segment->View();
    if (view.segment == nullptr || view.ready) return true;
    unbuilt = segment;
    unbuilt_rows = std::move(view.rows);
    return false;
  };
  for (const auto& segment : of.segments) {
    if (!built(segment)) break;
    const base::PositionRange range = segment->range();
    ASSIGN_OR_RETURN(auto stored, PutSegment(of, segment, segment->shape().num_rows, write));
    stream.segments.push_back({range.begin, range.end, std::move(stored)});
  }
  if (unbuilt == nullptr && of.cut != nullptr && !same_cut && built(of.cut)) {
    ASSIGN_OR_RETURN(stream.cut, PutSegment(of, of.cut, of.tail_rows, write));
    stream.cut_first = of.tail_first;
    stream.cut_end = end;
  }
  if (unbuilt == nullptr && of.merging != nullptr) {
    unbuilt = of.merging;
    unbuilt_rows = of.merging_rows;
  }
  Tail tail;
  if (unbuilt != nullptr) {
    if (!unbuilt->built()) AwaitBuilt(i, *unbuilt);
    const base::PositionRange range = unbuilt->range();
    tail.first = std::max(range.begin, stream.segments.empty() ? 0 : stream.segments.back().end);
    tail.rows = std::max<int64_t>(0, std::min(kept_[i], range.end) - tail.first);
    tail.keys = unbuilt_rows->keys().Row(tail.first - range.begin);
    tail.values = unbuilt_rows->values().Row(tail.first - range.begin);
  } else if (of.tail != nullptr && of.tail_rows > 0) {
    tail = {of.tail_first, of.tail_rows, of.tail->keys.data(), of.tail->values.data()};
  }
  AddTail(image, of, tail, &stream, write);
  return absl::OkStatus();
}

// Sessions that were forked from others hear of the index here only.
void SessionJournal::AwaitBuilt(size_t stream, SealedSegment& segment) {
  if (std::exchange(awaited_[stream], &segment) == &segment) return;
  const bool waits = segment.Watch(SegmentPhase::kBuilding, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->Request(kSoon);
  });
  if (!waits) Request(kSoon);
}

void SessionJournal::AddTail(const SessionImage& image, const StreamImage& of, const Tail& tail,
                             Stream* stream, Write* write) {
  const base::Position end = tail.first + tail.rows;
  const bool recorded = stream->tail_end > stream->tail_first;
  const bool stale =
      recorded && (tail.rows == 0 || tail.first != stream->tail_first || end < stream->tail_end ||
                   image.unchanged_before < stream->tail_end);
  if (stale) {
    write->batch.RemoveTails(session_, of.layer, of.kv_head, 0);
    write->changes = true;
    stream->tail_first = stream->tail_end = 0;
  }
  if (tail.rows == 0) return;
  if (stream->tail_end == stream->tail_first) stream->tail_first = stream->tail_end = tail.first;
  if (stream->tail_end == end) return;
  TailRecord record;
  record.layer = of.layer;
  record.kv_head = of.kv_head;
  record.first_position = stream->tail_end;
  record.rows = end - stream->tail_end;
  record.dim = of.dim;
  record.dtype = of.dtype;
  const size_t row = static_cast<size_t>(of.dim) * base::SizeOf(of.dtype);
  const size_t begin = static_cast<size_t>(stream->tail_end - tail.first) * row;
  record.keys = {tail.keys + begin, record.half_bytes()};
  record.values = {tail.values + begin, record.half_bytes()};
  write->batch.PutTail(session_, record);
  write->changes = true;
  stream->tail_end = end;
}

void SessionJournal::AddTokens(const SessionImage& image, Write* write) {
  base::Position end = image.tokens_from;
  if (!image.tokens.empty()) {
    const TokenRuns::Ids& last = image.tokens.back();
    end = last.first + static_cast<base::Position>(last.ids.size());
  }
  if (end == tokens_ && tokens_ <= image.unchanged_before) return;  // ids are only added behind
  write->changes = true;
  write->batch.RemoveTokensFrom(session_, BlockOf(image.tokens_from));
  TokenRecord block;
  for (const TokenRuns::Ids& run : image.tokens) {
    base::Position position = run.first;
    for (const int32_t id : run.ids) {
      if (BlockOf(position) != block.first_position && block.known.any()) {
        write->batch.PutTokens(session_, std::exchange(block, {}));
      }
      block.first_position = BlockOf(position);
      block.Put(position++, id);
    }
  }
  if (block.known.any()) write->batch.PutTokens(session_, block);
  tokens_ = end;
}

absl::StatusOr<std::shared_ptr<const StoredSegment>> SessionJournal::PutSegment(
    const StreamImage& image, const std::shared_ptr<SealedSegment>& segment, int64_t rows,
    Write* write) {
  ASSIGN_OR_RETURN(std::shared_ptr<const StoredSegment> stored, segment->Write(stores_.segments));
  SegmentRecord record;
  record.layer = image.layer;
  record.kv_head = image.kv_head;
  record.shape = stored->shape();
  record.place = stored->place();
  record.rows_used = rows;
  record.indexed = record.shape.index_bytes > 0;
  record.content_hash = segment->content_hash();
  for (const base::Position mark : segment->marks()) {
    record.marks.push_back(static_cast<uint16_t>(mark - segment->range().begin));
  }
  names_.Add(stored);
  write->batch.PutSegment(session_, record);
  write->changes = true;
  write->named.push_back({segment, stored});
  return stored;
}

void SessionJournal::RemoveSegment(const StreamImage& image, base::Position first,
                                   std::shared_ptr<const StoredSegment> stored, Write* write) {
  write->batch.RemoveSegment(session_, image.layer, image.kv_head, first);
  write->changes = true;
  names_.Drop(stored);
}

void SessionJournal::Remove(std::function<void(absl::Status)> done) {
  CHECK(removing_);
  stores_.segments->io()->Run([self = shared_from_this(), done = std::move(done)] {
    const absl::Status status = self->RemoveNow();
    if (!status.ok()) {
      base::Executor* const io = self->stores_.segments->io();
      io->RunAt(io->clock().Now() + kRetryAfter, [self] { self->Remove([](absl::Status) {}); });
    }
    done(status);
  });
}

absl::Status SessionJournal::RemoveNow() {
  std::lock_guard working(work_mutex_);
  if (removed_) return absl::OkStatus();
  if (before_ != nullptr) {
    RETURN_IF_ERROR(before_->RemoveNow());
    before_ = nullptr;
  }
  RecordBatch batch;
  batch.RemoveSession(session_);
  RETURN_IF_ERROR(stores_.records->Commit(batch));
  removed_ = true;
  DropAll();
  names_.Committed();
  return absl::OkStatus();
}

}  // namespace sounder::kv_node
