// Sequences that go back to an earlier position, and the rows that the worker then needs again.
#include <algorithm>

#include "common/base/status_macros.h"
#include "gpu_worker/engine/sequence_runner.h"

namespace sounder::gpu_worker {

absl::Status SequenceRunner::TakeBack(Sequence* sequence, base::Position positions) {
  if (positions < sequence->shipped) {
    RETURN_IF_ERROR(client_->Truncate(sequence->session.get(), positions));
    sequence->shipped = positions;
  }
  // A mark at the end stays, on the nodes as well.
  std::erase_if(sequence->marks, [=](base::Position mark) { return mark > positions; });
  sequence->positions = positions;
  return LoadRows(sequence);
}

// Of every layer sinks and window; of a local one all rows, which nothing drops.
absl::Status SequenceRunner::LoadRows(Sequence* sequence) {
  const base::Position end = sequence->positions;
  const base::Position sinks = std::min(options_.attention.sinks, end);
  for (uint32_t layer = 0; layer < sequence->rows.size(); ++layer) {
    const bool local = options_.attention.layers[layer] == LayerMode::kExactLocal;
    const base::Position window = local ? sinks : attention_.WindowBegin(end);
    std::vector<LocalRows>& heads = sequence->rows[layer];
    const base::Position had = heads.front().end();
    const bool held = heads.front().window_begin() <= window && had >= end;
    for (LocalRows& rows : heads) rows.Truncate(held ? end : std::min(had, sinks));
    if (held) continue;
    RETURN_IF_ERROR(LoadRows(*sequence, layer, {heads.front().end(), sinks}, &heads));
    RETURN_IF_ERROR(LoadRows(*sequence, layer, {window, end}, &heads));
  }
  return absl::OkStatus();
}

absl::Status SequenceRunner::LoadRows(const Sequence& sequence, uint32_t layer,
                                      base::PositionRange range, std::vector<LocalRows>* heads) {
  if (range.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const RemoteRows rows, client_->Fetch(sequence.session.get(), layer, range));
  const size_t head_bytes = rows.keys.size() / heads->size();
  for (size_t head = 0; head < heads->size(); ++head) {
    (*heads)[head].Load(range, rows.keys.data() + head * head_bytes,
                        rows.values.data() + head * head_bytes);
  }
  return absl::OkStatus();
}

}  // namespace sounder::gpu_worker
