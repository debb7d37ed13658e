#include "kv_node/server/stored_piece.h"

#include <numeric>
#include <utility>

#include "common/base/check.h"

namespace sounder::kv_node {
namespace {

// A selection holds the rows of each part of its queries. Beyond so many queries it may be larger
// than the rows, and as a rule they need most of them.
constexpr int kMostSelectedQueries = 256;

}  // namespace

StoredPiece::StoredPiece(const Piece& piece)
    : segment_(piece.segment),
      store_(piece.store),
      row_begin_(piece.row_begin),
      row_end_(piece.row_end) {
  CHECK(!piece.in_memory() && store_ != nullptr) << "rows that are nowhere";
  CHECK(store_->shape().num_rows == segment_->num_rows() &&
        store_->shape().row_bytes() == 2 * row_bytes())
      << store_->Describe() << " holds another segment";
}

void StoredPiece::TakeAll() {
  rows_.resize(static_cast<size_t>(row_end_ - row_begin_));
  std::iota(rows_.begin(), rows_.end(), static_cast<uint16_t>(row_begin_));
}

void StoredPiece::TakeSampled(const Sampler& sampler, const GroupQuery& query, Scratch& scratch) {
  // Of copies, and without an index, a selection is small.
  if (segment_->index() != nullptr && TakesAll(*segment_, query.group)) {
    whole_segment_ = true;
    TakeAll();
    return;
  }
  sampler.Select(*segment_, nullptr, query, scratch, &selection_);
  if (selection_.from_copies) return;
  rows_ = selection_.DistinctRows();
  sampled_ = !selection_.all_visible;
  if (sampled_ && TouchesMostPages()) {
    sampled_ = false;
    TakeAll();
  }
}

bool StoredPiece::TakesAll(const Segment& segment, int queries) {
  return segment.copies().empty() && (queries > kMostSelectedQueries || segment.index() == nullptr);
}

// Then one run of pages is read sooner than many short ones.
bool StoredPiece::TouchesMostPages() const {
  const size_t bytes = store_->shape().row_bytes();
  size_t pages = 0;
  size_t last = SIZE_MAX;
  for (const uint16_t row : rows_) {
    const size_t page = row * bytes / kPageBytes;
    if (page != last) ++pages;
    last = page;
  }
  return pages * kPageBytes * 2 > static_cast<size_t>(row_end_ - row_begin_) * bytes;
}

size_t StoredPiece::room() const {
  return whole_segment_ ? static_cast<size_t>(segment_->num_rows()) : rows_.size();
}

uint64_t StoredPiece::bytes() const {
  return room() * 2 * row_bytes() + rows_.size() * sizeof(uint16_t) + selection_.bytes() +
         MostPageBytes(*store_, rows_.size());
}

uint64_t StoredPiece::bytes_of_all() const {
  const auto rows = static_cast<size_t>(row_end_ - row_begin_);
  return rows * (2 * row_bytes() + sizeof(uint16_t)) + MostPageBytes(*store_, rows);
}

RowRequest StoredPiece::Request() {
  const size_t first = whole_segment_ ? static_cast<size_t>(row_begin_) : 0;
  keys_ = memory::AlignedBuffer(room() * row_bytes());
  values_ = memory::AlignedBuffer(room() * row_bytes());
  const size_t bytes = rows_.size() * row_bytes();
  return {store_, rows_, keys_.bytes().subspan(first * row_bytes(), bytes),
          values_.bytes().subspan(first * row_bytes(), bytes), sampled_};
}

memory::RowsView StoredPiece::ViewOf(const memory::AlignedBuffer& buffer) const {
  return {buffer.data(), static_cast<int64_t>(rows_.size()), static_cast<int64_t>(row_bytes()),
          segment_->dim(), segment_->dtype()};
}

void StoredPiece::Attend(const Sampler& sampler, const GroupQuery& query, Scratch& scratch,
                         float* outputs, float* lse, ErrorTerms* errors, AttendStats* stats) {
  if (whole_segment_) {
    // Rows that are not visible are not looked at.
    auto rows = SegmentRows::Create(segment_->shape(), std::move(keys_), std::move(values_));
    CHECK(rows.ok()) << rows.status().ToString();
    sampler.Attend(*segment_, **rows, query, scratch, outputs, lse, errors, stats);
    return;
  }
  const SelectedRows source =
      selection_.from_copies
          ? SelectedRows{.keys = {}, .values = {}, .copies = segment_->copies().data()}
          : SelectedRows{.keys = keys(), .values = values(), .copies = nullptr, .ids = &rows_};
  sampler.AttendSelected(*segment_, query, selection_, source, scratch, outputs, lse, errors);
  *stats = selection_.stats;
}

void StoredPiece::Release() {
  keys_ = memory::AlignedBuffer();
  values_ = memory::AlignedBuffer();
  rows_ = std::vector<uint16_t>();
  selection_ = Selection();
}

}  // namespace sounder::kv_node
