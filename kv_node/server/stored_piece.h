// A piece of an attend (or a part of one) whose rows are in the store: which of them to read, the
// memory they are read into, and the attend once they are there. Same answers as with the rows in
// memory, to the bit.
#ifndef SOUNDER_KV_NODE_SERVER_STORED_PIECE_H_
#define SOUNDER_KV_NODE_SERVER_STORED_PIECE_H_

#include <cstdint>
#include <vector>

#include "common/memory/aligned_buffer.h"
#include "common/memory/rows_view.h"
#include "kv_node/sampler/sampler.h"
#include "kv_node/session/row_stream.h"
#include "kv_node/store/row_source.h"

namespace sounder::kv_node {

// In this order: one of the two that take rows, Request if there are rows to read, the attend when
// they were read, Release. Not thread safe.
class StoredPiece {
 public:
  // A piece that is not in memory.
  explicit StoredPiece(const Piece& piece);

  // Every row of the piece.
  void TakeAll();
  // What the sampler selects for the query: the sampled rows, none if it reads copies that are in
  // memory, or all where that reads hardly more or where there are too many queries to select for.
  void TakeSampled(const Sampler& sampler, const GroupQuery& query, Scratch& scratch);

  bool reads() const { return !rows_.empty(); }
  // Whether a piece of the segment takes every row for so many queries, sampled or not.
  static bool TakesAll(const Segment& segment, int queries);

  // Memory that the selection takes and the reads will, at most, until Release.
  uint64_t bytes() const;
  // The same of a piece of which every row is taken, before it is.
  uint64_t bytes_of_all() const;
  // Allocates.
  RowRequest Request();

  // After TakeAll: the piece's rows.
  memory::RowsView keys() const { return ViewOf(keys_); }
  memory::RowsView values() const { return ViewOf(values_); }
  // After TakeSampled, with the same sampler and query. As Sampler::Attend.
  void Attend(const Sampler& sampler, const GroupQuery& query, Scratch& scratch, float* outputs,
              float* lse, ErrorTerms* errors, AttendStats* stats);
  // Gives the memory back.
  void Release();

 private:
  memory::RowsView ViewOf(const memory::AlignedBuffer& buffer) const;
  bool TouchesMostPages() const;
  // Rows that there is memory for.
  size_t room() const;
  size_t row_bytes() const { return segment_->shape().row_bytes(); }

  const std::shared_ptr<const Segment> segment_;
  const std::shared_ptr<const SegmentReader> store_;
  const int64_t row_begin_;
  const int64_t row_end_;
  Selection selection_;
  bool sampled_ = false;        // the rows are a sample
  bool whole_segment_ = false;  // they lie where they do in the segment; nothing is selected yet
  std::vector<uint16_t> rows_;  // to read, ascending
  memory::AlignedBuffer keys_;
  memory::AlignedBuffer values_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_STORED_PIECE_H_
