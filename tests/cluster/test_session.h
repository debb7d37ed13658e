// Sessions with made-up rows, and what is to be known about their attention.
#ifndef SOUNDER_TESTS_CLUSTER_TEST_SESSION_H_
#define SOUNDER_TESTS_CLUSTER_TEST_SESSION_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/memory/aligned_buffer.h"
#include "common/memory/rows_view.h"
#include "gpu_worker/kv/kv_client.h"

namespace sounder::tests {

struct Shape {
  uint32_t layers = 1;
  uint32_t kv_heads = 1;
  uint32_t group = 1;
  uint32_t dim = 8;
  base::DType dtype = base::DType::kF32;

  uint32_t query_heads() const { return kv_heads * group; }
};

// A model identity of that shape.
wire::ModelIdentity IdentityOf(const Shape& shape);
// Options of a session of that shape: the id made from `number`, seal marks every `seal_rows`.
gpu_worker::RemoteSessionOptions SessionOptions(const Shape& shape, uint64_t number,
                                                uint32_t seal_rows);

// Keys and values of every layer, kv head and position of a session.
class TestRows {
 public:
  using Element =
      std::function<float(uint32_t layer, uint32_t head, base::Position position, int column)>;
  TestRows(const Shape& shape, int64_t positions, const Element& key, const Element& value);
  // Independent normal numbers.
  static TestRows Gaussian(const Shape& shape, int64_t positions, uint64_t seed);
  // Keys of zeros, so that every logit is 0, and values that say which position they are of: 1 at
  // column `position`. Needs dim >= positions.
  static TestRows Indicators(const Shape& shape, int64_t positions);

  int64_t positions() const { return positions_; }
  const Shape& shape() const { return shape_; }
  // Rows of `range` for KvClient::Append; refers to this object.
  gpu_worker::AppendRows Range(base::PositionRange range, bool seal_after) const;
  memory::RowsView Keys(uint32_t layer, uint32_t head) const { return View(keys_, layer, head); }
  memory::RowsView Values(uint32_t layer, uint32_t head) const {
    return View(values_, layer, head);
  }

 private:
  memory::RowsView View(const std::vector<memory::AlignedBuffer>& rows, uint32_t layer,
                        uint32_t head) const;
  Shape shape_;
  int64_t positions_;
  std::vector<memory::AlignedBuffer> keys_;  // [layer * kv_heads + head], [positions, dim]
  std::vector<memory::AlignedBuffer> values_;
};

// Normal numbers [count, query heads, dim], rounded to the shape's dtype.
std::vector<float> GaussianQueries(const Shape& shape, uint32_t count, uint64_t seed);

// The signatures of queries [count, query heads, dim] under a session's projection.
std::vector<uint64_t> Sign(const gpu_worker::RemoteSession& session,
                           std::span<const float> queries);

// A query block for exact attention to `range`.
gpu_worker::AttendQuery ExactQuery(gpu_worker::RemoteSession* session,
                                   std::span<const float> queries, base::PositionRange range);

// Makes it sampled attention by whatever index its session has; false if there is none. Signatures
// are kept in `signatures`.
bool SampleByIndex(gpu_worker::AttendQuery* query, std::vector<uint64_t>* signatures);

// Exact attention in float64.
struct Reference {
  std::vector<double> outputs;  // [count, query heads, dim]
  std::vector<double> lse;      // [count, query heads]
};
// `causal_from` as in AttendQuery.
Reference ReferenceOf(const TestRows& rows, uint32_t layer, std::span<const float> queries,
                      base::PositionRange range, float scale, base::Position causal_from = -1);
// The largest difference of an answer to the reference, over outputs and lse; infinite if lengths
// or empty sets disagree.
double Distance(const gpu_worker::AttendQuery& query, const Reference& reference);

// What is wrong with an answer over Indicators rows, for one query head: nothing, or a text that
// names the first position that was counted more or less often than once in `range`, or at all
// outside of it. `output` has as many columns as positions exist.
std::optional<std::string> CoverageFault(std::span<const float> output, float lse,
                                         base::PositionRange range);
// The same over all query heads of an answer, for the query's own range.
std::optional<std::string> CoverageFault(const gpu_worker::AttendQuery& query);

}  // namespace sounder::tests

#endif  // SOUNDER_TESTS_CLUSTER_TEST_SESSION_H_
