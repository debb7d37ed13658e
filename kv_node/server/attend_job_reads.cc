// The part of an Attend whose rows are in the store: whether it may read them, which, and when.
#include <algorithm>
#include <cmath>
#include <utility>

#include "common/base/check.h"
#include "kv_node/server/attend_job.h"

namespace sounder::kv_node {
namespace {

// Reads of so many units, or bytes, are in flight as one batch: enough for one call of the disk to
// be cheap, and few enough that the first are attended while the others are on their way.
constexpr size_t kUnitsPerRead = 16;
constexpr uint64_t kBytesPerRead = uint64_t{8} << 20;
// A unit of which not yet is known what it reads asks for no more than this part of the room.
constexpr uint64_t kUnknownRoomShare = 16;
// Of the rows of a sampled unit, where the request leaves it to the node.
constexpr float kUsualShare = .02f;

}  // namespace

// All that the job will read, by estimate; false: that would come too late, as the reply says.
bool AttendJob::TakeReads() {
  uint64_t reads = 0;
  for (Unit& unit : units_) {
    if (unit.piece.in_memory()) continue;
    CHECK(rows_ != nullptr) << "rows in a store, on a node without one";
    unit.stored = std::make_unique<StoredPiece>(unit.piece);
    unit.room = RoomOf(unit);
    unit.reads = ReadsOf(unit);
    reads += unit.reads;
  }
  if (reads == 0) return true;
  AttendQueue::Refused refused;
  if (queue_->TakeReads(number_, reads, arrival_, deadline_, &refused)) {
    reads_ = reads;
    return true;
  }
  reply_.envelope.status = refused.status;
  reply_.envelope.retry_after_us = static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(refused.retry_after).count());
  return false;
}

// Bytes that a unit will probably read: those of all its pages, or of one for each sampled row.
uint64_t AttendJob::ReadsOf(const Unit& unit) const {
  const auto rows = static_cast<uint64_t>(unit.piece.rows());
  const uint64_t all = MostPageBytes(*unit.piece.store, rows);
  if (unit.sampler == nullptr) return all;
  if (!unit.piece.segment->copies().empty()) return 0;
  const wire::AttendItem& item = request_.items[heads_[unit.head_work].item];
  if (StoredPiece::TakesAll(*unit.piece.segment, item.query_count * item.group)) return all;
  const float share = item.rows_budget > 0 ? item.rows_budget : kUsualShare;
  const double pages = std::ceil(static_cast<double>(rows) * std::min(share, 1.f));
  const uint64_t sampled = static_cast<uint64_t>(pages) * kPageBytes;
  return 2 * sampled > all ? all : sampled;
}

// What a stored unit needs, as far as that is known before it is chosen what it reads.
uint64_t AttendJob::RoomOf(const Unit& unit) const {
  const uint64_t all = unit.stored->bytes_of_all();
  if (unit.sampler == nullptr) return all;
  if (!unit.piece.segment->copies().empty()) return 0;  // reads those
  return std::min(all, queue_->reads().limit() / kUnknownRoomShare);
}

bool AttendJob::IsBatch(const Reads& reads) {
  return reads.units.size() >= kUnitsPerRead || reads.bytes >= kBytesPerRead;
}

// One batch of all of them, in flight together.
void AttendJob::Submit(Reads* reads) {
  if (reads->units.empty()) return;
  std::vector<RowRequest> requests;
  for (const uint32_t unit : reads->units) requests.push_back(units_[unit].stored->Request());
  rows_->Read(std::move(requests),
              [self = shared_from_this(), units = std::exchange(*reads, {}).units](
                  std::span<const absl::Status> statuses) { self->OnRead(units, statuses); });
}

// Mostly on the disk's thread, which has other reads to look after: nothing is attended here.
void AttendJob::OnRead(const std::vector<uint32_t>& units, std::span<const absl::Status> statuses) {
  for (size_t i = 0; i < units.size(); ++i) units_[units[i]].status = statuses[i];
  const auto most_runners = static_cast<size_t>(queue_->threads());
  for (size_t more = steps_.Arrived(units, most_runners); more > 0; --more) {
    queue_->Resume(number_, [self = shared_from_this()] { self->RunUnits(/*again=*/true); });
  }
}

// Which rows of a stored unit to read; false: none, and it can be attended.
bool AttendJob::Choose(Unit& unit, Scratch& scratch) {
  if (unit.sampler == nullptr) {
    unit.stored->TakeAll();
  } else {
    unit.stored->TakeSampled(*unit.sampler, QueryOf(unit), scratch);
  }
  if (!unit.stored->reads()) return false;
  queue_->reads().Settle(unit.room, unit.stored->bytes());
  unit.room = unit.stored->bytes();
  steps_.Reads();
  return true;
}

}  // namespace sounder::kv_node
