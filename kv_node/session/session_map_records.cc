// Sessions that outlive the node's process: what is recorded of them, and found at the start.
#include <utility>

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kv_node/session/session_map.h"
#include "kv_node/session/session_restorer.h"

namespace sounder::kv_node {

// A session of the same id may have been closed a moment ago: its removal must not come after what
// the new one records.
absl::StatusOr<std::shared_ptr<SessionJournal>> SessionMap::NewJournal(const base::SessionId& id) {
  std::shared_ptr<SessionJournal> old;
  {
    std::lock_guard lock(mutex_);
    if (!sessions_.contains(id)) old = journals_[id].lock();
  }
  if (old != nullptr && old->removing()) RETURN_IF_ERROR(old->RemoveNow());
  auto journal = std::make_shared<SessionJournal>(id, stores_.segments, stores_.records);
  std::lock_guard lock(mutex_);
  absl::erase_if(journals_, [](const auto& entry) { return entry.second.expired(); });
  journals_[id] = journal;
  return journal;
}

// That a session is durable includes that there is one.
absl::Status SessionMap::KeepNew(const std::shared_ptr<Session>& session) {
  absl::Status status = session->MakeDurable();
  if (!status.ok()) Erase(session, status, /*forget=*/true);
  return status;
}

void SessionMap::WhenIndexed(base::Time latest, std::function<void()> done) {
  struct Waiting {
    explicit Waiting(std::function<void()> all) : done(std::move(all)) {}
    ~Waiting() { done(); }  // with the last of them
    const std::function<void()> done;
  };
  const auto waiting = std::make_shared<Waiting>(std::move(done));
  for (const std::shared_ptr<Session>& session : All()) session->WhenIndexed(latest, [waiting] {});
}

absl::Status SessionMap::MakeDurable() {
  absl::Status status;
  for (const std::shared_ptr<Session>& session : All()) status.Update(session->MakeDurable());
  return status;
}

absl::StatusOr<VisitResult> SessionMap::Restore(
    const std::function<void(uint64_t sessions)>& progress) {
  CHECK(stores_.records != nullptr);
  uint64_t restored = 0;
  SessionRestorer restorer(
      stores_.segments, &budget_, tiers_.get(),
      [this](const SessionRecord& record) -> absl::StatusOr<std::shared_ptr<Session>> {
        ASSIGN_OR_RETURN(std::shared_ptr<const Sampler> sampler, SamplerFor(record.spec));
        return Make(record.spec, std::move(sampler));
      },
      [&](std::shared_ptr<Session> session) {
        {
          std::lock_guard lock(mutex_);
          const base::SessionId id = session->spec().session.id;
          sessions_[id] = std::move(session);
        }
        progress(++restored);
        return absl::OkStatus();
      });
  return stores_.records->Visit(restorer);
}

}  // namespace sounder::kv_node
