// What waits for a session: attends and fetches for rows and indexes, closes and forks for
// operations, acknowledgements for index builds.
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kv_node/session/session.h"

namespace sounder::kv_node {
namespace {

// Of one session. A worker has an attend or two of it in flight, and an acknowledgement per layer
// of each message in its window.
constexpr size_t kMaxWaiters = 4096;

std::string Name(const base::SessionId& id) { return "session " + id.ToString(); }

}  // namespace

absl::StatusOr<Session::Pieces> Session::Collect(const Wanted& wanted) const {
  RETURN_IF_ERROR(CheckCuts(wanted.sequence, wanted.range.end));
  Pieces all;
  all.reserve(wanted.kv_head_count);
  for (uint32_t head = 0; head < wanted.kv_head_count; ++head) {
    absl::StatusOr<std::vector<Piece>> pieces =
        Stream(wanted.layer, wanted.kv_head_begin + head)
            .Collect(wanted.range, wanted.layout_position, wanted.indexed);
    if (!pieces.ok()) {
      return absl::Status(pieces.status().code(),
                          absl::StrCat(Name(spec_.session.id), ": ", pieces.status().message()));
    }
    all.push_back(*std::move(pieces));
  }
  return all;
}

void Session::Plan(const wire::AttendItem& item, base::Time deadline, PlanDone done) {
  absl::Status status = CheckAttend(item);
  if (!status.ok()) {
    done(std::move(status));
    return;
  }
  const Wanted wanted = {item.layer,           item.kv_head_begin, item.kv_head_count, item.range,
                         item.layout_position, item.sequence,      Sampled(item)};
  // The pieces are those of the hold of the lock that found everything ready: an operation in
  // between could seal a segment that belongs to the plan but has no index yet.
  auto gathering = std::make_shared<Gathering>();
  Wait(
      &item.session, item.sequence,
      [this, wanted, gathering] { return Gather(wanted, gathering.get()); }, deadline, kForRows,
      [sampler = Sampled(item) ? sampler_ : nullptr, gathering,
       done = std::move(done)](absl::Status waited) {
        waited.Update(gathering->pieces.status());
        if (!waited.ok()) return done(std::move(waited));
        done(AttendPlan{*std::move(gathering->pieces), sampler});
      });
}

void Session::WhenApplied(const wire::SessionRef& ref, uint64_t sequence, base::Time deadline,
                          std::function<void(absl::Status)> done) {
  Wait(&ref, sequence, nullptr, deadline, "for operations in flight", std::move(done));
}

// A build of this session wakes it, the last of them at the latest, or room for more rows.
void Session::WhenCaughtUp(base::Time latest, std::function<void()> done) {
  Wait(
      nullptr, 0,
      [this] {
        const bool room = tiers_ == nullptr || !tiers_->scarce();
        if (!room) no_room_ = true;
        return room && (unbuilt_.empty() || lane_->CaughtUp());
      },
      latest, "for index builds or room in memory",
      [done = std::move(done)](const absl::Status&) { done(); });
}

void Session::WhenIndexed(base::Time latest, std::function<void()> done) {
  Wait(
      nullptr, 0, [this] { return unbuilt_.empty(); }, latest, "for index builds",
      [done = std::move(done)](const absl::Status&) { done(); });
}

void Session::Wait(const wire::SessionRef* ref, uint64_t sequence, std::function<bool()> ready,
                   base::Time deadline, std::string what, std::function<void(absl::Status)> done) {
  absl::Status status;
  Calls calls;
  bool waits = false;
  {
    std::lock_guard lock(mutex_);
    status = ref == nullptr ? closed_ : CheckOpen(*ref);
    if (status.ok()) life_->Touch(executor_->clock().Now());
    if (status.ok() && applied_ < sequence) status = restored_.ok() ? failed_ : restored_;
    waits = status.ok() && (applied_ < sequence || (ready != nullptr && !ready()));
    if (waits && waiters_.size() >= kMaxWaiters) {
      status = absl::ResourceExhaustedError(
          absl::StrCat(waiters_.size(), " requests wait for ", Name(spec_.session.id), " already"));
      waits = false;
    } else if (waits) {
      const uint64_t id = ++last_waiter_;
      Waiter& waiter = waiters_[id];
      waiter.sequence = sequence;
      if (ref != nullptr) waiter.epoch = ref->epoch;
      waiter.ready = std::move(ready);
      waiter.done = std::move(done);
      waiter.timer = executor_->RunAt(deadline, [self = shared_from_this(), id, what] {
        std::function<void(absl::Status)> late;
        {
          std::lock_guard inner(self->mutex_);
          const auto found = self->waiters_.find(id);
          if (found == self->waiters_.end()) return;
          late = std::move(found->second.done);
          self->waiters_.erase(found);
        }
        late(absl::DeadlineExceededError(
            absl::StrCat(Name(self->spec_.session.id), " waited too long ", what)));
      });
      PushWatch(&calls);
    }
  }
  if (!waits) done(std::move(status));
  for (const auto& call : calls) call();
}

WaitingCounts Session::Waiting() const {
  std::lock_guard lock(mutex_);
  return {queued_.size(), waiters_.size()};
}

void Session::WakeWaiters(Calls* calls) {
  no_room_ = false;
  for (auto entry = waiters_.begin(); entry != waiters_.end();) {
    Waiter& waiter = entry->second;
    absl::Status status =
        waiter.epoch.has_value() ? CheckOpen({spec_.session.id, *waiter.epoch}) : closed_;
    if (status.ok() && applied_ < waiter.sequence) {
      if (failed_.ok()) {
        ++entry;
        continue;
      }
      status = failed_;
    }
    if (status.ok() && waiter.ready != nullptr && !waiter.ready()) {
      ++entry;
      continue;
    }
    executor_->Cancel(waiter.timer);
    calls->push_back([done = std::move(waiter.done), status] { done(status); });
    entry = waiters_.erase(entry);
  }
  PushWatch(calls);
}

}  // namespace sounder::kv_node
