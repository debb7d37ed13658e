#include "kv_node/server/node_service.h"

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/config/logging.h"
#include "kv_node/server/data_server.h"

namespace sounder::kv_node {
namespace {

absl::Status NoStore(const char* call) {
  return absl::FailedPreconditionError(
      absl::StrCat(call, ": this node keeps sessions in memory only (it has no --store)"));
}

}  // namespace

NodeService::NodeService(SessionMap* sessions, base::Executor* executor,
                         base::Duration close_deadline,
                         std::function<wire::NodeStatus()> describe_node)
    : sessions_(sessions),
      executor_(executor),
      close_deadline_(close_deadline),
      describe_node_(std::move(describe_node)),
      started_(executor->clock().Now()) {}

absl::Status NodeService::TakesSessions() const {
  if (shutting_down_) return ShuttingDown();
  if (!draining_) return absl::OkStatus();
  return absl::UnavailableError("the node is draining and takes no new sessions");
}

void NodeService::Open(const wire::SessionSpec& spec, wire::Reply<wire::OpenResult> reply) {
  if (absl::Status status = TakesSessions(); !status.ok()) {
    reply(std::move(status));
    return;
  }
  absl::StatusOr<wire::OpenResult> result = sessions_->Open(spec);
  if (result.ok()) {
    config::LogInfo("session " + spec.session.id.ToString() + " opened for model '" +
                    spec.model.name + "'");
  }
  reply(std::move(result));
}

void NodeService::Close(const wire::SessionOp& op, wire::StatusReply reply) {
  sessions_->Close(op, executor_->clock().Now() + close_deadline_,
                   [id = op.session.id, reply = std::move(reply)](absl::Status status) {
                     if (status.ok()) config::LogInfo("session " + id.ToString() + " closed");
                     reply(std::move(status));
                   });
}

void NodeService::Fork(const wire::ForkCall& call, wire::StatusReply reply) {
  if (absl::Status status = TakesSessions(); !status.ok()) {
    reply(std::move(status));
    return;
  }
  sessions_->Fork(call, executor_->clock().Now() + close_deadline_,
                  [call, reply = std::move(reply)](absl::Status status) {
                    if (status.ok()) {
                      config::LogInfo(absl::StrCat("session ", call.child.ToString(),
                                                   " forked from ", call.op.session.id.ToString(),
                                                   " at position ", call.position));
                    }
                    reply(std::move(status));
                  });
}

void NodeService::Truncate(const wire::SessionOp& op, base::Position position,
                           wire::StatusReply reply) {
  const absl::StatusOr<std::shared_ptr<Session>> session =
      sessions_->Find(op.session.id, op.tenant);
  if (!session.ok()) {
    reply(session.status());
    return;
  }
  (*session)->Truncate(
      op.session, op.sequence, position, executor_->clock().Now() + close_deadline_,
      [reply = std::move(reply)](const AppendResult& result) { reply(result.status); });
}

void NodeService::Adopt(const wire::AdoptCall& call, wire::Reply<wire::SessionInfo> reply) {
  absl::StatusOr<wire::SessionInfo> info = sessions_->Adopt(call);
  if (info.ok()) {
    config::LogInfo(absl::StrCat("session ", call.session.id.ToString(), " adopted at epoch ",
                                 call.session.epoch));
  }
  reply(std::move(info));
}

void NodeService::Describe(const wire::DescribeCall& call, wire::Reply<wire::SessionInfo> reply) {
  const absl::StatusOr<std::shared_ptr<Session>> found =
      sessions_->Find(call.session.id, call.tenant);
  if (!found.ok()) {
    reply(found.status());
    return;
  }
  if (call.keep_alive) {  // how a worker keeps a session it has nothing to ask of
    if (absl::Status status = (*found)->CheckEpoch(call.session); !status.ok()) {
      reply(std::move(status));
      return;
    }
    (*found)->Touch();
  }
  reply((*found)->Info());
}

void NodeService::List(wire::Reply<std::vector<wire::SessionInfo>> reply) {
  std::vector<wire::SessionInfo> infos;
  for (const std::shared_ptr<Session>& session : sessions_->All()) infos.push_back(session->Info());
  reply(std::move(infos));
}

void NodeService::Pin(const base::SessionId& id, uint32_t seconds, wire::StatusReply reply) {
  const absl::StatusOr<std::shared_ptr<Session>> session = sessions_->Find(id);
  if (session.ok()) (*session)->Pin(std::chrono::seconds(seconds));
  reply(session.status());
}

void NodeService::Spill(const base::SessionId& id, wire::StatusReply reply) {
  if (sessions_->tiers() == nullptr) return reply(NoStore("spill"));
  const absl::StatusOr<std::shared_ptr<Session>> session = sessions_->Find(id);
  if (!session.ok()) return reply(session.status());
  sessions_->tiers()->Spill((*session)->Segments(), std::move(reply));
}

// All at once, and one answer when the last has come.
void NodeService::Load(const base::SessionId& id, wire::StatusReply reply) {
  if (sessions_->tiers() == nullptr) return reply(NoStore("load"));
  const absl::StatusOr<std::shared_ptr<Session>> session = sessions_->Find(id);
  if (!session.ok()) return reply(session.status());
  struct Loading {
    std::mutex mutex;
    size_t unfinished = 1;  // one for this loop
    absl::Status status;
    wire::StatusReply reply;
    void Finish(const absl::Status& ended) {
      {
        std::lock_guard lock(mutex);
        status.Update(ended);
        if (--unfinished > 0) return;
      }
      reply(status);
    }
  };
  auto loading = std::make_shared<Loading>();
  loading->reply = std::move(reply);
  for (auto& segment : (*session)->Segments()) {
    {
      std::lock_guard lock(loading->mutex);
      ++loading->unfinished;
    }
    sessions_->tiers()->Load(std::move(segment),
                             [loading](const absl::Status& status) { loading->Finish(status); });
  }
  loading->Finish(absl::OkStatus());
}

void NodeService::Drain(bool on, wire::StatusReply reply) {
  draining_ = on;
  config::LogInfo(on ? "draining: new sessions are refused" : "taking sessions again");
  reply(absl::OkStatus());
}

wire::NodeStatus NodeService::CurrentStatus() const {
  wire::NodeStatus status = describe_node_();
  status.protocol_version = wire::kProtocolVersion;
  status.sessions = sessions_->size();
  status.memory_used = sessions_->budget().used();
  status.memory_limit = sessions_->budget().limit();
  const SessionCounts totals = sessions_->Totals();
  status.row_bytes = totals.row_bytes;
  status.index_bytes = totals.index_bytes;
  if (const Tiers* tiers = sessions_->tiers()) {
    status.stored_bytes = tiers->store()->log().counts().live_bytes;
  }
  status.uptime_seconds = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::seconds>(executor_->clock().Now() - started_)
          .count());
  status.draining = draining_ || shutting_down_;
  return status;
}

void NodeService::Status(wire::Reply<wire::NodeStatus> reply) {
  wire::NodeStatus status = CurrentStatus();
  if (status.data_address.empty()) {
    reply(absl::UnavailableError("the node is starting: it has no data plane yet"));
    return;
  }
  reply(std::move(status));
}

}  // namespace sounder::kv_node
