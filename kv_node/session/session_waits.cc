// What waits for a session: attends and fetches for rows and indexes, closes and forks for
// operations, acknowledgements for index builds.
#include <atomic>
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

bool Session::Ready(const wire::AttendItem& item) const {
  if (!Sampled(item)) return true;
  for (uint32_t head = 0; head < item.kv_head_count; ++head) {
    if (!Stream(item.layer, item.kv_head_begin + head).AllReady(item.range, item.layout_position)) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<std::vector<std::vector<Piece>>> Session::Collect(
    uint32_t layer, uint32_t head_begin, uint32_t heads, base::PositionRange range,
    base::Position layout_position) const {
  std::vector<std::vector<Piece>> all;
  for (uint32_t head = 0; head < heads; ++head) {
    absl::StatusOr<std::vector<Piece>> pieces =
        Stream(layer, head_begin + head).Collect(range, layout_position);
    if (!pieces.ok()) {
      return absl::Status(pieces.status().code(),
                          absl::StrCat(Name(spec_.session.id), ": ", pieces.status().message()));
    }
    all.push_back(*std::move(pieces));
  }
  return all;
}

absl::StatusOr<AttendPlan> Session::MakePlan(const wire::AttendItem& item) const {
  RETURN_IF_ERROR(CheckCuts(item.sequence, item.range.end));
  AttendPlan plan;
  if (Sampled(item)) plan.sampler = sampler_;
  ASSIGN_OR_RETURN(plan.pieces, Collect(item.layer, item.kv_head_begin, item.kv_head_count,
                                        item.range, item.layout_position));
  return plan;
}

void Session::Plan(const wire::AttendItem& item, base::Time deadline, PlanDone done) {
  absl::Status status = CheckAttend(item);
  if (!status.ok()) {
    done(std::move(status));
    return;
  }
  // The plan is made in the same hold of the lock that found everything ready: an operation in
  // between could seal a segment that belongs to the plan but has no index yet.
  auto plan = std::make_shared<absl::StatusOr<AttendPlan>>(absl::UnknownError("not planned"));
  Wait(
      &item.session, item.sequence,
      [this, item, plan] {
        do {
          const absl::StatusOr<bool> open =
              AllOpen(item.layer, item.kv_head_begin, item.kv_head_count, item.range);
          if (open.ok() && !(*open && Ready(item))) return false;
          *plan = open.ok() ? MakePlan(item) : open.status();
        } while (plan->ok() && AnyGone((*plan)->pieces));
        return true;
      },
      deadline, "for rows in flight or an index being built",
      [plan, done = std::move(done)](const absl::Status& waited) {
        done(waited.ok() ? std::move(*plan) : waited);
      });
}

void Session::WhenApplied(const wire::SessionRef& ref, uint64_t sequence, base::Time deadline,
                          std::function<void(absl::Status)> done) {
  Wait(&ref, sequence, nullptr, deadline, "for operations in flight", std::move(done));
}

// A build of this session wakes it, the last of them at the latest, or room for more rows.
void Session::WhenCaughtUp(base::Time latest, std::function<void()> done) {
  // Whether the waiter ever found none: by now there may be, and nobody would wake it.
  auto scarce = std::make_shared<std::atomic<bool>>(false);
  Wait(
      nullptr, 0,
      [this, scarce] {
        const bool room = tiers_ == nullptr || !tiers_->scarce();
        if (!room) *scarce = true;
        return room && (unbuilt_.empty() || lane_->CaughtUp());
      },
      latest, "for index builds", [done = std::move(done)](const absl::Status&) { done(); });
  if (*scarce) WatchRoom();
}

void Session::WhenIndexed(base::Time latest, std::function<void()> done) {
  Wait(
      nullptr, 0, [this] { return unbuilt_.empty(); }, latest, "for index builds",
      [done = std::move(done)](const absl::Status&) { done(); });
}

void Session::Wait(const wire::SessionRef* ref, uint64_t sequence, std::function<bool()> ready,
                   base::Time deadline, std::string what, std::function<void(absl::Status)> done) {
  absl::Status status;
  {
    std::lock_guard lock(mutex_);
    status = ref == nullptr ? closed_ : CheckOpen(*ref);
    if (status.ok()) last_touched_ = executor_->clock().Now();
    if (status.ok() && applied_ < sequence) status = restored_.ok() ? failed_ : restored_;
    const bool waits = status.ok() && (applied_ < sequence || (ready != nullptr && !ready()));
    if (waits && waiters_.size() >= kMaxWaiters) {
      status = absl::ResourceExhaustedError(
          absl::StrCat(waiters_.size(), " requests wait for ", Name(spec_.session.id), " already"));
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
      return;
    }
  }
  done(std::move(status));
}

WaitingCounts Session::Waiting() const {
  std::lock_guard lock(mutex_);
  return {queued_.size(), waiters_.size()};
}

void Session::WakeWaiters(Calls* calls) {
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
}

}  // namespace sounder::kv_node
