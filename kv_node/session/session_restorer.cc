#include "kv_node/session/session_restorer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {

// For want of memory nothing is damaged.
absl::Status SessionRestorer::Note(absl::Status status) {
  if (status.ok() || absl::IsResourceExhausted(status)) return status;
  loading_.reset();
  misfits_.emplace_back(session_, std::move(status));
  return absl::OkStatus();
}

absl::Status SessionRestorer::OnSession(const SessionRecord& record) {
  session_ = record.spec.session.id;
  loading_.emplace(budget_);
  absl::StatusOr<std::shared_ptr<Session>> session = make_(record);
  if (!session.ok()) return Note(session.status());
  loading_->session = *std::move(session);
  loading_->rows.record = record;
  loading_->rows.streams =
      Session::MakeStreams(loading_->session->spec(), loading_->session->sampler(), budget_);
  loading_->streams.resize(loading_->rows.streams.size());
  loading_->recorded.streams.resize(loading_->rows.streams.size());
  loading_->recorded.durable = record.committed_position;
  return absl::OkStatus();
}

absl::StatusOr<size_t> SessionRestorer::StreamOf(uint32_t layer, uint32_t kv_head) const {
  const wire::SessionSpec& spec = loading_->session->spec();
  if (layer < spec.model.layers && kv_head >= spec.kv_head_begin &&
      kv_head - spec.kv_head_begin < spec.kv_head_count) {
    return size_t{layer} * spec.kv_head_count + kv_head - spec.kv_head_begin;
  }
  return absl::DataLossError(absl::StrCat("rows of layer ", layer, ", kv head ", kv_head,
                                          ", which session ", spec.session.id.ToString(),
                                          " does not have"));
}

std::shared_ptr<SealedSegment> SessionRestorer::SegmentOf(const SegmentRecord& record) {
  std::shared_ptr<SealedSegment>& segment = segments_[{record.place.file, record.place.offset}];
  if (segment != nullptr) return segment;
  const StoredShape& stored = record.shape;
  const SegmentShape shape = {stored.first_position, stored.num_rows, stored.dim, stored.dtype};
  std::vector<base::Position> marks;
  for (const uint16_t mark : record.marks) marks.push_back(shape.first_position + mark);
  segment = std::make_shared<SealedSegment>(
      shape, record.indexed ? loading_->session->sampler() : nullptr,
      store_->Adopt(stored, record.place), record.content_hash, store_, budget_, std::move(marks));
  if (tiers_ != nullptr) tiers_->Add(segment);
  return segment;
}

absl::Status SessionRestorer::OnSegment(const SegmentRecord& record) {
  return loading_.has_value() ? Note(AddSegment(record)) : absl::OkStatus();
}

absl::Status SessionRestorer::OnTail(const TailRecord& record) {
  return loading_.has_value() ? Note(AddTail(record)) : absl::OkStatus();
}

absl::Status SessionRestorer::OnTokens(const TokenRecord& record) {
  return loading_.has_value() ? Note(AddTokens(record)) : absl::OkStatus();
}

absl::Status SessionRestorer::AddSegment(const SegmentRecord& record) {
  ASSIGN_OR_RETURN(const size_t index, StreamOf(record.layer, record.kv_head));
  const wire::SessionSpec& spec = loading_->session->spec();
  Stream& stream = loading_->streams[index];
  const base::Position end = stream.segments.empty() ? 0 : stream.segments.back()->range().end;
  if (record.shape.dim != static_cast<int>(spec.model.head_dim) ||
      record.shape.dtype != spec.dtype || stream.cut_rows > 0 ||
      record.shape.first_position < end) {
    return absl::DataLossError(absl::StrCat(
        "segment at position ", record.shape.first_position, " of layer ", record.layer,
        ", kv head ", record.kv_head, " does not fit session ", spec.session.id.ToString()));
  }
  stream.segments.push_back(SegmentOf(record));
  std::shared_ptr<const StoredSegment> stored = stream.segments.back()->stored();
  stored->AddName();
  RecordedStream& recorded = loading_->recorded.streams[index];
  const base::Position first = record.shape.first_position;
  if (record.rows_used < record.shape.num_rows) {
    stream.cut_rows = record.rows_used;
    recorded.cut = std::move(stored);
    recorded.cut_first = first;
    recorded.cut_end = first + record.rows_used;
  } else {
    recorded.segments.push_back({first, first + record.rows_used, std::move(stored)});
  }
  return absl::OkStatus();
}

void SessionRestorer::Settle() {
  if (std::exchange(loading_->settled, true)) return;
  for (size_t i = 0; i < loading_->streams.size(); ++i) {
    Stream& stream = loading_->streams[i];
    if (stream.segments.empty()) continue;
    loading_->rows.streams[i].StartFrom(std::move(stream.segments), stream.cut_rows);
  }
}

absl::Status SessionRestorer::AddTail(const TailRecord& record) {
  Settle();
  ASSIGN_OR_RETURN(const size_t index, StreamOf(record.layer, record.kv_head));
  RowStream& stream = loading_->rows.streams[index];
  const wire::SessionSpec& spec = loading_->session->spec();
  if (record.dim != static_cast<int>(spec.model.head_dim) || record.dtype != spec.dtype ||
      loading_->streams[index].cut_rows > 0) {
    return absl::DataLossError(absl::StrCat("tail at position ", record.first_position,
                                            " does not fit session ", spec.session.id.ToString()));
  }
  ASSIGN_OR_RETURN(const int64_t taken,
                   stream.Append(record.first_position, record.rows, record.keys, record.values));
  RecordedStream& recorded = loading_->recorded.streams[index];
  if (recorded.tail_end == 0) recorded.tail_first = record.first_position;
  recorded.tail_end = record.first_position + record.rows;
  if (taken == record.rows) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("tail at position ", record.first_position,
                                          " of session ", spec.session.id.ToString(),
                                          " goes beyond a seal mark"));
}

absl::Status SessionRestorer::AddTokens(const TokenRecord& record) {
  for (int64_t at = 0; at < kTokenBlock;) {
    if (!record.known[static_cast<size_t>(at)]) {
      ++at;
      continue;
    }
    int64_t end = at + 1;
    while (end < kTokenBlock && record.known[static_cast<size_t>(end)]) ++end;
    const std::span<const int32_t> ids(record.ids.data() + at, static_cast<size_t>(end - at));
    RETURN_IF_ERROR(loading_->rows.tokens.Check(record.first_position + at, ids));
    RETURN_IF_ERROR(loading_->rows.tokens.Put(record.first_position + at, ids));
    loading_->recorded.tokens = record.first_position + end;
    at = end;
  }
  return absl::OkStatus();
}

absl::Status SessionRestorer::OnEnd(const base::SessionId&) {
  if (!loading_.has_value()) return absl::OkStatus();
  Settle();
  const std::shared_ptr<Session> session = std::move(loading_->session);
  CHECK(session->journal() != nullptr);
  session->journal()->StartFrom(std::move(loading_->recorded));
  RETURN_IF_ERROR(session->StartFrom(std::move(loading_->rows)));
  loading_.reset();
  return restored_(session);
}

absl::Status SessionRestorer::OnDamaged(const base::SessionId&, const absl::Status&) {
  loading_.reset();
  return absl::OkStatus();
}

namespace {

class LiveSegments final : public RecordVisitor {
 public:
  absl::Status OnSession(const SessionRecord&) override { return absl::OkStatus(); }
  absl::Status OnSegment(const SegmentRecord& record) override {
    segments.push_back(record.live());
    return absl::OkStatus();
  }
  absl::Status OnTail(const TailRecord&) override { return absl::OkStatus(); }
  absl::Status OnTokens(const TokenRecord&) override { return absl::OkStatus(); }
  absl::Status OnEnd(const base::SessionId&) override { return absl::OkStatus(); }
  absl::Status OnDamaged(const base::SessionId&, const absl::Status&) override {
    return absl::OkStatus();
  }

  std::vector<LiveSegment> segments;
};

}  // namespace

absl::StatusOr<std::vector<LiveSegment>> SegmentsOfRecords(RecordStore& records,
                                                           VisitResult* result) {
  LiveSegments live;
  ASSIGN_OR_RETURN(*result, records.Visit(live));
  const auto place = [](const LiveSegment& segment) {
    return std::pair(segment.place.file, segment.place.offset);
  };
  std::sort(live.segments.begin(), live.segments.end(),
            [&](const auto& a, const auto& b) { return place(a) < place(b); });
  const auto end = std::unique(live.segments.begin(), live.segments.end(),
                               [](const auto& a, const auto& b) { return a.place == b.place; });
  live.segments.erase(end, live.segments.end());
  return std::move(live.segments);
}

}  // namespace sounder::kv_node
