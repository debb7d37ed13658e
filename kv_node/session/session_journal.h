// Keeps the records of a durable session like the session: now and then an image of it is taken,
// and what differs from the records is written, segments first, then all records in one commit. So
// what a restart finds is always the session as it once was, whatever was appended, cut off or
// sealed in between, and however often that failed; and rows that were durable stay so until they
// are cut off.
#ifndef SOUNDER_KV_NODE_SESSION_SESSION_JOURNAL_H_
#define SOUNDER_KV_NODE_SESSION_SESSION_JOURNAL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/executor.h"
#include "common/base/ids.h"
#include "kv_node/session/segment_names.h"
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

// The name of each of its segments has been counted.
struct RecordedSession {
  std::vector<RecordedStream> streams;
  base::Position tokens = 0;  // one past the last that has an id
  base::Position durable = 0;
};

// Where a journal writes, and what it counts. All but the counts outlive it.
struct JournalStores {
  SegmentStore* segments = nullptr;
  RecordStore* records = nullptr;
  std::shared_ptr<std::atomic<uint64_t>> failed_commits;
};

// The session of a journal.
struct JournalSource {
  // Nothing once the session is gone.
  std::function<std::optional<SessionImage>(const RecordedExtent&)> take;
  // Brings the segment's rows to memory, some time.
  std::function<void(const std::shared_ptr<SealedSegment>&)> load;
};

// Thread safe. Blocking work runs on the segment store's io executor. Owned by shared_ptr: the
// session, and work in flight.
class SessionJournal : public std::enable_shared_from_this<SessionJournal> {
 public:
  SessionJournal(const base::SessionId& session, JournalStores stores)
      : session_(session), stores_(std::move(stores)) {}
  // Once, before anything else.
  void SetSource(JournalSource source) { source_ = std::move(source); }
  // What the records hold of a session that was just restored from them. Once, after SetSource.
  void StartFrom(RecordedSession recorded);
  // The journal of an earlier session of the same id, whose removal is on its way: nothing is
  // written before it is done. Once, before anything is requested.
  void StartAfter(std::shared_ptr<SessionJournal> before);

  // Writes what has changed, soon: within `delay`. After an error it is tried again and again.
  void Request(base::Duration delay);
  // The same now, and blocks. After an error it is tried again as well.
  absl::Status Sync();
  // From now on nothing is written any more: the session is to be removed.
  void StopWriting() { removing_ = true; }
  // After StopWriting: forgets the session, soon, and for ever. It is tried until it succeeds;
  // `done` is told how the first try ended.
  void Remove(std::function<void(absl::Status)> done);

  // Rows before it are durable, but for those that changed since the last image.
  base::Position durable_position() const { return durable_position_; }
  // When an image is taken: what lies at and behind `position` has changed since the last one.
  void OnChanged(base::Position position) {
    if (position < durable_position_) durable_position_ = position;
  }

 private:
  using Stream = RecordedStream;
  struct Named {
    std::shared_ptr<SealedSegment> segment;
    std::shared_ptr<const StoredSegment> stored;
  };
  struct Write {
    RecordBatch batch;
    std::vector<Named> named;  // that it names anew
    bool changes = false;      // something but the session's own record
  };
  // Rows behind the segments that are recorded one by one.
  struct Tail {
    base::Position first = 0;
    int64_t rows = 0;
    const std::byte* keys = nullptr;  // of the first one
    const std::byte* values = nullptr;
  };
  void RunDue(base::Time when);
  absl::Status SyncLocked();
  absl::Status Commit(const SessionImage& image);
  void DropAll();
  absl::Status AddStream(const SessionImage& image, size_t i, Write* write);
  void AddTail(const SessionImage& image, const StreamImage& of, const Tail& tail, Stream* stream,
               Write* write);
  void AddTokens(const SessionImage& image, Write* write);
  absl::StatusOr<std::shared_ptr<const StoredSegment>> PutSegment(
      const StreamImage& image, const std::shared_ptr<SealedSegment>& segment, int64_t rows,
      Write* write);
  void RemoveSegment(const StreamImage& image, base::Position first,
                     std::shared_ptr<const StoredSegment> stored, Write* write);
  void AwaitBuilt(size_t stream, SealedSegment& segment);
  absl::Status MakeDurable(const Write& write);
  absl::Status RemoveNow();

  const base::SessionId session_;
  const JournalStores stores_;
  JournalSource source_;
  std::atomic<base::Position> durable_position_{0};
  std::atomic<bool> removing_{false};

  std::mutex work_mutex_;  // held while something is written; before mutex_, and that of `before_`
  std::vector<Stream> streams_;  // guarded by work_mutex_, as all up to the next mutex
  // By stream: rows before it are recorded for certain, unless they were cut off.
  std::vector<base::Position> kept_;
  std::vector<const SealedSegment*> awaited_;  // by stream, whose index; the last one, or null
  base::Position tokens_ = 0;
  std::string record_;    // the session's own
  bool rewrite_ = true;   // the records may hold anything of the session
  bool removed_ = false;  // nothing of it is recorded
  bool failing_ = false;
  SegmentNames names_;
  std::shared_ptr<SessionJournal> before_;  // or null

  std::mutex mutex_;  // guards everything below
  base::Time due_ = base::kNever;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SESSION_SESSION_JOURNAL_H_
