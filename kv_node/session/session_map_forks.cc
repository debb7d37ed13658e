// Forks: sessions that begin with another one's rows.
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kv_node/session/session_map.h"

namespace sounder::kv_node {

// What there is to say to a fork without making one.
std::optional<absl::Status> SessionMap::KnownFork(const wire::ForkCall& call) const {
  if (!ended_.ok()) return ended_;
  const auto found = sessions_.find(call.child.id);
  if (found == sessions_.end()) {
    if (absl::Status full = CheckRoom(); !full.ok()) return full;
    return std::nullopt;
  }
  const Session& child = *found->second;
  const std::string name = absl::StrCat("session ", call.child.id.ToString());
  if (child.spec().tenant != call.op.tenant) {
    return absl::AlreadyExistsError(name + " is another tenant's");
  }
  const base::SessionId& parent = call.op.session.id;
  if (child.IsForkOf(parent, call.position, call.op.sequence)) {
    if (child.epoch() == call.child.epoch) return absl::OkStatus();
    return absl::AlreadyExistsError(absl::StrCat(name, " exists at epoch ", child.epoch(),
                                                 ", the fork is of epoch ", call.child.epoch));
  }
  return absl::AlreadyExistsError(absl::StrCat(
      name, " exists, and is not the fork of session ", parent.ToString(), " at position ",
      call.position, " after operation ", call.op.sequence,
      child.parent().empty() ? "" : absl::StrCat(", but one of ", child.parent().ToString())));
}

void SessionMap::Fork(const wire::ForkCall& call, base::Time deadline, wire::StatusReply reply) {
  if (call.child.id.empty()) return reply(absl::InvalidArgumentError("the child's id is empty"));
  {
    // Also when the parent has gone since.
    std::unique_lock lock(mutex_);
    if (const std::optional<absl::Status> known = KnownFork(call)) {
      if (!known->ok()) {
        lock.unlock();
        return reply(*known);
      }
      const std::shared_ptr<Session> child = sessions_.at(call.child.id);
      lock.unlock();
      return RunFor(*child, [child, reply = std::move(reply)] { reply(child->MakeDurable()); });
    }
  }
  absl::StatusOr<std::shared_ptr<Session>> parent = Find(call.op.session.id, call.op.tenant);
  if (!parent.ok()) return reply(parent.status());
  (*parent)->Fork(
      call.op.session, call.op.sequence, call.position, deadline,
      [this, call, parent = *parent, reply = std::move(reply)](absl::StatusOr<ForkedRows> forked) {
        if (!forked.ok()) return reply(forked.status());
        auto rows = std::make_shared<ForkedRows>(*std::move(forked));
        RunFor(*parent, [this, call, parent, rows, reply] {
          reply(OpenFork(call, *parent, std::move(*rows)));
        });
      });
}

// What may wait for the disk runs there.
void SessionMap::RunFor(const Session& session, std::function<void()> work) {
  if (session.journal() == nullptr) return work();
  stores_.segments->io()->Run(std::move(work));
}

absl::Status SessionMap::OpenFork(const wire::ForkCall& call, const Session& parent,
                                  ForkedRows rows) {
  wire::SessionSpec spec = parent.spec();
  spec.session = call.child;
  spec.ttl_seconds = call.ttl_seconds;
  ASSIGN_OR_RETURN(const std::shared_ptr<Session> child, Make(spec, parent.sampler()));
  child->StartFrom(std::move(rows));
  return Insert(child, [&] { return KnownFork(call); });
}

}  // namespace sounder::kv_node
