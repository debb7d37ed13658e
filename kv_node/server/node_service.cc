#include "kv_node/server/node_service.h"

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

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
  const auto open = [this, spec, reply = std::move(reply)] {
    absl::StatusOr<wire::OpenResult> result = sessions_->Open(spec);
    if (result.ok()) {
      config::LogInfo("session " + spec.session.id.ToString() + " opened for model '" +
                      spec.model.name + "'");
    }
    reply(std::move(result));
  };
  spec.durability == wire::Durability::kDisk ? RunOnDisk(open) : open();
}

// What may wait for the disk: others must not wait with it.
void NodeService::RunOnDisk(std::function<void()> work) {
  if (sessions_->io() == nullptr) return work();
  sessions_->io()->Run(std::move(work));
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
                      config::LogInfo(absl::StrCat("session ", call.child.id.ToString(),
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
  RunOnDisk([this, call, reply = std::move(reply)] {
    absl::StatusOr<wire::SessionInfo> info = sessions_->Adopt(call);
    if (info.ok()) {
      config::LogInfo(absl::StrCat("session ", call.session.id.ToString(), " adopted at epoch ",
                                   call.session.epoch));
    }
    reply(std::move(info));
  });
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

void NodeService::Pin(const wire::PinCall& call, wire::StatusReply reply) {
  const absl::StatusOr<std::shared_ptr<Session>> session = sessions_->Find(call.session);
  if (session.ok()) (*session)->Pin(std::chrono::seconds(call.seconds), call.soft);
  reply(session.status());
}

void NodeService::Spill(const base::SessionId& id, wire::StatusReply reply) {
  if (sessions_->tiers() == nullptr) return reply(NoStore("spill"));
  const absl::StatusOr<std::shared_ptr<Session>> session = sessions_->Find(id);
  if (!session.ok()) return reply(session.status());
  sessions_->tiers()->Spill((*session)->Segments(), std::move(reply));
}

namespace {

// Brings segments to memory, a few at a time: what is read takes twice its memory until it is
// there.
class SegmentLoads : public std::enable_shared_from_this<SegmentLoads> {
 public:
  SegmentLoads(Tiers* tiers, std::vector<std::shared_ptr<SealedSegment>> segments,
               wire::StatusReply reply)
      : tiers_(tiers), left_(std::move(segments)), reply_(std::move(reply)) {}

  // One answer, when the last has come.
  void Go() {
    std::unique_lock lock(mutex_);
    if (starting_) return;  // who does sees what has changed
    starting_ = true;
    while (running_ < kAtOnce && !left_.empty()) {
      std::shared_ptr<SealedSegment> next = std::move(left_.back());
      left_.pop_back();
      ++running_;
      lock.unlock();
      tiers_->Load(std::move(next),
                   [self = shared_from_this()](const absl::Status& status) { self->End(status); });
      lock.lock();
    }
    starting_ = false;
    if (running_ > 0 || told_) return;
    told_ = true;
    lock.unlock();
    reply_(status_);
  }

 private:
  static constexpr int kAtOnce = 4;

  void End(const absl::Status& status) {
    {
      std::lock_guard lock(mutex_);
      --running_;
      status_.Update(status);
    }
    Go();
  }

  Tiers* const tiers_;
  std::mutex mutex_;  // guards everything below, but for the reply
  std::vector<std::shared_ptr<SealedSegment>> left_;
  int running_ = 0;
  bool starting_ = false;
  bool told_ = false;
  absl::Status status_;  // the first error
  const wire::StatusReply reply_;
};

}  // namespace

void NodeService::Load(const base::SessionId& id, wire::StatusReply reply) {
  if (sessions_->tiers() == nullptr) return reply(NoStore("load"));
  const absl::StatusOr<std::shared_ptr<Session>> session = sessions_->Find(id);
  if (!session.ok()) return reply(session.status());
  std::make_shared<SegmentLoads>(sessions_->tiers(), (*session)->Segments(), std::move(reply))
      ->Go();
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
