// One sequence being generated: its tokens, the rows the worker keeps, its session on the nodes.
#ifndef SOUNDER_GPU_WORKER_ENGINE_SEQUENCE_H_
#define SOUNDER_GPU_WORKER_ENGINE_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/engine/sketch_hints.h"
#include "gpu_worker/kv/kv_client.h"
#include "gpu_worker/kv/local_rows.h"

namespace sounder::gpu_worker {

// How a layer attends to what lies between sinks and window.
enum class LayerMode : uint8_t {
  kExactLocal,  // every row stays on the worker
  kExact,       // every row, on the nodes
  kLsh,         // sampled by the session's LSH tables, on the nodes
  kSketch,      // sampled by the session's sketches, on the nodes
};

constexpr bool IsSampled(LayerMode mode) {
  return mode == LayerMode::kLsh || mode == LayerMode::kSketch;
}

// Sums over the layers and steps of a turn.
struct AttentionCounts {
  // Decode.
  uint64_t positions = 0;        // (query head, position) pairs in reach, in sampled layers
  uint64_t positions_exact = 0;  // of those, attended exactly: sinks, window, tails, short segments
  uint64_t rows_visible = 0;     // of those, on the nodes
  uint64_t rows_read = 0;        // of those, read there
  uint64_t rows_loaded = 0;      // distinct rows read there, per kv head
  uint64_t sketched = 0;         // kv heads asked for by sketch
  uint64_t drawn_alike = 0;      // of those, rows drawn alike
  double audited_error = 0;      // sum of |o - o*| / |o*| of audited outputs
  uint64_t audited = 0;          // how many
  // Prefill against the nodes.
  uint64_t prefill_blocks = 0;       // of queries, summed over layers
  uint64_t prefill_rows_loaded = 0;  // rows read there, per kv head: for a block once each

  AttentionCounts& operator+=(const AttentionCounts& other);
};

// What belongs to one turn begins anew with the next.
struct Sequence {
  std::string id;
  bool numeric_id = false;  // it came as an integer, and goes as one
  bool in_turns = false;    // it came as a list of turns, and its answers are numbered

  std::vector<int32_t> tokens;  // of all turns: what was asked, what was generated
  // Those of the rows that another worker computed, until `tokens` has got as far. Empty: none.
  std::vector<int32_t> adopted;
  std::shared_ptr<RemoteSession> session;    // null when every layer is local
  std::vector<std::vector<LocalRows>> rows;  // [layer][kv head]
  int64_t positions = 0;                     // rows computed so far
  base::Position shipped = 0;                // rows before it are on the nodes, or on their way
  std::vector<base::Position> marks;         // seal marks at the ends of prompts, ascending
  uint64_t sample_key = 0;                   // SampleKeyOf its prompt
  int64_t steps = 0;                         // decode steps done so far: the number of the next one
  absl::Status status;                       // not OK: ended by it

  // Of the turn.
  int64_t turn = 0;          // 1, 2, 3, ...
  bool last_turn = true;     // of its prompt
  size_t turn_begin = 0;     // tokens before it
  size_t prompt_tokens = 0;  // tokens before what it generates, of all turns
  int64_t max_tokens = 0;    // at most so many
  std::optional<std::vector<int32_t>> forced;
  std::vector<SketchHints> hints;  // [layer] once one was sampled by sketch
  AttentionCounts counts;
  double prefill_seconds = 0;
  double decode_seconds = 0;
  int64_t decode_steps = 0;
  uint64_t node_memory = 0;  // accounted bytes on all nodes as it ended, if measured

  size_t generated() const { return tokens.size() - prompt_tokens; }
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_ENGINE_SEQUENCE_H_
