// Sessions that outlive the node's process: what is recorded of them, and found at the start.
#include <utility>

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kv_node/session/session_map.h"
#include "kv_node/session/session_restorer.h"

namespace sounder::kv_node {

void SessionMap::InsertLocked(const std::shared_ptr<Session>& session) {
  const base::SessionId& id = session->spec().session.id;
  sessions_[id] = session;
  if (session->journal() == nullptr) return;
  absl::erase_if(journals_, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<SessionJournal>& journal = journals_[id];
  if (auto before = journal.lock()) session->journal()->StartAfter(std::move(before));
  journal = session->journal();
}

// That a session is durable includes that there is one.
absl::Status SessionMap::KeepNew(const std::shared_ptr<Session>& session) {
  absl::Status status = session->MakeDurable();
  if (!status.ok()) Expel(session, status);
  return status;
}

void SessionMap::WhenIndexed(base::Time latest, std::function<void()> done) {
  struct Waiting {
    explicit Waiting(std::function<void()> all) : done(std::move(all)) {}
    ~Waiting() { done(); }  // with the last of them
    const std::function<void()> done;
  };
  const auto waiting = std::make_shared<Waiting>(std::move(done));
  for (const std::shared_ptr<Session>& session : All()) {
    if (session->journal() != nullptr) session->WhenIndexed(latest, [waiting] {});
  }
}

void SessionMap::MakeDurable(std::function<void(absl::Status)> done) {
  struct Writing {
    explicit Writing(std::function<void(absl::Status)> all) : done(std::move(all)) {}
    ~Writing() { done(status); }  // with the last of them
    const std::function<void(absl::Status)> done;
    std::mutex mutex;
    absl::Status status;  // guarded by mutex
  };
  const auto writing = std::make_shared<Writing>(std::move(done));
  for (const std::shared_ptr<Session>& session : All()) {
    if (session->journal() == nullptr) continue;
    stores_.segments->io()->Run([writing, journal = session->journal()] {
      const absl::Status status = journal->Sync();
      std::lock_guard lock(writing->mutex);
      writing->status.Update(status);
    });
  }
}

absl::StatusOr<VisitResult> SessionMap::Restore(
    const std::function<void(uint64_t sessions)>& progress) {
  CHECK(stores_.records != nullptr);
  uint64_t restored = 0;
  SessionRestorer restorer(
      stores_.segments, budget_, tiers_.get(),
      [this](const SessionRecord& record) -> absl::StatusOr<std::shared_ptr<Session>> {
        ASSIGN_OR_RETURN(std::shared_ptr<const Sampler> sampler, SamplerFor(record.spec));
        return Make(record.spec, std::move(sampler));
      },
      [&](std::shared_ptr<Session> session) {
        {
          std::lock_guard lock(mutex_);
          InsertLocked(session);
        }
        progress(++restored);
        return absl::OkStatus();
      });
  ASSIGN_OR_RETURN(VisitResult result, stores_.records->Visit(restorer));
  result.sessions = restored;
  for (const auto& misfit : restorer.misfits()) result.damaged.push_back(misfit);
  return result;
}

}  // namespace sounder::kv_node
