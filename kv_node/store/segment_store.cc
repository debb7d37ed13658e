#include "kv_node/store/segment_store.h"

#include <cstring>
#include <random>
#include <utility>

#include "common/base/status_macros.h"

namespace sounder::kv_node {
namespace {

uint64_t RandomRun() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

}  // namespace

StoredSegment::~StoredSegment() {
  if (names_ == 0) store_->Free(live());
}

SegmentStore::SegmentStore(Disk* disk, SegmentLog* log, base::Executor* io)
    : disk_(disk), log_(log), io_(io), run_(RandomRun()) {}

SegmentTag SegmentStore::NewTag() {
  const uint64_t number = ++last_tag_;
  SegmentTag tag;
  std::memcpy(tag.data(), &run_, sizeof(run_));
  std::memcpy(tag.data() + sizeof(run_), &number, sizeof(number));
  return tag;
}

absl::StatusOr<SegmentStore::Written> SegmentStore::Write(SegmentContent content) {
  content.tag = NewTag();
  ASSIGN_OR_RETURN(WrittenSegment written, log_->Append(content));
  ++written_segments_;
  written_bytes_ += written.reader->layout().bytes();
  auto stored = std::make_shared<const StoredSegment>(this, written.reader->shape(), written.place);
  return Written{std::move(stored), std::move(written.reader)};
}

absl::Status SegmentStore::MakeDurable(
    std::span<const std::shared_ptr<const StoredSegment>> segments) {
  std::vector<SegmentPlace> places;
  places.reserve(segments.size());
  for (const auto& segment : segments) places.push_back(segment->place());
  return log_->MakeDurable(places);
}

std::shared_ptr<const StoredSegment> SegmentStore::Adopt(const StoredShape& shape,
                                                         const SegmentPlace& place) {
  return std::make_shared<const StoredSegment>(this, shape, place);
}

void SegmentStore::Open(const StoredSegment& segment, SegmentReader::Opened opened) {
  absl::StatusOr<std::shared_ptr<DiskFile>> file = log_->FileOf(segment.place());
  if (!file.ok()) {
    opened(file.status());
    return;
  }
  SegmentReader::Open(*disk_, *std::move(file), segment.place().offset, segment.shape(),
                      std::move(opened));
}

void SegmentStore::Free(const LiveSegment& segment) {
  io_->Run([this, segment] { ++(log_->Free(segment).ok() ? freed_segments_ : failed_frees_); });
}

SegmentStoreCounts SegmentStore::counts() const {
  return {written_segments_, written_bytes_, freed_segments_, failed_frees_};
}

}  // namespace sounder::kv_node
