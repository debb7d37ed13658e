// What a session holds at one moment, for its records (session_journal.h).
#ifndef SOUNDER_KV_NODE_SESSION_SESSION_IMAGE_H_
#define SOUNDER_KV_NODE_SESSION_SESSION_IMAGE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "kv_node/session/sealed_segment.h"
#include "kv_node/session/shared_rows.h"
#include "kv_node/session/token_runs.h"
#include "kv_node/store/records.h"

namespace sounder::kv_node {

// What there is of a (layer, kv head). Segments before `first_segment` are as they were recorded.
struct StreamImage {
  uint32_t layer = 0;
  uint32_t kv_head = 0;
  int dim = 0;
  base::DType dtype = base::DType::kBF16;
  size_t first_segment = 0;
  std::vector<std::shared_ptr<SealedSegment>> segments;  // the others
  // What the last of them are being merged into, with rows behind them; then nothing follows.
  std::shared_ptr<SealedSegment> merging;
  std::shared_ptr<const SegmentRows> merging_rows;
  // Behind them: the first rows of a segment that was cut, or a tail, or nothing.
  std::shared_ptr<SealedSegment> cut;
  std::shared_ptr<const TailRows> tail;
  base::Position tail_first = 0;
  int64_t tail_rows = 0;
};

struct SessionImage {
  SessionRecord record;
  std::vector<StreamImage> streams;
  // From the block on that tokens_from lies in.
  std::vector<TokenRuns::Ids> tokens;
  base::Position tokens_from = 0;
  // Whatever lies before it has not changed since the last image, but for what was added.
  base::Position unchanged_before = 0;
};

// What is recorded: an image need only hold what lies behind it.
struct RecordedExtent {
  std::vector<size_t> segments;  // by stream; empty: nothing
  base::Position tokens = 0;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_SESSION_IMAGE_H_
