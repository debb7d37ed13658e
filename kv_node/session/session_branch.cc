// Sessions that are cut, forked, read back and handed on.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "kv_node/session/session.h"

namespace sounder::kv_node {
namespace {

absl::Status CheckPosition(base::Position position) {
  if (position >= 0 && position <= base::kMaxPositions) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("position ", position, ", expected 0 to ", base::kMaxPositions));
}

}  // namespace

void Session::Truncate(const wire::SessionRef& ref, uint64_t sequence, base::Position position,
                       base::Time deadline, AppendDone done) {
  wire::AppendItem item;  // without rows
  item.session = ref;
  item.sequence = sequence;
  absl::Status status = CheckPosition(position);
  if (status.ok() && sequence == 0) {
    status = absl::InvalidArgumentError("sequence numbers start at 1");
  }
  Submit(item, position, std::move(status), deadline, std::move(done));
}

// Whether `position` may be the end of the session: the layers of a head must end together, there
// or at a multiple of seal_rows, behind which the session may go on in a shard elsewhere.
absl::Status Session::CheckEnd(base::Position position) const {
  for (uint32_t head = 0; head < spec_.kv_head_count; ++head) {
    base::Position least = base::kMaxPositions;
    base::Position most = 0;
    for (uint32_t layer = 0; layer < spec_.model.layers; ++layer) {
      const base::Position end = Stream(layer, spec_.kv_head_begin + head).EndWithin(position);
      least = std::min(least, end);
      most = std::max(most, end);
    }
    if (least == most && (least == position || least % spec_.seal_rows == 0)) continue;
    return absl::OutOfRangeError(absl::StrCat("session ", spec_.session.id.ToString(),
                                              " ends at position ", least, "; position ", position,
                                              " lies beyond"));
  }
  return absl::OkStatus();
}

absl::Status Session::ApplyTruncate(uint64_t sequence, base::Position position) {
  constexpr size_t kMostCuts = 64;
  RETURN_IF_ERROR(CheckEnd(position));
  half_done_ = Attempt{};
  decltype(unbuilt_) awaited;  // nobody waits for an index that is gone
  for (RowStream& stream : streams_) {
    const size_t back = stream.Truncate(position);
    const std::vector<Held<SealedSegment>>& left = stream.segments();
    for (size_t i = left.size() - back; i < left.size(); ++i) Await(*left[i].block());
    for (const Held<SealedSegment>& segment : left) {
      const auto found = unbuilt_.find(segment.block().get());
      if (found != unbuilt_.end()) awaited.insert(*found);
    }
  }
  unbuilt_.swap(awaited);
  tokens_.Truncate(position);
  unchanged_before_ = std::min(unchanged_before_, position);
  while (!cuts_.empty() && cuts_.back().position >= position) cuts_.pop_back();
  cuts_.push_back({sequence, position});
  if (cuts_.size() > kMostCuts) {  // the two oldest become one that refuses what either does
    cuts_[1].position = cuts_[0].position;
    cuts_.erase(cuts_.begin());
  }
  return absl::OkStatus();
}

// Of a request made when `sequence` operations had been issued, of positions before `end`.
absl::Status Session::CheckCuts(uint64_t sequence, base::Position end) const {
  for (const Cut& cut : cuts_) {
    if (cut.sequence <= sequence) continue;
    if (end <= cut.position) break;  // the first one after it cut most
    return absl::FailedPreconditionError(absl::StrCat(
        "session ", spec_.session.id.ToString(), " was truncated to position ", cut.position,
        " by operation ", cut.sequence, "; the request, of positions before ", end,
        ", was made when ", sequence, " operations had been issued"));
  }
  return absl::OkStatus();
}

ForkedRows Session::ForkAt(uint64_t sequence, base::Position position) {
  ForkedRows forked(tokens_);
  forked.tokens.Truncate(position);
  forked.streams.reserve(streams_.size());
  for (const RowStream& stream : streams_) {
    forked.streams.push_back(stream.Share());
    forked.streams.back().Truncate(position);
  }
  forked.parent = spec_.session.id;
  forked.position = position;
  forked.sequence = sequence;
  return forked;
}

void Session::Fork(const wire::SessionRef& ref, uint64_t sequence, base::Position position,
                   base::Time deadline, ForkDone done) {
  struct Forking {
    absl::StatusOr<ForkedRows> rows = absl::UnknownError("not forked");
    std::shared_ptr<Load> load = std::make_shared<Load>();
  };
  auto fork = std::make_shared<Forking>();
  // In the hold of the lock that finds the operations applied.
  Wait(
      &ref, sequence,
      [this, sequence, position, fork] {
        absl::Status status = CheckPosition(position);
        if (status.ok()) status = CheckEnd(position);
        if (status.ok()) status = CheckCuts(sequence, position);
        const absl::StatusOr<bool> split =
            status.ok() ? Split(0, streams_.size(), position, *fork->load) : std::move(status);
        if (split.ok() && !*split) return false;
        if (split.ok()) {
          fork->rows = ForkAt(sequence, position);
        } else {
          fork->rows = split.status();
        }
        return true;
      },
      deadline, kForRows,
      [fork, done = std::move(done)](const absl::Status& waited) {
        done(waited.ok() ? std::move(fork->rows) : waited);
      });
}

void Session::StartFrom(ForkedRows rows) {
  std::lock_guard lock(mutex_);
  CHECK(applied_ == 0 && rows.streams.size() == streams_.size());
  streams_ = std::move(rows.streams);
  tokens_ = std::move(rows.tokens);
  parent_ = rows.parent;
  fork_position_ = rows.position;
  fork_sequence_ = rows.sequence;
  for (const RowStream& stream : streams_) {
    for (const Held<SealedSegment>& segment : stream.segments()) {
      segment->AddLife(life_);
      Await(*segment.block());
    }
  }
}

bool Session::IsForkOf(const base::SessionId& parent, base::Position position,
                       uint64_t sequence) const {
  std::lock_guard lock(mutex_);
  return fork_position_ == position && parent_ == parent && fork_sequence_ == sequence;
}

base::SessionId Session::parent() const {
  std::lock_guard lock(mutex_);
  return parent_;
}

absl::StatusOr<std::vector<int32_t>> Session::ReadTokens(base::PositionRange range) const {
  absl::StatusOr<std::vector<int32_t>> tokens = tokens_.Read(range);
  if (tokens.ok()) return tokens;
  return absl::Status(tokens.status().code(), absl::StrCat("session ", spec_.session.id.ToString(),
                                                           ": ", tokens.status().message()));
}

void Session::Fetch(const wire::FetchItem& item, base::Time deadline, FetchDone done) {
  if (const absl::Status status = CheckFetch(item); !status.ok()) return done(status);
  const Wanted wanted = {item.layer,     item.kv_head_begin, item.kv_head_count, item.range,
                         item.range.end, item.sequence,      /*indexed=*/false};
  auto gathering = std::make_shared<Gathering>();
  auto tokens = std::make_shared<absl::StatusOr<std::vector<int32_t>>>(std::vector<int32_t>());
  // Rows and ids in the same hold of the lock.
  Wait(
      &item.session, item.sequence,
      [this, wanted, want_tokens = item.want_tokens, gathering, tokens] {
        if (!Gather(wanted, gathering.get())) return false;
        if (want_tokens && gathering->pieces.ok()) *tokens = ReadTokens(wanted.range);
        return true;
      },
      deadline, kForRows,
      [gathering, tokens, done = std::move(done)](absl::Status waited) {
        waited.Update(gathering->pieces.status());
        waited.Update(tokens->status());
        if (!waited.ok()) return done(std::move(waited));
        done(FetchedRows{*std::move(gathering->pieces), **std::move(tokens)});
      });
}

absl::Status Session::Adopt(uint64_t epoch, uint64_t holder) {
  Calls calls;
  {
    std::lock_guard lock(mutex_);
    if (!closed_.ok()) return closed_;
    const bool again = epoch == epoch_ && holder_ == holder && holder != 0;
    if (again || epoch > epoch_) life_->Touch(executor_->clock().Now());
    if (again) {
      restored_ = absl::OkStatus();  // what it was told of before the node restarted is recorded
      return absl::OkStatus();
    }
    if (epoch <= epoch_) {
      return absl::FailedPreconditionError(absl::StrCat(
          "session ", spec_.session.id.ToString(), " is at epoch ", epoch_,
          epoch == epoch_ ? " of another holder" : "", ", the adoption at epoch ", epoch));
    }
    epoch_ = epoch;
    holder_ = holder;
    restored_ = absl::OkStatus();
    failed_ = absl::OkStatus();  // the old writer's; so is what it left half done
    half_done_ = Attempt{};
    for (auto& [sequence, operation] : queued_) {
      if (operation.timer != 0) executor_->Cancel(operation.timer);
      ReleaseCopied(operation);
      Answer(&operation, CheckOpen(operation.item.session), 0, &calls);
    }
    queued_.clear();
    WakeWaiters(&calls);
  }
  for (const auto& call : calls) call();
  return absl::OkStatus();
}

absl::Status Session::CheckEpoch(const wire::SessionRef& ref) const {
  std::lock_guard lock(mutex_);
  return CheckOpen(ref);
}

uint64_t Session::epoch() const {
  std::lock_guard lock(mutex_);
  return epoch_;
}

}  // namespace sounder::kv_node
