// A sampler turns (the queries of a group, a segment, a visible row range) into candidates with
// inclusion probabilities and a partial output estimated from them. The estimator is always the
// same: weights exp(s_i) / u_i with s_i = scale * (q . k_i), self-normalised; lse = log of their
// sum. `exact` reads every row.
//
// Thread safety: samplers are immutable; any number of threads may use one, each with a Scratch of
// its own. Determinism: the result is a pure function of segment and query; the set of candidates
// is the same at every SIMD level.
#ifndef SOUNDER_KV_NODE_SAMPLER_SAMPLER_H_
#define SOUNDER_KV_NODE_SAMPLER_SAMPLER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/lsh/lsh_params.h"
#include "common/lsh/projection.h"
#include "kv_node/kernels/sketch.h"
#include "kv_node/sampler/scratch.h"
#include "kv_node/sampler/selection.h"
#include "kv_node/segment/segment.h"

namespace sounder::kv_node {

// What a sampler derives from the queries of a group alone, good for every segment. Immutable.
class PreparedQueries {
 public:
  virtual ~PreparedQueries() = default;
};

// The queries of one group (the query heads that share the segment's kv head) and what they may
// see. With a block of T query positions that see the same rows, group is T times the heads.
struct GroupQuery {
  const float* queries = nullptr;        // [group, dim], packed
  int group = 0;                         // any number
  const uint64_t* signatures = nullptr;  // [group, words] (lsh/signature.h); null for `exact`
  // Of these queries and this scale, by the sampler that attends; null: it prepares them itself.
  const PreparedQueries* prepared = nullptr;
  int64_t row_begin = 0;  // visible rows of the segment: [row_begin, row_end)
  int64_t row_end = 0;
  float scale = 1;

  // Inputs of samplers that draw or budget; `exact` and `lsh_tables` use none of them.
  uint64_t sample_key = 0;
  uint64_t step = 0;  // of decode; draws differ from step to step
  int layer = 0;
  int kv_head = 0;
  // Share of the rows to read, on average over the segments of the session; 0: the sampler's own.
  double row_fraction = 0;
  int64_t row_cap = 0;  // most rows of a segment; 0: none. Lowers the budget before the draw
  // The lse of all sampled rows of the session (every segment, every node), as last known: [group],
  // or empty. Estimates of shares then are shares of the session's attention.
  std::span<const float> lse_hints = {};
  // The mean over the session's sampled rows of the size of a row (its largest share of any query's
  // attention), as last known; 0: unknown. With it and lse_hints a segment's budget follows its
  // part of the session's mass; without, every segment reads the same share of its rows.
  float mean_size_hint = 0;
  // Above 0: attention is known to be diffuse, rows are drawn alike without regard to estimates,
  // this share of them.
  double uniform_fraction = 0;
};

// Terms of the variance of one query's partial output (kv_node/sampler/DESIGN.md): with w_i the
// normalised weights e^(s_i) / Z and u_i the inclusion probabilities,
// a = sum (1 - u_i) / u_i^2 w_i^2 |v_i - o|^2 and b = sum (1 - u_i) / u_i^2 w_i^2 over candidates;
// concentration = sum w_i^2 / u_i over candidates, an estimate of the sum of w^2 over all rows: one
// over the number of rows that attention is spread over.
struct ErrorTerms {
  float a = 0;
  float b = 0;
  float concentration = 0;
};

// What the second step of an attend works on.
struct SelectedWork {
  const Segment& segment;
  const GroupQuery& query;
  const Selection& selection;
  const SelectedRows& source;
  std::span<const uint16_t> rows;  // selection.rows, by their place in `source`

  std::span<const uint16_t> RowsOf(const SelectedPart& part) const {
    return rows.subspan(part.begin, part.count);
  }
  std::span<const float> ProbabilitiesOf(const SelectedPart& part) const {
    return std::span(selection.probabilities).subspan(part.begin, part.count);
  }
};

struct Candidate {
  int64_t row = 0;
  double u = 1;  // inclusion probability
};

class Sampler {
 public:
  virtual ~Sampler() = default;
  virtual std::string_view name() const = 0;
  // The projection queries are to be signed with, or null where signatures are not used.
  virtual const lsh::Projection* projection() const { return nullptr; }

  // The index of a segment, none where its rows are to be attended exactly. InvalidArgument when
  // the rows do not fit the sampler (dim).
  virtual absl::StatusOr<BuiltIndex> BuildIndex(const SegmentRows& rows,
                                                Scratch& scratch) const = 0;

  // Most bytes the index of a segment of `rows` rows takes, copies of rows included.
  virtual size_t IndexBytesBound(int64_t rows) const = 0;

  // An index of this sampler as bytes (index_bytes.h, FORMAT.md), and back. The index that comes
  // back answers as the first did, to the bit. Refused are bytes that are damaged or hostile
  // (DATA_LOSS) and those of another version, sampler or segment (FAILED_PRECONDITION, naming both
  // sides); what is not refused is safe to use. Samplers that build no index read none.
  virtual memory::AlignedBuffer EncodeIndex(const SegmentIndex& index) const;
  virtual absl::StatusOr<std::unique_ptr<SegmentIndex>> DecodeIndex(
      const SegmentShape& shape, std::span<const std::byte> bytes) const;
  // Bytes of the copy of a row that goes with the index, 0: none. Copies are kept as they are in
  // memory, packed; any bytes in them are safe to read rows from.
  virtual size_t copy_bytes([[maybe_unused]] const SegmentShape& shape) const { return 0; }

  // For queries [group, dim] that several segments will be attended with; null where there is
  // nothing to prepare.
  virtual std::unique_ptr<PreparedQueries> Prepare([[maybe_unused]] const float* queries,
                                                   [[maybe_unused]] int group,
                                                   [[maybe_unused]] float scale) const {
    return nullptr;
  }

  // Select looks at the index alone: the rows need not be in memory. Otherwise (samplers for
  // comparison, which look at every row) it must be given them.
  virtual bool selects_without_rows() const { return true; }

  // The first step: which rows the queries need. Fills `selection`. The segment's index must come
  // from a sampler of the same specification. `rows`: of the segment, asked for ahead of use as
  // they are selected, or null.
  void Select(const Segment& segment, const SegmentRows* rows, const GroupQuery& query,
              Scratch& scratch, Selection* selection) const;
  // The second: outputs f32[group, dim], lse f32[group], errors [group] or null, from the rows that
  // were selected for the same segment and query. A query without candidates or visible rows gets
  // the empty partial output (0, -inf). Finite inputs give finite results.
  void AttendSelected(const Segment& segment, const GroupQuery& query, const Selection& selection,
                      const SelectedRows& rows, Scratch& scratch, float* outputs, float* lse,
                      ErrorTerms* errors) const;
  // The two in a row, a part of a large block after the other; the same results to the bit. `rows`:
  // of the segment. stats or null (overwritten).
  void Attend(const Segment& segment, const SegmentRows& rows, const GroupQuery& query,
              Scratch& scratch, float* outputs, float* lse, ErrorTerms* errors,
              AttendStats* stats) const;
  // With the rows as they are in memory, where they must be.
  void Attend(const Segment& segment, const GroupQuery& query, Scratch& scratch, float* outputs,
              float* lse, ErrorTerms* errors, AttendStats* stats) const;

  // What Attend samples for query `member` of the group, through the same code, rows ascending. For
  // tests and audits; the rows are in memory.
  std::vector<Candidate> Candidates(const Segment& segment, const GroupQuery& query, int member,
                                    Scratch& scratch) const;

 protected:
  // The segment's visible rows are all read, and attended exactly.
  virtual bool ReadsAll(const Segment& segment) const { return segment.index() == nullptr; }
  // So many consecutive queries of a group share one sample; a number that a block of more can be
  // cut by.
  virtual int shared_queries() const { return 1; }
  // Adds the parts of queries [first, first + count) and their statistics to `selection`; `first`
  // is a multiple of shared_queries(). The bits of rows seen by this Select or Attend so far are
  // left in scratch.seen() by samplers that tell rows apart by it.
  virtual void SelectQueries(const Segment& segment, const SegmentRows* rows,
                             const GroupQuery& query, int first, int count, Scratch& scratch,
                             Selection* selection) const = 0;
  // Attends the parts of `work.selection`.
  virtual void AttendParts(const SelectedWork& work, Scratch& scratch, float* outputs, float* lse,
                           ErrorTerms* errors) const = 0;
  // Of a part's rows, where the selection does not hold their probabilities yet.
  virtual void InclusionProbabilities(const SelectedWork& work, const SelectedPart& part,
                                      Scratch& scratch, std::vector<double>* u) const;
};

enum class SamplerKind : uint8_t { kExact = 0, kLshTables = 1, kSketch = 2 };

std::string_view NameOf(SamplerKind kind);  // "exact", "lsh_tables", "sketch"

struct SketchParams {
  int bits = 128;             // 64, 128 or 256 sign bits a key
  uint64_t seed = 1;          // of the rotation
  double row_fraction = .02;  // share of the visible rows to read where the query names none
  double floor_share = .03;   // of the rows, drawn without regard to the estimates
  bool int8_rows = false;     // sampled rows are read from a copy in eight bits
};

// How kLshTables uses its tables; by default as MagicPIG does, every query for itself.
struct LshTablesParams {
  // The tables are divided among the query heads of a group, and what any of them finds in its own
  // tables is a candidate for all of them. Needs Gaussian projections.
  bool split = false;
  // Values are read of the rows whose weight matters, and of the others by lot: fewer reads, one
  // more source of error. Not with split tables. What is kept of a sample changes with sample_key
  // and step and, as the only thing a sampler does, may differ between SIMD levels.
  bool value_roulette = false;
};

struct SamplerSpec {
  SamplerKind kind = SamplerKind::kExact;
  lsh::LshParams lsh = {};          // of kLshTables
  LshTablesParams lsh_tables = {};  // of kLshTables
  SketchParams sketch = {};         // of kSketch
  int dim = 128;
  // Query heads that share a kv head, 1..32: so many consecutive queries of a GroupQuery are of one
  // position.
  int group = 1;
  int64_t min_indexed_rows = 1024;  // shorter segments get no index and are attended exactly
};

// InvalidArgument where the specification makes no sense.
absl::StatusOr<std::unique_ptr<Sampler>> MakeSampler(const SamplerSpec& spec);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SAMPLER_SAMPLER_H_
