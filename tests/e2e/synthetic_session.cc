#include "tests/e2e/synthetic_session.h"

#include <algorithm>
#include <cmath>

#include "common/base/status_macros.h"

namespace sounder::e2e {

SyntheticRows::SyntheticRows(int64_t positions, uint64_t seed) : positions_(positions) {
  const generator::Cache cache({.family = generator::Family::kPeaked,
                                .seed = seed,
                                .dim = kDim,
                                .group = kGroup,
                                .n = positions});
  for (int head = 0; head < kKvHeads; ++head) heads_.push_back(cache.MakeHead(0, head));
}

gpu_worker::RemoteSessionOptions SyntheticRows::Options(base::SessionId id, uint32_t seal_rows) {
  gpu_worker::RemoteSessionOptions options;
  options.id = id;
  options.model = {"synthetic", "", 1, kKvHeads, kKvHeads * kGroup, kDim, "", ""};
  options.sketch = {128, 5};
  options.indexed_layers = {0};
  options.seal_rows = seal_rows;
  options.min_indexed_rows = 256;
  return options;
}

absl::Status SyntheticRows::AppendTo(gpu_worker::KvClient& client,
                                     gpu_worker::RemoteSession* session,
                                     base::PositionRange range) const {
  constexpr size_t kHalf = kRowBytes / 2;
  std::vector<std::vector<std::byte>> keys(kKvHeads), values(kKvHeads);
  for (int64_t begin = range.begin; begin < range.end; begin += generator::kBlockRows) {
    const int64_t end = std::min(begin + generator::kBlockRows, range.end);
    for (size_t head = 0; head < kKvHeads; ++head) {
      keys[head].resize(static_cast<size_t>(end - begin) * kHalf);
      values[head].resize(keys[head].size());
      heads_[head].RowsAs(base::DType::kBF16, begin, end, keys[head].data(), values[head].data(),
                          kHalf);
    }
    gpu_worker::AppendRows rows;
    rows.first_position = begin;
    rows.row_count = end - begin;
    rows.seal_after = end == range.end;
    rows.rows = [&](uint32_t, uint32_t head) {
      return gpu_worker::AppendRows::Head{keys[head], values[head]};
    };
    RETURN_IF_ERROR(client.Append(session, rows));
    RETURN_IF_ERROR(client.WaitAppended(session, end));
  }
  return absl::OkStatus();
}

std::vector<float> SyntheticRows::FreshQueries(int64_t step) const {
  std::vector<float> queries;
  for (const generator::Head& head : heads_) {
    const std::vector<float> of_head = head.Queries(step);
    queries.insert(queries.end(), of_head.begin(), of_head.end());
  }
  return queries;
}

CorrelatedQueries::CorrelatedQueries(const SyntheticRows* rows) : rows_(rows) {}

const std::vector<float>& CorrelatedQueries::Next() {
  constexpr double kRho = .9;
  const std::vector<float> fresh = rows_->FreshQueries(++step_);
  if (state_.empty()) state_.assign(fresh.begin(), fresh.end());
  rounded_.resize(fresh.size());
  for (size_t i = 0; i < fresh.size(); ++i) {
    if (step_ > 0) state_[i] = kRho * state_[i] + std::sqrt(1 - kRho * kRho) * double{fresh[i]};
    rounded_[i] = base::RoundTo(base::DType::kBF16, static_cast<float>(state_[i]));
  }
  return rounded_;
}

gpu_worker::AttendQuery WholeQuery(gpu_worker::RemoteSession* session,
                                   const std::vector<float>& queries) {
  gpu_worker::AttendQuery query;
  query.session = session;
  query.queries = queries.data();
  query.range = {0, session->end()};
  query.layout_position = session->end();
  query.scale = 1 / std::sqrt(static_cast<float>(SyntheticRows::kDim));
  return query;
}

gpu_worker::AttendQuery SampledQuery(gpu_worker::RemoteSession* session, CorrelatedQueries* queries,
                                     float budget) {
  gpu_worker::AttendQuery query = WholeQuery(session, queries->Next());
  query.attention = wire::AttentionKind::kSketch;
  query.rows_budget = budget;
  query.sample_key = 9;
  query.step = static_cast<uint64_t>(queries->step());
  return query;
}

}  // namespace sounder::e2e
