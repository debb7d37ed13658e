// A long synthetic session on a real node: rows that are made block by block and never held, and
// queries that change little from step to step, as a decode's do.
#ifndef SOUNDER_TESTS_E2E_SYNTHETIC_SESSION_H_
#define SOUNDER_TESTS_E2E_SYNTHETIC_SESSION_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "bench/generator/synthetic.h"
#include "gpu_worker/kv/kv_client.h"

namespace sounder::e2e {

// One layer, bf16, of the peaked family: attention that samples well. Immutable, thread safe.
class SyntheticRows {
 public:
  static constexpr int kKvHeads = 2;
  static constexpr int kGroup = 4;
  static constexpr int kDim = 128;
  static constexpr int64_t kRowBytes = int64_t{2} * kDim * 2;  // K and V

  SyntheticRows(int64_t positions, uint64_t seed);

  int64_t positions() const { return positions_; }
  uint64_t bytes() const { return static_cast<uint64_t>(positions_) * kKvHeads * kRowBytes; }
  // A session of the shape, with sketches of 128 bits.
  static gpu_worker::RemoteSessionOptions Options(base::SessionId id, uint32_t seal_rows);
  // Appends them to a session that ends where they begin, by default all, and waits for the nodes'
  // acknowledgement. Their last one is a seal mark.
  absl::Status AppendTo(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session) const {
    return AppendTo(client, session, {0, positions_});
  }
  absl::Status AppendTo(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session,
                        base::PositionRange range) const;
  // What a decode step asks with on its own, [query heads, dim].
  std::vector<float> FreshQueries(int64_t step) const;

 private:
  const int64_t positions_;
  std::vector<generator::Head> heads_;
};

// The queries of one step after another: AR(1) with a correlation of .9.
class CorrelatedQueries {
 public:
  // `rows` outlives it.
  explicit CorrelatedQueries(const SyntheticRows* rows);
  // Of the next step, [query heads, dim], rounded; valid until the next call.
  const std::vector<float>& Next();
  int64_t step() const { return step_; }  // of the last Next; -1: there was none

 private:
  const SyntheticRows* const rows_;
  int64_t step_ = -1;
  std::vector<double> state_;
  std::vector<float> rounded_;
};

// Exact attention to all of a session. Refers to the queries.
gpu_worker::AttendQuery WholeQuery(gpu_worker::RemoteSession* session,
                                   const std::vector<float>& queries);
// The next step of `queries`, by sketches, with `budget` of the rows. Valid until their next step.
gpu_worker::AttendQuery SampledQuery(gpu_worker::RemoteSession* session, CorrelatedQueries* queries,
                                     float budget);

}  // namespace sounder::e2e

#endif  // SOUNDER_TESTS_E2E_SYNTHETIC_SESSION_H_
