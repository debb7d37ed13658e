// Attention as the client's user asks for it: checked, signed, and its answers handed back.
#include <algorithm>
#include <cmath>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/dtype.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/kernels/signature.h"
#include "gpu_worker/client/client_access.h"

namespace sounder::gpu_worker {
namespace {

absl::Status CheckNumbers(const client::Query& query, size_t hints) {
  const auto position = [](base::Position value) {
    return value >= -1 && value <= base::kMaxPositions;
  };
  if (query.range.begin < 0 || query.range.end < query.range.begin ||
      query.range.end > base::kMaxPositions) {
    return absl::InvalidArgumentError(
        absl::StrCat("range [", query.range.begin, ", ", query.range.end, ") of positions"));
  }
  if (!position(query.layout_position) || !position(query.causal_from)) {
    return absl::InvalidArgumentError(absl::StrCat("layout position ", query.layout_position,
                                                   ", causal from ", query.causal_from,
                                                   "; expected -1 to ", base::kMaxPositions));
  }
  if (!(std::abs(query.scale) < 1e6f) || !(query.rows_budget >= 0 && query.rows_budget <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("scale ", query.scale, ", rows budget ",
                                                   query.rows_budget,
                                                   "; expected below 1e6, and 0 to 1"));
  }
  if (query.lse_hints == nullptr) return absl::OkStatus();
  const float* const wrong = std::find_if(query.lse_hints, query.lse_hints + hints,
                                          [](float hint) { return !std::isfinite(hint); });
  if (wrong == query.lse_hints + hints) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("an lse hint is ", *wrong, ", expected finite"));
}

}  // namespace

// Signatures of queries as the nodes see them.
std::vector<uint64_t> Sign(const client::Query& query, const RemoteSession& session) {
  const RemoteSessionOptions& options = session.options();
  const size_t rows = size_t{query.query_count} * options.model.query_heads;
  std::vector<float> rounded(query.queries, query.queries + rows * options.model.head_dim);
  for (float& value : rounded) value = base::RoundTo(options.dtype, value);
  const lsh::Projection& projection = *session.projection();
  std::vector<uint64_t> signatures(rows * static_cast<size_t>(projection.params().words()));
  kernels::SignVectors(projection, rounded.data(), options.model.head_dim,
                       static_cast<int64_t>(rows), signatures.data());
  return signatures;
}

absl::Status CheckQuery(const client::Query& query, uint32_t layer, const RemoteSession& session) {
  const RemoteSessionOptions& options = session.options();
  if (layer >= options.model.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", layer, " of a model with ", options.model.layers, " layers"));
  }
  if (query.queries == nullptr || query.query_count == 0 ||
      query.query_count > base::kMaxQueryBlock) {
    return absl::InvalidArgumentError(absl::StrCat(query.query_count, " queries",
                                                   query.queries == nullptr ? " at null" : "",
                                                   ", expected 1 to ", base::kMaxQueryBlock));
  }
  const bool tables = query.attention == client::Attention::kLshTables;
  if ((tables && options.lsh.num_tables == 0) ||
      (query.attention == client::Attention::kSketch && options.sketch.bits == 0)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "session ", session.id().ToString(), " has no ", tables ? "LSH tables" : "sketches"));
  }
  if (query.attention > client::Attention::kSketch) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention ", static_cast<int>(query.attention), " is not known"));
  }
  RETURN_IF_ERROR(CheckNumbers(query, size_t{query.query_count} * options.model.query_heads));
  if (query.range.end > session.end()) {
    return absl::OutOfRangeError(absl::StrCat(
        "range [", query.range.begin, ", ", query.range.end, ") of session ",
        session.id().ToString(), ", to which rows before ", session.end(), " were appended"));
  }
  return absl::OkStatus();
}

}  // namespace sounder::gpu_worker

namespace sounder::client {

struct [[gnu::visibility("hidden")]] PendingAttend::State {
  std::shared_ptr<gpu_worker::KvConnection> connection;
  Query* queries = nullptr;           // the user's
  std::vector<absl::Status> refused;  // one per query: why it was not sent
  // Of those that were.
  std::vector<size_t> places;
  std::vector<std::shared_ptr<gpu_worker::RemoteSession>> sessions;
  std::vector<std::vector<uint64_t>> signatures;
  std::vector<gpu_worker::AttendQuery> asked;
  std::once_flag handed_back;
  std::unique_ptr<gpu_worker::KvClient::PendingAttend> pending;  // goes before what it refers to

  void Add(size_t place, std::shared_ptr<gpu_worker::RemoteSession> session);
  void HandBack();
};

void PendingAttend::State::Add(size_t place, std::shared_ptr<gpu_worker::RemoteSession> session) {
  const Query& query = queries[place];
  gpu_worker::AttendQuery& wanted = asked.emplace_back();
  wanted.session = session.get();
  wanted.queries = query.queries;
  wanted.query_count = query.query_count;
  wanted.range = {query.range.begin, query.range.end};
  wanted.layout_position = query.layout_position < 0 ? query.range.end : query.layout_position;
  wanted.causal_from = query.causal_from;
  wanted.scale = query.scale != 0
                     ? query.scale
                     : 1 / std::sqrt(static_cast<float>(session->options().model.head_dim));
  wanted.attention = static_cast<wire::AttentionKind>(query.attention);
  wanted.sample_key = query.sample_key;
  wanted.step = query.step;
  wanted.rows_budget = query.rows_budget;
  wanted.rows_cap = query.rows_cap;
  wanted.lse_hints = query.lse_hints;
  if (query.attention == Attention::kLshTables) {
    signatures.push_back(gpu_worker::Sign(query, *session));
    wanted.signatures = signatures.back().data();
  }
  places.push_back(place);
  sessions.push_back(std::move(session));
}

void PendingAttend::State::HandBack() {
  for (size_t place = 0; place < refused.size(); ++place) {
    queries[place].status = gpu_worker::ToPublic(refused[place]);
  }
  for (size_t i = 0; i < asked.size(); ++i) {
    Query& query = queries[places[i]];
    query.status = gpu_worker::ToPublic(asked[i].status);
    query.outputs = std::move(asked[i].outputs);
    query.lse = std::move(asked[i].lse);
    query.rows_visible = asked[i].rows_visible;
    query.rows_read = asked[i].rows_read;
  }
}

PendingAttend::PendingAttend(std::unique_ptr<State> state) : state_(std::move(state)) {}

PendingAttend::~PendingAttend() = default;

void PendingAttend::Wait() {
  state_->pending->Wait();
  std::call_once(state_->handed_back, [this] { state_->HandBack(); });
}

bool PendingAttend::Answered() const { return state_->pending->Answered(); }

std::unique_ptr<PendingAttend> Client::StartAttend(uint32_t layer, Query* queries, size_t count,
                                                   std::function<void()> on_answered) {
  auto state = std::make_unique<PendingAttend::State>();
  state->connection = connection_;
  state->queries = queries;
  state->refused.resize(count);
  for (size_t place = 0; place < count; ++place) {
    absl::Status& refused = state->refused[place];
    if (queries[place].session == nullptr) {
      refused = absl::InvalidArgumentError("the query has no session");
      continue;
    }
    const Session::State& session = *queries[place].session->state_;
    if (session.connection != connection_) {
      refused = absl::InvalidArgumentError("session " + session.remote->id().ToString() +
                                           " was opened by another client");
    } else if (session.closed) {
      refused = absl::FailedPreconditionError("session " + session.remote->id().ToString() +
                                              " is closed");
    } else {
      refused = gpu_worker::CheckQuery(queries[place], layer, *session.remote);
    }
    if (refused.ok()) state->Add(place, session.remote);
  }
  // A vector's memory stays where it is when the vector of vectors grows, so signatures do too.
  state->pending = connection_->client().StartAttend(layer, state->asked, std::move(on_answered));
  return std::unique_ptr<PendingAttend>(new PendingAttend(std::move(state)));
}

}  // namespace sounder::client
