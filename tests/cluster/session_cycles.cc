#include "tests/cluster/session_cycles.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace sounder::tests {
namespace {

constexpr Shape kShape{
    .layers = 2, .kv_heads = 2, .group = 2, .dim = 16, .dtype = base::DType::kBF16};
constexpr int64_t kRows = 128;  // of a session and what is appended to its fork

gpu_worker::RemoteSessionOptions OptionsOf(int64_t cycle) {
  gpu_worker::RemoteSessionOptions options =
      SessionOptions(kShape, static_cast<uint64_t>(cycle) + 1, /*seal_rows=*/16);
  options.min_indexed_rows = 8;
  options.shard_rows = 32;  // over every node
  options.indexed_layers = {0, 1};
  options.ttl_seconds = cycle % 3 == 0 ? 3600 : 0;
  if (cycle % 2 == 0) {
    options.lsh = {4, 6, 2, wire::Projection::kHadamard, 1};
  } else {
    options.sketch = {64, 1};
    options.row_format = wire::RowFormat::kInt8;
  }
  return options;
}

std::vector<int32_t> Tokens() {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < kRows; ++i) tokens.push_back(1000 + i);
  return tokens;
}

}  // namespace

SessionCycles::SessionCycles(gpu_worker::KvClient* client, uint64_t seed)
    : client_(client),
      random_(seed, 41),
      rows_(TestRows::Gaussian(kShape, kRows, seed)),
      tokens_(Tokens()),
      queries_(GaussianQueries(kShape, 1, seed)) {}

std::string SessionCycles::Run(int cycles) {
  for (int i = 0; i < cycles; ++i) {
    const absl::Status status = Cycle();
    ++cycles_;
    if (!status.ok()) return absl::StrCat("cycle ", cycles_, ": ", status.ToString());
  }
  return "";
}

absl::Status SessionCycles::Append(gpu_worker::RemoteSession* session, base::PositionRange range) {
  gpu_worker::AppendRows rows = rows_.Range(range, /*seal_after=*/random_.NextBelow(8) == 0);
  rows.tokens = std::span(tokens_).subspan(static_cast<size_t>(range.begin),
                                           static_cast<size_t>(range.size()));
  return client_->Append(session, rows);
}

absl::Status SessionCycles::Attend(gpu_worker::RemoteSession* session, bool sampled) {
  std::vector<gpu_worker::AttendQuery> queries{ExactQuery(session, queries_, {0, session->end()})};
  std::vector<uint64_t> signatures;
  if (sampled) {
    SampleByIndex(&queries[0], &signatures);
    queries[0].rows_budget = .25f;
  }
  const uint32_t layer = random_.NextBelow(kShape.layers);
  client_->StartAttend(layer, queries)->Wait();
  if (sampled) rows_not_read_ += queries[0].rows_visible - queries[0].rows_read;
  return queries[0].status;
}

absl::Status SessionCycles::Cycle() {
  const int64_t length = 48 + random_.NextBelow(32);
  ASSIGN_OR_RETURN(Session session, client_->Open(OptionsOf(cycles_)));
  RETURN_IF_ERROR(Append(session.get(), {0, length}));
  RETURN_IF_ERROR(Attend(session.get(), /*sampled=*/false));
  RETURN_IF_ERROR(Attend(session.get(), /*sampled=*/true));
  const base::Position place = 1 + random_.NextBelow(static_cast<uint32_t>(length));
  ASSIGN_OR_RETURN(Session fork, client_->Fork(session.get(), place));
  RETURN_IF_ERROR(Append(fork.get(), {place, place + 20 + random_.NextBelow(20)}));
  RETURN_IF_ERROR(
      client_->Truncate(session.get(), random_.NextBelow(static_cast<uint32_t>(length))));
  RETURN_IF_ERROR(Attend(session.get(), /*sampled=*/false));
  RETURN_IF_ERROR(Attend(fork.get(), /*sampled=*/true));
  if (random_.NextBelow(8) == 0) {
    Session& left = random_.NextBelow(2) == 0 ? session : fork;
    RETURN_IF_ERROR(client_->WaitAppended(left.get(), left->end()));
    ASSIGN_OR_RETURN(gpu_worker::AdoptedSession adopted,
                     client_->Adopt(left->id(), left->options().tenant));
    left = std::move(adopted.session);
    ++adoptions_;
  }
  if (random_.NextBelow(2) == 0) std::swap(session, fork);
  RETURN_IF_ERROR(client_->Close(session.get()));
  RETURN_IF_ERROR(Attend(fork.get(), /*sampled=*/true));
  if (leak_every_ > 0 && cycles_ % leak_every_ == 0) return absl::OkStatus();
  return client_->Close(fork.get());
}

}  // namespace sounder::tests
