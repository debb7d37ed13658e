#include "kv_node/node_store.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/status_macros.h"
#include "common/config/logging.h"
#include "kv_node/session/session_restorer.h"

namespace sounder::kv_node {
namespace {

// One writes while another syncs; more would only queue at the disk.
constexpr int kIoThreads = 2;

std::string Describe(const std::string& folder, const DiskProperties& disk) {
  std::string text = absl::StrCat(folder, ": ", disk.file_system, ", ", disk.reads);
  if (!disk.reads_why.empty()) absl::StrAppend(&text, " (", disk.reads_why, ")");
  absl::StrAppend(&text, disk.direct ? ", direct" : ", through the page cache");
  if (!disk.direct_why.empty()) absl::StrAppend(&text, " (", disk.direct_why, ")");
  return text;
}

// Whether there is damage that is to be discarded. What no record names is freed when the log
// opens: not before somebody agrees.
absl::StatusOr<bool> Discards(const VisitResult& result, bool discard) {
  std::string damage;
  for (const auto& [session, why] : result.damaged) {
    absl::StrAppend(&damage, "session ", session.ToString(), ": ", base::MessageOf(why), "; ");
  }
  for (const absl::Status& why : result.unreadable) {
    absl::StrAppend(&damage, base::MessageOf(why), "; ");
  }
  if (damage.empty()) return false;
  if (!discard) {
    return absl::DataLossError(
        absl::StrCat("records are damaged: ", damage,
                     "start with --discard-damaged to go on without what they named"));
  }
  config::LogWarning("discarded: " + damage);
  return true;
}

}  // namespace

void DeclareStore(config::OptionSet& set, StoreOptions* options) {
  set.AddText("store", &options->folder,
              "folder on an SSD for sessions larger than memory and for durable ones; empty: "
              "everything stays in memory");
  set.AddInt("row_cache_percent", &options->row_cache_percent,
             "part of --memory for rows read from --store that the next steps need again",
             {.min = 0, .max = 80});
  set.AddBytes("spill_rate", &options->spill_rate,
               "bytes a second written to --store to make room in memory",
               {.min = int64_t{1} << 20});
  set.AddBool("store_page_cache", &options->page_cache,
              "let the page cache hold what --store has, beside --memory");
  set.AddBool("store_io_uring", &options->io_uring,
              "read --store by io_uring where that is allowed");
  set.AddInt(
      "tail_rows", &options->journal.tail_rows,
      "positions of a durable session that may wait to be written to --store; what was sealed "
      "waits for its index in any case",
      {.min = 1});
  set.AddDuration("tail_interval", &options->journal.tail_interval, "how long they may wait");
  set.AddBool("discard_damaged", &options->discard_damaged,
              "start even if records in --store are damaged, and give up the sessions they named");
}

uint64_t SessionBytes(const StoreOptions& options, uint64_t memory) {
  if (options.folder.empty()) return memory;
  return memory - memory / 100 * static_cast<uint64_t>(options.row_cache_percent);
}

absl::StatusOr<std::unique_ptr<NodeStore>> NodeStore::Open(const StoreOptions& options,
                                                           uint64_t memory) {
  if (options.folder.empty()) return std::unique_ptr<NodeStore>();
  RETURN_IF_ERROR(MakeDurableFolder(options.folder));
  LinuxDiskOptions disk_options;
  disk_options.uring = options.io_uring;
  disk_options.direct = !options.page_cache;
  // First: it keeps other nodes out.
  ASSIGN_OR_RETURN(std::unique_ptr<RecordStore> records,
                   RecordStore::Open(options.folder + "/records"));
  ASSIGN_OR_RETURN(std::unique_ptr<LinuxDisk> disk,
                   LinuxDisk::Start(options.folder + "/segments", disk_options));
  VisitResult result;
  ASSIGN_OR_RETURN(const std::vector<LiveSegment> live, SegmentsOfRecords(*records, &result));
  ASSIGN_OR_RETURN(const bool discards, Discards(result, options.discard_damaged));
  if (discards) RETURN_IF_ERROR(records->Rewrite().status());
  std::unique_ptr<NodeStore> store(new NodeStore(options, memory, std::move(disk)));
  store->records_ = std::move(records);
  ASSIGN_OR_RETURN(store->log_, SegmentLog::Open(store->disk_.get(), live));
  store->io_ = std::make_unique<base::ThreadExecutor>(kIoThreads, "store");
  store->segments_ =
      std::make_unique<SegmentStore>(store->disk_.get(), store->log_.get(), store->io_.get());
  store->description_ = Describe(options.folder, store->disk_->properties());
  return store;
}

NodeStore::~NodeStore() { io_.reset(); }

absl::Status NodeStore::Restore(SessionMap* sessions) {
  constexpr auto kReport = std::chrono::seconds(1);
  const base::Clock& clock = io_->clock();
  const base::Time start = clock.Now();
  base::Time reported = start;
  const auto seconds = [&] { return std::chrono::duration<double>(clock.Now() - start).count(); };
  const absl::StatusOr<VisitResult> result = sessions->Restore([&](uint64_t count) {
    if (clock.Now() - reported < kReport) return;
    reported = clock.Now();
    config::LogInfo(absl::StrCat("restored ", count, " sessions so far"));
  });
  if (!result.ok()) return result.status();
  // Whole records that do not fit together.
  ASSIGN_OR_RETURN(const bool discards, Discards(*result, discard_damaged_));
  RecordBatch batch;
  for (const auto& [session, why] : result->damaged) batch.RemoveSession(session);
  if (discards) RETURN_IF_ERROR(records_->Commit(batch));
  config::LogInfo(absl::StrCat("store ", description_, "; restored ", result->sessions,
                               " sessions in ", seconds(), " s"));
  sessions->tiers()->Start();
  return absl::OkStatus();
}

void MakeDurable(SessionMap& sessions, base::Executor& executor, base::Time latest,
                 base::Time until) {
  struct Shared {
    std::mutex mutex;
    bool over = false;
    absl::Status status = absl::DeadlineExceededError("--shutdown-deadline is over");
    std::unique_ptr<base::Condition> changed;
  };
  const auto shared = std::make_shared<Shared>();  // it may be over later
  shared->changed = executor.NewCondition();
  sessions.WhenIndexed(latest, [&sessions, shared] {
    sessions.MakeDurable([shared](absl::Status status) {
      std::lock_guard lock(shared->mutex);
      shared->over = true;
      shared->status = std::move(status);
      shared->changed->NotifyAll();
    });
  });
  std::unique_lock lock(shared->mutex);
  const base::Duration left = std::max(until - executor.clock().Now(), base::Duration(0));
  shared->changed->WaitFor(lock, left, [&] { return shared->over; });
  if (shared->status.ok()) return;
  config::LogWarning("not all of the durable sessions is: " + base::MessageOf(shared->status));
}

}  // namespace sounder::kv_node
