#include "tests/cluster/fault_script.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/status_macros.h"

namespace sounder::tests {
namespace {

constexpr int kActions = 25;
constexpr int kMostTries = 600;  // one takes a dozen messages, each of which may be lost
constexpr int64_t kPositions = 100;
constexpr int kVersions = 4;

RowVersions MakeRows(uint64_t seed) {
  base::PhiloxStream random(seed, 21);
  const Shape shape{1 + random.NextBelow(2), 1 + random.NextBelow(2), 1 + random.NextBelow(2), 16,
                    random.NextBelow(2) == 0 ? base::DType::kF32 : base::DType::kBF16};
  return RowVersions(shape, kPositions, kVersions, seed);
}

gpu_worker::RemoteSessionOptions MakeOptions(uint64_t seed, const Shape& shape) {
  base::PhiloxStream random(seed, 22);
  const uint32_t seal_rows = 4 + random.NextBelow(13);
  gpu_worker::RemoteSessionOptions options = SessionOptions(shape, 0, seal_rows);
  options.shard_rows = int64_t{seal_rows} * random.NextBelow(3);
  options.head_shards = 1 + static_cast<int>(random.NextBelow(std::min(2u, shape.kv_heads)));
  options.min_indexed_rows = 1 + random.NextBelow(8);
  for (uint32_t layer = 0; layer < shape.layers; ++layer) options.indexed_layers.push_back(layer);
  const uint32_t index = random.NextBelow(4);
  if (index == 0) options.lsh = {4, 6, 2, wire::Projection::kHadamard, 1};
  if (index == 1 || index == 2) options.sketch = {64, 1};
  if (index == 2) options.row_format = wire::RowFormat::kInt8;
  return options;
}

template <typename T>
void AddBits(const std::vector<T>& values, std::string* bits) {
  bits->append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

std::string BitsOf(const std::vector<gpu_worker::AttendQuery>& queries) {
  std::string bits;
  for (const gpu_worker::AttendQuery& query : queries) {
    AddBits(query.outputs, &bits);
    AddBits(query.lse, &bits);
    AddBits(query.head_mass, &bits);
    AddBits(query.concentration, &bits);
    AddBits(std::vector<uint64_t>{query.rows_visible, query.rows_read, query.rows_exact}, &bits);
  }
  return bits;
}

absl::Status FirstError(const std::vector<gpu_worker::AttendQuery>& queries) {
  for (const gpu_worker::AttendQuery& query : queries) {
    if (!query.status.ok()) return query.status;
  }
  return absl::OkStatus();
}

bool Passes(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

}  // namespace

transport::FaultOptions MessageFaults(uint64_t seed) {
  base::PhiloxStream random(seed, 23);
  transport::FaultOptions faults;
  faults.drop = 0.02 * random.NextBelow(2);
  faults.reset = 0.02 * random.NextBelow(2);
  faults.flip = 0.02 * random.NextBelow(2);
  faults.truncate = 0.02 * random.NextBelow(2);
  faults.duplicate = faults.reorder = faults.delay = 0.2;
  faults.delay_max = std::chrono::milliseconds(5);
  return faults;
}

FaultScript::FaultScript(uint64_t seed, bool restarts, ScriptNetwork network)
    : seed_(seed),
      restarts_(restarts),
      network_(std::move(network)),
      random_(seed, 24),
      rows_(MakeRows(seed)),
      options_(MakeOptions(seed, rows_.shape())) {}

std::string FaultScript::Run() {
  for (int action = 0; action < kActions && fault_.empty(); ++action) {
    if (live_.empty()) Open();
    if (network_.disturb != nullptr) restarted_ = network_.disturb();
    if (fault_.empty()) Act();
  }
  for (const auto& one : live_) {
    if (fault_.empty()) Check(*one, random_.Next64());
  }
  while (!live_.empty() && fault_.empty()) Close(0);
  return fault_;
}

void FaultScript::Fail(const std::string& what) {
  if (fault_.empty()) fault_ = what;
}

// ---- requests, and what is done about those that fail -----------------------------------------

void FaultScript::Pause() {
  if (network_.mend != nullptr) network_.mend();
  const std::unique_ptr<base::Condition> never = network_.executor->NewCondition();
  std::mutex mutex;
  std::unique_lock lock(mutex);
  // A node that was silent for a deadline is not asked again at once.
  const base::Time until = network_.executor->clock().Now() + network_.deadline;
  never->WaitFor(lock, network_.deadline,
                 [&] { return network_.executor->clock().Now() >= until; });
}

absl::Status FaultScript::Timed(base::Duration bound,
                                const std::function<absl::Status()>& request) {
  ++tally_.requests;
  const base::Time start = network_.executor->clock().Now();
  const absl::Status status = request();
  const base::Duration took = network_.executor->clock().Now() - start;
  if (took > bound + network_.slack) {
    Fail(absl::StrCat("a request took ", took / std::chrono::microseconds(1), " us, not ",
                      bound / std::chrono::microseconds(1), ": ", status.ToString()));
  }
  if (status.ok()) return status;
  ++tally_.failures;
  if (!Passes(status) && !network_.damages) {
    Fail(absl::StrCat("not what a lost message or connection does: ", status.ToString()));
  }
  if (base::MessageOf(status).find("node") == std::string::npos) {
    Fail(absl::StrCat("names no node: ", status.ToString()));
  }
  return status;
}

// Its appends, one call to each node, and as many to undo them; adopting asks thrice.
absl::Status FaultScript::Call(const std::function<absl::Status()>& call) {
  return Timed(network_.deadline * (2 + 4 * network_.nodes), call);
}

void FaultScript::Insist(Live* one, const std::function<absl::Status()>& attempt) {
  absl::Status last;
  for (int tries = 1; tries <= kMostTries && fault_.empty(); ++tries) {
    last = attempt();
    if (last.ok()) return;
    Pause();
    if (one != nullptr && (!Passes(last) || tries % 3 == 0 || restarted_ > one->restarts)) {
      Repair(*one);
    }
  }
  Fail(absl::StrCat("never succeeded: ", last.ToString()));
}

bool FaultScript::Repair(Live& one) {
  absl::Status last;
  for (int tries = 1; tries <= kMostTries && fault_.empty(); ++tries) {
    last = TryRepair(one);
    if (last.ok()) return true;
    Pause();
  }
  Fail(absl::StrCat("never repaired: ", last.ToString()));
  return false;
}

absl::Status FaultScript::TryRepair(Live& one) {
  RETURN_IF_ERROR(restarted_ > one.restarts ? Rebuild(one) : AdoptNow(one));
  RETURN_IF_ERROR(AppendMissing(one));
  RETURN_IF_ERROR(Timed(network_.deadline, [&] {
    return network_.client->WaitAppended(one.session.get(), base::kMaxPositions);
  }));
  one.acknowledged = one.content.end();
  return absl::OkStatus();
}

// With what all nodes have of it.
absl::Status FaultScript::AdoptNow(Live& one) {
  std::vector<int32_t> tokens;
  RETURN_IF_ERROR(Call([&] {
    auto adopted = network_.client->Adopt(one.session->id(), 0);
    if (!adopted.ok()) return adopted.status();
    one.session = adopted->session;
    tokens = adopted->tokens;
    return absl::OkStatus();
  }));
  ++tally_.adoptions;
  const base::Position end = one.session->end();
  if (end < one.acknowledged) {
    Fail(absl::StrCat("acknowledged rows are lost: ", one.acknowledged, " acknowledged, ", end,
                      " are there"));
  } else if (end > one.content.end()) {
    Fail(absl::StrCat("more rows than there were: ", end, ", not ", one.content.end()));
  } else if (static_cast<base::Position>(tokens.size()) != end) {
    Fail(absl::StrCat(tokens.size(), " tokens of ", end, " rows"));
  }
  return absl::OkStatus();
}

absl::Status FaultScript::Rebuild(Live& one) {
  if (!one.gone) {
    RETURN_IF_ERROR(Call([&] { return network_.client->Close(one.session.get()); }));
    one.gone = true;
  }
  RETURN_IF_ERROR(Call([&] {
    options_.id = one.session->id();
    auto opened = network_.client->Open(options_);
    if (opened.ok()) one.session = *std::move(opened);
    return opened.status();
  }));
  one.gone = false;
  one.restarts = restarted_;
  ++tally_.rebuilt;
  one.acknowledged = 0;
  return absl::OkStatus();
}

absl::Status FaultScript::AppendMissing(Live& one) {
  return Timed(network_.deadline * 8, [&] {
    return AppendContent(*network_.client, one.session.get(), rows_, one.content,
                         one.session->end());
  });
}

// Appends in flight may still fail: then there is nothing to branch.
bool FaultScript::Settled(Live& one) {
  if (restarted_ == one.restarts && Timed(network_.deadline, [&] {
                                      return network_.client->WaitAppended(one.session.get(),
                                                                           base::kMaxPositions);
                                    }).ok()) {
    return true;
  }
  Pause();
  return Repair(one);
}

// ---- actions ------------------------------------------------------------------------------------

// Where a session lies depends on its id: it is the script's.
gpu_worker::RemoteSessionOptions FaultScript::NewOptions() {
  options_.id = {seed_, ++number_};
  return options_;
}

void FaultScript::Open() {
  const gpu_worker::RemoteSessionOptions options = NewOptions();
  Insist(nullptr, [&] {
    return Call([&] {
      auto session = network_.client->Open(options);
      if (!session.ok()) return session.status();
      live_.push_back(
          std::make_unique<Live>(Live{*std::move(session), {}, 0, restarted_, false, {}}));
      return absl::OkStatus();
    });
  });
}

void FaultScript::Act() {
  const size_t chosen = random_.NextBelow(static_cast<uint32_t>(live_.size()));
  Live& one = *live_[chosen];
  switch (random_.NextBelow(16)) {
    case 0:
      return Close(chosen);
    case 1:
      return restarts_ ? Open() : Fork(one);
    case 2:
    case 3:
      return Truncate(one);
    case 4:
      return Adopt(one);
    case 5:
      return Check(one, random_.Next64());
    case 6:
      return MisuseStale(one);
    case 7:
      return MisuseClosed();
    case 8:
    case 9:
    case 10:
    case 11:
      return Attend(one);
    default:
      return Append(one);
  }
}

void FaultScript::Append(Live& one) {
  const int64_t wanted = 1 + random_.NextBelow(20);
  const auto version = static_cast<int>(random_.NextBelow(kVersions));
  const bool seal = random_.NextBelow(4) == 0;
  const bool wait = random_.NextBelow(2) == 0;
  const int64_t count = std::min<int64_t>(wanted, kPositions - one.content.end());
  if (count <= 0) return;
  // What fails here is found out, and mended, by what comes next.
  (void)Timed(network_.deadline * 8, [&] {
    return AppendVersion(*network_.client, one.session.get(), rows_, version, count, seal,
                         &one.content);
  });
  if (!wait) return;
  const absl::Status acknowledged = Timed(network_.deadline, [&] {
    return network_.client->WaitAppended(one.session.get(), one.content.end());
  });
  if (acknowledged.ok() && one.session->end() == one.content.end()) {
    one.acknowledged = one.content.end();
  }
}

// Also while its rows are on their way.
void FaultScript::Attend(Live& one) {
  const Shape& shape = rows_.shape();
  const uint32_t layer = random_.NextBelow(shape.layers);
  const std::vector<float> rows = GaussianQueries(shape, 2, random_.Next64());
  const uint64_t sample_key = random_.Next64();
  const base::Position begin = Place(one);
  const base::Position end = one.content.end();
  std::vector<gpu_worker::AttendQuery> queries;
  Insist(&one, [&] {
    gpu_worker::RemoteSession* session = one.session.get();
    queries = {ExactQuery(session, rows, {begin, end}), ExactQuery(session, rows, {0, end})};
    queries[1].causal_from = std::max<base::Position>(end - 2, 0);
    gpu_worker::AttendQuery sampled = ExactQuery(session, rows, {0, end});
    sampled.layout_position = end;
    sampled.sample_key = sample_key;
    sampled.rows_budget = 0.3f;
    std::vector<uint64_t> signatures;
    if (SampleByIndex(&sampled, &signatures)) queries.push_back(sampled);
    return Timed(network_.deadline, [&] {
      network_.client->StartAttend(layer, queries)->Wait();
      return FirstError(queries);
    });
  });
  answers_.push_back(BitsOf(queries));
  ++tally_.attends;
}

base::Position FaultScript::Place(const Live& one) {
  return random_.NextBelow(static_cast<uint32_t>(one.content.end()) + 1);
}

void FaultScript::Truncate(Live& one) {
  const base::Position position = Place(one);
  if (!Settled(one)) return;
  Insist(&one, [&] {
    // An attempt that failed may have cut, also after a repair has appended the rest again.
    one.acknowledged = std::min(one.acknowledged, position);
    return Call([&] { return network_.client->Truncate(one.session.get(), position); });
  });
  one.content.Truncate(position);
  one.acknowledged = position;
}

void FaultScript::Fork(Live& one) {
  const base::Position position = Place(one);
  const base::SessionId id = NewOptions().id;
  if (!Settled(one)) return;
  Insist(&one, [&] {
    return Call([&] {
      auto child = network_.client->Fork(one.session.get(), position, id);
      if (!child.ok()) return child.status();
      live_.push_back(std::make_unique<Live>(
          Live{*std::move(child), one.content, position, restarted_, false, {}}));
      live_.back()->content.Truncate(position);
      return absl::OkStatus();
    });
  });
}

void FaultScript::Adopt(Live& one) {
  const std::shared_ptr<gpu_worker::RemoteSession> before = one.session;
  if (Repair(one)) one.stale.push_back(before);
}

void FaultScript::Close(size_t chosen) {
  Live& one = *live_[chosen];
  Insist(nullptr, [&] { return Call([&] { return network_.client->Close(one.session.get()); }); });
  closed_.push_back(one.session);
  live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(chosen));
}

void FaultScript::Check(Live& one, uint64_t draw) {
  if (!Settled(one)) return;
  Insist(&one, [&]() -> absl::Status {
    base::PhiloxStream random(draw, 25);
    const std::string found =
        BranchFault(*network_.client, one.session.get(), rows_, one.content, nullptr, random);
    if (found.empty()) return absl::OkStatus();
    // What is said of a request begins with its code; what is wrong with an answer does not.
    if (found[0] < 'A' || found[0] > 'Z') Fail(found);
    return absl::UnavailableError(found);
  });
}

// ---- what must be refused -----------------------------------------------------------------------

absl::Status FaultScript::Misuses(gpu_worker::RemoteSession* session, Misuse how, uint64_t seed) {
  gpu_worker::KvClient& client = *network_.client;
  std::vector<gpu_worker::AttendQuery> queries;
  const std::vector<float> rows = GaussianQueries(rows_.shape(), 1, seed);
  const base::Position end = session->end();
  switch (how) {
    case Misuse::kAppend: {
      if (end >= kPositions) return absl::OutOfRangeError("no row is left");
      RETURN_IF_ERROR(client.Append(session, rows_.Of(kVersions - 1).Range({end, end + 1}, false)));
      return client.WaitAppended(session, base::kMaxPositions);
    }
    case Misuse::kAttend:
      queries = {ExactQuery(session, rows, {0, std::max<base::Position>(end, 1)})};
      client.StartAttend(0, queries)->Wait();
      return queries[0].status;
    case Misuse::kTruncate:
      return client.Truncate(session, end / 2);
    case Misuse::kClose:
      break;
  }
  return client.Close(session);
}

// What a worker does that does not know it has lost the session: nothing comes of it.
void FaultScript::MisuseStale(Live& one) {
  const auto how = static_cast<Misuse>(random_.NextBelow(4));
  const uint64_t seed = random_.Next64();
  if (one.stale.empty() || !Settled(one) || one.stale.empty()) return;  // lost meanwhile
  const std::shared_ptr<gpu_worker::RemoteSession> stale = one.stale.back();
  if (!stale->status().ok()) return;  // it knows
  // A fork lay where its parent does, and lies elsewhere since it was opened anew: then there is
  // nothing to close.
  const std::vector<int> before = stale->placement().Nodes(),
                         now = one.session->placement().Nodes();
  const bool elsewhere =
      std::find_first_of(before.begin(), before.end(), now.begin(), now.end()) == before.end();
  if (Misuses(stale.get(), how, seed).ok() && !(how == Misuse::kClose && elsewhere)) {
    Fail(absl::StrCat("an earlier epoch was let in, to do ", static_cast<int>(how)));
  }
  ++tally_.refused;
  Check(one, seed);
}

void FaultScript::MisuseClosed() {
  const auto how = random_.NextBelow(2) == 0 ? Misuse::kAppend : Misuse::kAttend;
  const uint64_t seed = random_.Next64();
  if (closed_.empty() || !closed_.back()->status().ok()) return;
  if (Misuses(closed_.back().get(), how, seed).ok()) {
    Fail(absl::StrCat("a closed session was let in, to do ", static_cast<int>(how)));
  }
  ++tally_.refused;
}

}  // namespace sounder::tests
