// Errors of nodes with a disk.
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kv_node/node_store.h"
#include "tests/errors/error_case.h"
#include "tests/errors/world.h"
#include "tests/kv_node/server/stored_rows.h"
#include "tests/kv_node/session/restart_driver.h"
#include "tests/kv_node/store/raw_record.h"
#include "tests/kv_node/store/record_values.h"

namespace sounder::tests {
namespace {

using enum absl::StatusCode;
using kv_node::DiskFault;
using kv_node::NodeStore;
using kv_node::ScratchFolder;
using kv_node::StoredRows;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint64_t kMemory = uint64_t{64} << 20;

absl::Status OpenStore(const std::string& folder) {
  kv_node::StoreOptions options;
  options.folder = folder;
  return NodeStore::Open(options, kMemory).status();
}

absl::Status OpenTwice() {
  const ScratchFolder scratch;
  kv_node::StoreOptions options;
  options.folder = scratch.path() + "/store";
  const auto first = NodeStore::Open(options, kMemory);
  CHECK(first.ok()) << first.status().ToString();
  return OpenStore(options.folder);
}

// A store in whose records this stands.
absl::Status OpenWithRecord(const std::string& key, const std::string& value) {
  const ScratchFolder scratch;
  const std::string folder = scratch.path() + "/records";
  kv_node::PutRawRecord(folder, key, value);
  return OpenStore(scratch.path());
}

absl::Status OpenDamaged(const std::function<void(kv_node::RecordBatch*)>& damage) {
  const ScratchFolder scratch;
  {
    const auto records = kv_node::RecordStore::Open(scratch.path() + "/records");
    CHECK(records.ok()) << records.status().ToString();
    kv_node::RecordBatch batch;
    damage(&batch);
    CHECK((*records)->Commit(batch).ok());
  }
  return OpenStore(scratch.path());
}

// Rows on a disk that gives back other bits than were written, and what an attend or a fetch that
// needs them is told.
absl::Status ReadDamaged(bool fetch) {
  base::VirtualExecutor executor(1);
  kv_node::StoredRowsOptions options;
  options.faults.executor = &executor;
  StoredRows node(&executor, options);
  const auto session =
      node.Open(StoredRows::Spec(1, 32, base::DType::kBF16, 100, wire::AttentionKind::kExact), 100);
  executor.RunFor(milliseconds(10));
  node.driver.transport.Take();
  node.MakeWarm(*session, {0, 100});
  node.disk->Arm(DiskFault::kReadFlip);
  if (fetch) {
    node.SendFetch(*session, {0, 100});
  } else {
    std::vector<StoredRows::Question> questions{StoredRows::Ask(*session, {0, 100}, 1, false)};
    node.Send(questions);
  }
  executor.RunFor(seconds(1));
  std::vector<transport::Message> answers = node.driver.transport.Take();
  CHECK(answers.size() == 1) << answers.size() << " answers";
  if (fetch) return wire::DecodeFetchReply(std::move(answers[0]))->items.at(0).status;
  return wire::DecodeAttendReply(std::move(answers[0]))->items.at(0).status;
}

// More rows than memory holds, on a node whose disk is full as well.
absl::Status AppendToFullDisk() {
  base::VirtualExecutor executor(1);
  kv_node::TierDisk disk;
  const kv_node::SessionStores stores = disk.Start(&executor);
  disk.disk->SetCapacity(0);
  kv_node::ServerDriver driver(&executor, {.memory_bytes = uint64_t{1} << 20}, {}, nullptr, stores);
  const auto session = driver.Open(kv_node::TierDriver::Spec(1));
  absl::Status refused;
  for (uint64_t i = 0; i < 20 && refused.ok(); ++i) {
    driver.Append({kv_node::SessionDriver::Item(*session, i + 1, 0, static_cast<int64_t>(256 * i),
                                                /*rows=*/256)});
    executor.RunFor(seconds(2));
    for (const wire::AppendReply& reply : driver.AppendReplies()) refused = reply.envelope.status;
  }
  driver.map.CloseAll(absl::UnavailableError("over"));
  return refused;
}

// Rows that follow a cut need those before it, which are on a disk that is slower than the
// deadline.
absl::Status AppendBehindSlowDisk() {
  kv_node::TierDriver driver(uint64_t{8} << 20);
  const auto session = driver.Open(kv_node::TierDriver::Spec(1));
  driver.Append(*session, kv_node::SessionDriver::Item(*session, 1, 0, 0, 64));
  driver.RunFor(milliseconds(5));
  driver.map.tiers()->Spill(session->Segments(), [](const absl::Status&) {});
  driver.RunFor(milliseconds(5));
  session->Truncate(session->spec().session, 2, 50, driver.executor.clock().Now(),
                    [](const kv_node::AppendResult&) {});
  const auto answer = driver.Send(*session, kv_node::SessionDriver::Item(*session, 3, 0, 50, 8),
                                  std::chrono::microseconds(10));
  driver.RunFor(seconds(1));
  return (*answer)->status;
}

// One more attend that reads everything, on a disk that has been busy with such for a while.
absl::Status AttendOnBusyDisk() {
  base::VirtualExecutor executor(1);
  kv_node::StoredRowsOptions options;
  options.faults.executor = &executor;
  options.faults.read_delay = milliseconds(1);
  options.memory_bytes = uint64_t{100} << 20;
  StoredRows node(&executor, options);
  const auto session = node.Open(
      StoredRows::Spec(1, 256, base::DType::kBF16, 1024, wire::AttentionKind::kExact), 4096);
  executor.RunFor(milliseconds(10));
  node.driver.transport.Take();
  node.MakeWarm(*session, {0, 4096});
  std::vector<StoredRows::Question> questions{StoredRows::Ask(*session, {0, 4096}, 1, false)};
  for (int i = 0; i < 100; ++i) node.Send(questions, 10'000'000);
  executor.RunFor(milliseconds(100));
  node.Send(questions, 20'000);
  executor.RunFor(seconds(5));
  for (const wire::AttendReply& reply : node.driver.AttendReplies()) {
    if (!reply.envelope.status.ok()) return reply.envelope.status;
  }
  return absl::OkStatus();
}

// A durable session is closed while its records cannot be written.
absl::Status CloseWithoutRecords() {
  kv_node::RestartDriver node(/*seed=*/1);
  wire::SessionSpec spec = kv_node::TierDriver::Spec(1);
  spec.durability = wire::Durability::kDisk;
  const auto session = node.run().Open(spec);
  node.disks().files->Arm(DiskFault::kWriteError);
  absl::Status closed;
  node.run().map.Close({{session->spec().session.id, 0}, 0, 0},
                       node.run().executor.clock().Now() + seconds(1),
                       [&](const absl::Status& status) { closed = status; });
  node.run().RunFor(std::chrono::milliseconds(100));
  return closed;
}

}  // namespace

ErrorGroup StoreErrors() {
  return {
      "Disks of nodes",
      "What `--store` can meet. A node that does not start says it on stderr, with exit status 4.",
      {
          {kFailedPrecondition,
           {{"<folder>: in use by another process, or twice by this one (<reason>)", OpenTwice}},
           "Another node, or one that has not ended yet, has this `--store`.",
           "End the other node, or give this one a folder of its own."},
          {kFailedPrecondition,
           {{"<folder>: a store of format version <n>; this program reads version <n>",
             [] { return OpenWithRecord("V", "9"); }},
            {"<folder>: a database, but not one of records: it names no version",
             [] { return OpenWithRecord("something", "else"); }}},
           "The folder was written by another release, or by another program.",
           "Start that release, or give the node a new folder. Nothing was changed."},
          {kNotFound,
           {{"<folder>: cannot be made, as its parent does not exist: <reason>",
             [] { return OpenStore("/nonexistent/store"); }}},
           "Only the last folder of `--store` is made.",
           "Make its parent, or name another one."},
          {kFailedPrecondition,
           {{"<folder>: <reason>", [] { return OpenStore("/dev/null/store"); }}},
           "The folder cannot be made there.",
           "Name another one in `--store`."},
          {kDataLoss,
           {
               {"records are damaged: session <session>: records of a session without the "
                "session's "
                "own; start with --discard-damaged to go on without what they named",
                [] {
                  return OpenDamaged([](kv_node::RecordBatch* batch) {
                    batch->PutTail(kv_node::TestId(1), kv_node::TestTail(3, 0, 0, 1).record);
                  });
                }},
           },
           "Bits on the disk are not those that were written. The sessions that the message names "
           "cannot be had again.",
           "Copy the folder if you want to look into it; `--discard-damaged` starts without these "
           "sessions. Look at the disk."},
          {kDataLoss,
           {{"segment at <place>: page <n> (rows) does not match its checksum",
             [] { return ReadDamaged(/*fetch=*/false); }},
            {"segment at <place>: page <n> (rows) does not match its checksum",
             [] { return ReadDamaged(/*fetch=*/true); }}},
           "Rows of the session were read from the disk, and are not what had been written. "
           "Attends and fetches that need them get this; others are answered.",
           "Close the session and compute it again, or roll it back to before these rows. Look at "
           "the disk."},
          {kResourceExhausted,
           {{"the node's memory is full: <n> more bytes wanted, <n> of <n> in use (--memory)",
             AppendToFullDisk}},
           "The disk of `--store` is full, so no rows can leave memory "
           "(`sounder_store_failed_written_segments_total` counts it). Attends go on.",
           "Make room on the disk or close sessions. A writer that has given up meanwhile is "
           "adopted to go on."},
          {kResourceExhausted,
           {{"the attend would not be done in its <n> us: <n> us of reading from the disk lie "
             "before its own <n> us",
             AttendOnBusyDisk}},
           "More is to be read from the disk than it can read before the deadline.",
           "Give the node more `--memory` or a faster disk; more nodes, smaller `--rows`, a longer "
           "`--deadline`."},
          {kDeadlineExceeded,
           {{"operation <n> of session <session> waited too long for rows being read",
             AppendBehindSlowDisk}},
           "The append or truncate needs rows that are on the disk (behind an earlier truncate, or "
           "of segments that are merged or split), and reading them took longer than the deadline.",
           "Send it again: the client library does. If it lasts, the disk is slow; raise "
           "`--deadline`."},
          {kDataLoss,
           {{"session <session> is closed, and still recorded on the disk: <reason>",
             CloseWithoutRecords}},
           "The session's end could not be written.",
           "The node tries again until it is. Should it be restarted before, the session is there "
           "again: close it then. Look at the disk."},
      }};
}

}  // namespace sounder::tests
