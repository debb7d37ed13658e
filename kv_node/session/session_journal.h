// Keeps the records of a durable session like the session: now and then an image of it is taken,
// and what differs from the records is written, segments first, then all records in one commit. So
// what a restart finds is always the session as it once was, whatever was appended, cut off or
// sealed in between, and however often that failed.
#ifndef SOUNDER_KV_NODE_SESSION_SESSION_JOURNAL_H_
#define SOUNDER_KV_NODE_SESSION_SESSION_JOURNAL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "common/base/executor.h"
#include "common/base/ids.h"
#include "kv_node/session/session_image.h"
#include "kv_node/store/record_store.h"
#include "kv_node/store/segment_store.h"

namespace sounder::kv_node {

// What the records hold of a stream: segments, and behind them one that was cut, or a tail.
struct RecordedStream {
  struct Entry {
    base::Position first = 0;
    base::Position end = 0;
    std::shared_ptr<const StoredSegment> stored;
  };
  std::vector<Entry> segments;
  std::shared_ptr<const StoredSegment> cut;  // or null
  base::Position cut_first = 0;
  base::Position cut_end = 0;
  base::Position tail_first = 0;  // [tail_first, tail_end)
  base::Position tail_end = 0;

  base::Position end() const;
};

struct RecordedSession {
  std::vector<RecordedStream> streams;
  base::Position tokens = 0;  // one past the last that has an id
  base::Position durable = 0;
};

// Thread safe. Blocking work runs on the segment store's io executor. Owned by shared_ptr: the
// session, and work in flight.
class SessionJournal : public std::enable_shared_from_this<SessionJournal> {
 public:
  // Nothing once the session is gone.
  using TakeImage = std::function<std::optional<SessionImage>(const RecordedExtent&)>;

  // The stores outlive the journal.
  SessionJournal(const base::SessionId& session, SegmentStore* segments, RecordStore* records)
      : session_(session), segments_(segments), records_(records) {}
  // Once, before anything else.
  void SetSource(TakeImage take) { take_ = std::move(take); }
  // What the records hold of a session that was just restored from them; the names of its segments
  // are counted. Once, after SetSource.
  void StartFrom(RecordedSession recorded);

  // Writes what has changed, soon: within `delay`. After an error it is tried again and again.
  void Request(base::Duration delay);
  // The same now, and blocks.
  absl::Status Sync();
  // Forgets the session, soon, and for ever: nothing is written any more. It is tried until it
  // succeeds.
  void Remove();
  // After Remove, the same now, and blocks; OK if it has been done.
  absl::Status RemoveNow();
  // Remove was called.
  bool removing() const { return removing_; }

  // Rows before it are durable.
  base::Position durable_position() const { return durable_position_; }
  // Of the last write.
  absl::Status last_status() const;

 private:
  using Stream = RecordedStream;
  struct Write {
    RecordBatch batch;
    std::vector<std::shared_ptr<const StoredSegment>> segments;  // new ones
  };
  absl::Status SyncLocked();
  absl::Status Commit(const SessionImage& image);
  absl::Status AddStream(const SessionImage& image, size_t i, Write* write);
  absl::Status AddSegments(const StreamImage& image, Stream* stream, Write* write, bool* complete);
  void AddTail(const SessionImage& image, const StreamImage& of, bool complete, Stream* stream,
               Write* write);
  absl::Status AddCut(const StreamImage& image, Stream* stream, Write* write);
  void AddTokens(const SessionImage& image, Write* write);
  void PutSegment(const StreamImage& image, const SealedSegment& segment, int64_t rows,
                  Write* write);
  void Drop(std::shared_ptr<const StoredSegment> stored);
  void ForgetDropped();

  const base::SessionId session_;
  SegmentStore* const segments_;
  RecordStore* const records_;
  TakeImage take_;
  std::atomic<base::Position> durable_position_{0};
  std::atomic<bool> removing_{false};

  std::mutex work_mutex_;        // held while something is written; before mutex_
  std::vector<Stream> streams_;  // guarded by work_mutex_, as all up to the next mutex
  base::Position tokens_ = 0;
  bool rewrite_ = true;  // the records may hold anything of the session
  // Records name them until the next commit, as they do those of streams_.
  std::vector<std::shared_ptr<const StoredSegment>> dropped_;
  bool removed_ = false;  // nothing of it is recorded

  mutable std::mutex mutex_;  // guards everything below
  base::Time due_ = base::kNever;
  absl::Status last_status_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_SESSION_JOURNAL_H_
