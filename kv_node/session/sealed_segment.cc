#include "kv_node/session/sealed_segment.h"

#include <numeric>
#include <utility>

#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {
namespace {

uint64_t RowBytesOf(const SegmentShape& shape) {
  const size_t bytes = static_cast<size_t>(shape.num_rows) * shape.row_bytes();
  return 2 * memory::AlignedBuffer::Allocated(bytes);
}

// What a reader takes: checksums of the pages of rows.
uint64_t ReaderBytes(const StoredShape& shape) {
  return sizeof(SegmentReader) + SegmentLayout(shape).row_pages() * sizeof(uint64_t);
}

// The index as it is stored: its own bytes, and behind them the copies of rows it reads from.
std::vector<std::byte> IndexToStore(const Segment& segment, const Sampler* sampler) {
  std::vector<std::byte> bytes;
  if (segment.index() == nullptr) return bytes;
  const memory::AlignedBuffer index = sampler->EncodeIndex(*segment.index());
  const std::span<const std::byte> parts[] = {index.bytes(), segment.copies()};
  bytes.reserve(parts[0].size() + parts[1].size());
  for (const auto& part : parts) bytes.insert(bytes.end(), part.begin(), part.end());
  return bytes;
}

}  // namespace

SealedSegment::SealedSegment(std::unique_ptr<Segment> segment,
                             std::shared_ptr<const Sampler> sampler, Reservation rows,
                             Reservation index, std::vector<base::Position> marks)
    : shape_(segment->shape()),
      sampler_(std::move(sampler)),
      marks_(std::move(marks)),
      segment_(std::move(segment)),
      rows_(std::move(rows)),
      index_(std::move(index)) {}

SealedSegment::SealedSegment(const SegmentShape& shape, std::shared_ptr<const Sampler> sampler,
                             std::shared_ptr<const StoredSegment> stored,
                             const ContentHash& content_hash, SegmentStore* store,
                             MemoryBudget* budget, std::vector<base::Position> marks)
    : shape_(shape),
      sampler_(std::move(sampler)),
      marks_(std::move(marks)),
      stored_(std::move(stored)),
      store_(store),
      content_hash_(content_hash),
      rows_(budget),
      index_(budget) {}

SegmentView SealedSegment::View() const {
  std::lock_guard lock(mutex_);
  if (segment_ == nullptr) return {};
  return {segment_, segment_->rows(), reader_, ready()};
}

Residency SealedSegment::residency() const {
  std::lock_guard lock(mutex_);
  if (segment_ == nullptr) return Residency::kCold;
  return segment_->rows() == nullptr ? Residency::kWarm : Residency::kHot;
}

bool SealedSegment::built() const {
  std::lock_guard lock(mutex_);
  return PhaseLocked() != SegmentPhase::kBuilding;
}

SegmentPhase SealedSegment::PhaseLocked() const {
  if (segment_ == nullptr) return SegmentPhase::kCold;
  return ready() ? SegmentPhase::kOpen : SegmentPhase::kBuilding;
}

void SealedSegment::SetReady(BuiltIndex built) {
  std::vector<std::function<void()>> watchers;
  {
    std::lock_guard lock(mutex_);
    CHECK(!ready()) << "the index is set once";
    if (!given_) {
      const uint64_t bytes = built.bytes();
      CHECK(bytes <= index_.bytes()) << bytes << " > " << index_.bytes();
      CHECK(index_.Resize(bytes).ok());
      index_.Give(built.copies.allocated(), &rows_);
      segment_->SetIndex(std::move(built));
    }
    ready_.store(true, std::memory_order_release);
    watchers.swap(watchers_);
  }
  for (const std::function<void()>& done : watchers) done();
}

bool SealedSegment::Watch(SegmentPhase phase, std::function<void()> done) {
  std::lock_guard lock(mutex_);
  if (PhaseLocked() != phase) return false;
  watchers_.push_back(std::move(done));
  return true;
}

absl::Status SealedSegment::open_error() const {
  std::lock_guard lock(mutex_);
  return open_error_;
}

void SealedSegment::AddLife(std::weak_ptr<const SessionLife> life) {
  std::lock_guard lock(mutex_);
  std::erase_if(lives_, [](const auto& weak) { return weak.expired(); });
  lives_.push_back(std::move(life));
}

bool SealedSegment::DiesBefore(base::Time when) const {
  std::lock_guard lock(mutex_);
  bool known = false;
  for (const auto& weak : lives_) {
    const std::shared_ptr<const SessionLife> life = weak.lock();
    if (life == nullptr) continue;
    if (life->end() >= when) return false;
    known = true;
  }
  return known || holders.load() == 0;
}

absl::StatusOr<std::shared_ptr<const StoredSegment>> SealedSegment::Write(SegmentStore* store) {
  std::lock_guard writing(write_mutex_);
  std::shared_ptr<Segment> segment;
  {
    std::lock_guard lock(mutex_);
    if (stored_ != nullptr) return stored_;
    if (!ready()) return absl::FailedPreconditionError("the index is being built");
    segment = segment_;
  }
  const std::shared_ptr<const SegmentRows> rows = segment->rows();
  CHECK(rows != nullptr) << "rows that are not stored were dropped";
  const std::vector<std::byte> index = IndexToStore(*segment, sampler_.get());
  SegmentContent content;
  content.first_position = shape_.first_position;
  content.keys = rows->keys();
  content.values = rows->values();
  content.index = index;
  ASSIGN_OR_RETURN(SegmentStore::Written written, store->Write(content));
  const ContentHash hash = HashRows(content.keys, content.values);
  std::lock_guard lock(mutex_);
  store_ = store;
  stored_ = std::move(written.stored);
  reader_ = std::move(written.reader);
  content_hash_ = hash;
  return stored_;
}

bool SealedSegment::ForgetStored(const std::shared_ptr<const StoredSegment>& place) {
  std::lock_guard writing(write_mutex_);
  std::shared_ptr<const StoredSegment> stored;  // goes without the lock
  std::lock_guard lock(mutex_);
  if (stored_ != place) return true;
  if (segment_ == nullptr || segment_->rows() == nullptr) return false;
  stored.swap(stored_);
  reader_ = nullptr;
  return true;
}

std::shared_ptr<const StoredSegment> SealedSegment::stored() const {
  std::lock_guard lock(mutex_);
  return stored_;
}

ContentHash SealedSegment::content_hash() const {
  std::lock_guard lock(mutex_);
  return content_hash_;
}

// Whoever holds the rows but us would keep them in memory, unaccounted.
uint64_t SealedSegment::DropRows() {
  std::shared_ptr<const SegmentRows> rows;  // goes without the lock
  std::lock_guard lock(mutex_);
  if (stored_ == nullptr || segment_ == nullptr || given_ || !ready()) return 0;
  rows = segment_->rows();
  constexpr int64_t kOurs = 2;  // the segment's and the one above
  if (rows == nullptr || rows.use_count() > kOurs) return 0;
  const uint64_t reader = ReaderBytes(stored_->shape());
  const uint64_t bytes = RowBytesOf(shape_);
  if (bytes <= reader) return 0;
  segment_->SetRows(nullptr);
  rows_.Give(reader, &index_);
  CHECK(rows_.Resize(rows_.bytes() - (bytes - reader)).ok());
  return bytes - reader;
}

uint64_t SealedSegment::DropIndex() {
  std::shared_ptr<Segment> segment;
  std::shared_ptr<const SegmentReader> reader;
  std::lock_guard lock(mutex_);
  if (stored_ == nullptr || segment_ == nullptr || given_ || !ready()) return 0;
  if (segment_->rows() != nullptr || segment_.use_count() > 1) return 0;
  ready_.store(false, std::memory_order_release);
  segment.swap(segment_);
  reader.swap(reader_);
  const uint64_t bytes = rows_.bytes() + index_.bytes();
  CHECK(rows_.Resize(0).ok() && index_.Resize(0).ok());
  return bytes;
}

uint64_t SealedSegment::OpenBytes() const {
  std::lock_guard lock(mutex_);
  if (stored_ == nullptr) return 0;
  const StoredShape& shape = stored_->shape();
  const bool indexed = shape.index_bytes > 0 && sampler_ != nullptr;
  return ReaderBytes(shape) + (indexed ? sampler_->IndexBytesBound(shape_.num_rows) : 0);
}

bool SealedSegment::Open(Reservation room, std::function<void()> over) {
  std::shared_ptr<const StoredSegment> stored;
  {
    std::lock_guard lock(mutex_);
    if (segment_ != nullptr || opening_) return false;
    opening_ = true;
    open_error_ = absl::OkStatus();
    stored = stored_;
  }
  // shared_ptr: std::function wants to be copied.
  auto shared_room = std::make_shared<Reservation>(std::move(room));
  store_->Open(*stored, [self = shared_from_this(), stored, shared_room, over = std::move(over)](
                            absl::StatusOr<std::shared_ptr<SegmentReader>> opened) {
    // Decoding takes a while: not on the disk's thread.
    self->store_->io()->Run([self, shared_room, over, opened = std::move(opened)]() mutable {
      self->OnOpened(std::move(opened), std::move(*shared_room));
      over();
    });
  });
  return true;
}

absl::StatusOr<std::shared_ptr<Segment>> SealedSegment::SegmentOf(
    std::span<const std::byte> index) const {
  ASSIGN_OR_RETURN(std::unique_ptr<Segment> segment, Segment::CreateWithoutRows(shape_));
  BuiltIndex built;
  if (!index.empty()) {
    if (sampler_ == nullptr) return absl::DataLossError("an index of a layer that has none");
    const size_t copies = sampler_->copy_bytes(shape_) * static_cast<size_t>(shape_.num_rows);
    if (index.size() < copies) return absl::DataLossError("an index without its copies of rows");
    ASSIGN_OR_RETURN(built.index,
                     sampler_->DecodeIndex(shape_, index.first(index.size() - copies)));
    if (copies > 0) built.copies = memory::AlignedBuffer::CopyOf(index.last(copies));
  }
  segment->SetIndex(std::move(built));
  return segment;
}

void SealedSegment::OnOpened(absl::StatusOr<std::shared_ptr<SegmentReader>> opened,
                             Reservation room) {
  std::shared_ptr<Segment> segment;
  absl::Status status = opened.status();
  if (status.ok()) {
    auto decoded = SegmentOf((*opened)->TakeIndex());
    if (decoded.ok()) {
      segment = *std::move(decoded);
    } else {
      status = base::Annotate(decoded.status(), (*opened)->Describe());
    }
  }
  std::vector<std::function<void()>> watchers;
  {
    std::lock_guard lock(mutex_);
    opening_ = false;
    watchers.swap(watchers_);
    if (segment != nullptr) {
      const uint64_t copies = segment->row_bytes();
      const uint64_t index = segment->index_bytes() + ReaderBytes(stored_->shape());
      CHECK(copies + index <= room.bytes()) << copies << " + " << index << " > " << room.bytes();
      room.Give(copies, &rows_);
      room.Give(index, &index_);
      segment_ = std::move(segment);
      reader_ = *std::move(opened);
      ready_.store(true, std::memory_order_release);
    } else {
      open_error_ = std::move(status);
    }
  }
  for (const std::function<void()>& done : watchers) done();
}

void SealedSegment::FailOpening(absl::Status why) {
  std::vector<std::function<void()>> watchers;
  {
    std::lock_guard lock(mutex_);
    if (segment_ != nullptr || opening_) return;
    open_error_ = std::move(why);
    watchers.swap(watchers_);
  }
  for (const std::function<void()>& done : watchers) done();
}

uint64_t SealedSegment::LoadBytes() const { return RowBytesOf(shape_); }

void SealedSegment::Load(Reservation room, Loaded done) {
  struct Rows {
    std::vector<uint16_t> ids;
    memory::AlignedBuffer keys;
    memory::AlignedBuffer values;
    Reservation room;
    explicit Rows(Reservation reserved) : room(std::move(reserved)) {}
  };
  const SegmentView view = View();
  if (view.segment == nullptr || view.rows != nullptr) return done(absl::OkStatus());
  loading_ = true;
  const size_t bytes = static_cast<size_t>(shape_.num_rows) * shape_.row_bytes();
  auto rows = std::make_shared<Rows>(std::move(room));
  rows->ids.resize(static_cast<size_t>(shape_.num_rows));
  std::iota(rows->ids.begin(), rows->ids.end(), uint16_t{0});
  rows->keys = memory::AlignedBuffer(bytes);
  rows->values = memory::AlignedBuffer(bytes);
  const RowRead read = {view.store, rows->ids, rows->keys.bytes(), rows->values.bytes()};
  ReadRows(store_->disk(), {read},
           [self = shared_from_this(), segment = view.segment, rows, done = std::move(done)](
               std::span<const absl::Status> statuses, const RowReadCounts&) {
             self->loading_ = false;
             if (!statuses[0].ok()) return done(statuses[0]);
             auto read_rows =
                 SegmentRows::Create(self->shape_, std::move(rows->keys), std::move(rows->values));
             CHECK(read_rows.ok()) << read_rows.status().ToString();
             {
               std::lock_guard lock(self->mutex_);
               if (self->segment_ == segment && segment->rows() == nullptr && !self->given_) {
                 const uint64_t reader = ReaderBytes(self->stored_->shape());
                 rows->room.Give(RowBytesOf(self->shape_), &self->rows_);
                 // Back to what DropRows took it from.
                 CHECK(self->index_.Resize(self->index_.bytes() - reader).ok());
                 self->segment_->SetRows(*std::move(read_rows));
               }
             }
             done(absl::OkStatus());
           });
}

uint64_t SealedSegment::row_bytes() const {
  std::lock_guard lock(mutex_);
  return rows_.bytes();
}

uint64_t SealedSegment::index_bytes() const {
  std::lock_guard lock(mutex_);
  return index_.bytes();
}

SealedSegment::Share SealedSegment::GiveReservation(Reservation* to) {
  std::lock_guard lock(mutex_);
  given_ = true;
  const Share share = {rows_.bytes(), index_.bytes()};
  rows_.Give(share.rows, to);
  index_.Give(share.index, to);
  return share;
}

void SealedSegment::TakeReservation(const Share& share, Reservation* from) {
  std::lock_guard lock(mutex_);
  given_ = false;
  from->Give(share.rows, &rows_);
  from->Give(share.index, &index_);
}

}  // namespace sounder::kv_node
