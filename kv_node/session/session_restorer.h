// Makes sessions of the records that a run of the node left.
#ifndef SOUNDER_KV_NODE_SESSION_SESSION_RESTORER_H_
#define SOUNDER_KV_NODE_SESSION_SESSION_RESTORER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kv_node/session/session.h"
#include "kv_node/store/record_store.h"
#include "kv_node/store/segment_store.h"

namespace sounder::kv_node {

// Segments come back cold: nothing of them is read. Forks share theirs. Not thread safe.
class SessionRestorer final : public RecordVisitor {
 public:
  // A session without rows for a record. Keeps records from now on.
  using MakeSession = std::function<absl::StatusOr<std::shared_ptr<Session>>(const SessionRecord&)>;
  // It has its rows.
  using OnRestored = std::function<absl::Status(std::shared_ptr<Session>)>;

  // The pointers outlive the sessions.
  SessionRestorer(SegmentStore* store, MemoryBudget* budget, Tiers* tiers, MakeSession make,
                  OnRestored restored)
      : store_(store),
        budget_(budget),
        tiers_(tiers),
        make_(std::move(make)),
        restored_(std::move(restored)) {}

  absl::Status OnSession(const SessionRecord& record) override;
  absl::Status OnSegment(const SegmentRecord& record) override;
  absl::Status OnTail(const TailRecord& record) override;
  absl::Status OnTokens(const TokenRecord& record) override;
  absl::Status OnEnd(const base::SessionId& session) override;
  absl::Status OnDamaged(const base::SessionId& session, const absl::Status& why) override;

  // Sessions whose records, each of them whole, do not fit together: not restored.
  const std::vector<std::pair<base::SessionId, absl::Status>>& misfits() const { return misfits_; }

 private:
  struct Stream {
    std::vector<std::shared_ptr<SealedSegment>> segments;
    int64_t cut_rows = 0;  // of the last one; 0: all
  };
  struct Loading {
    explicit Loading(MemoryBudget* budget) : rows(budget) {}
    std::shared_ptr<Session> session;
    RecordedRows rows;
    std::vector<Stream> streams;
    bool settled = false;  // segments have become the rows' streams
    RecordedSession recorded;
  };
  // Notes an error that is the session's alone; others end the visit.
  absl::Status Note(absl::Status status);
  absl::Status AddSegment(const SegmentRecord& record);
  absl::Status AddTail(const TailRecord& record);
  absl::Status AddTokens(const TokenRecord& record);
  absl::StatusOr<size_t> StreamOf(uint32_t layer, uint32_t kv_head) const;
  std::shared_ptr<SealedSegment> SegmentOf(const SegmentRecord& record);
  void Settle();

  SegmentStore* const store_;
  MemoryBudget* const budget_;
  Tiers* const tiers_;
  const MakeSession make_;
  const OnRestored restored_;
  std::optional<Loading> loading_;  // none: what comes of this session is passed over
  base::SessionId session_;         // that was told of last
  std::vector<std::pair<base::SessionId, absl::Status>> misfits_;
  // Of all sessions so far.
  std::map<std::pair<uint64_t, uint64_t>, std::shared_ptr<SealedSegment>> segments_;
};

// The segments that records name, each once: what the segment log is to keep.
absl::StatusOr<std::vector<LiveSegment>> SegmentsOfRecords(RecordStore& records,
                                                           VisitResult* result);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_SESSION_RESTORER_H_
