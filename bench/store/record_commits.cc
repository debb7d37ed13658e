#include "bench/store/record_commits.h"

#include <chrono>
#include <filesystem>
#include <memory>
#include <vector>

#include "bench/suite/timing.h"
#include "common/base/status_macros.h"
#include "kv_node/store/record_store.h"

namespace sounder::store_bench {
namespace {

constexpr uint32_t kLayers = 2, kHeads = 8;
constexpr int64_t kTailRows = 16;

double MsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

kv_node::SessionRecord SessionOf(uint64_t number) {
  kv_node::SessionRecord record;
  record.spec.session = {{number, number}, 1};
  record.spec.model = {"model", "digest", kLayers, kHeads, 4 * kHeads, 128, "rope", ""};
  record.spec.kv_head_count = kHeads;
  record.spec.seal_rows = 4096;
  return record;
}

absl::Status Measure(const std::string& folder, size_t commits, cli::Record& record) {
  ASSIGN_OR_RETURN(std::unique_ptr<kv_node::RecordStore> store, kv_node::RecordStore::Open(folder));
  const std::vector<std::byte> rows(kTailRows * 128 * 2, std::byte{5});
  std::vector<double> segment_ms, tail_ms;
  for (size_t i = 0; i < 2 * commits; ++i) {
    kv_node::SessionRecord session = SessionOf(1 + i % 8);
    session.applied_sequence = i;
    const base::SessionId& id = session.spec.session.id;
    const auto first = static_cast<base::Position>(i / 8 * kTailRows);
    kv_node::RecordBatch batch;
    batch.PutSession(session);
    if (i % 2 == 0) {
      batch.PutSegment(id, {.shape = {.first_position = first, .num_rows = 4096, .dim = 128},
                            .place = {1, i * 4096},
                            .rows_used = 4096});
    }
    for (uint32_t stream = 0; i % 2 == 1 && stream < kLayers * kHeads; ++stream) {
      batch.PutTail(id, {stream / kHeads, stream % kHeads, first, kTailRows, 128,
                         base::DType::kBF16, rows, rows});
    }
    const auto start = std::chrono::steady_clock::now();
    RETURN_IF_ERROR(store->Commit(batch));
    (i % 2 == 0 ? segment_ms : tail_ms).push_back(MsSince(start));
  }
  store.reset();
  const auto start = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(kv_node::RecordStore::Open(folder).status());
  record.Add("records_open_ms", MsSince(start));
  record.Add("records_commits", static_cast<int64_t>(commits));
  record.Add("records_segment_ms_p50", suite::Quantile(segment_ms, .5));
  record.Add("records_segment_ms_p99", suite::Quantile(segment_ms, .99));
  record.Add("records_tail_ms_p50", suite::Quantile(tail_ms, .5));
  record.Add("records_tail_ms_p99", suite::Quantile(tail_ms, .99));
  return absl::OkStatus();
}

}  // namespace

absl::Status MeasureRecordCommits(const std::string& folder, size_t commits, cli::Record& record) {
  const std::string own = folder + "/store_bench.records";
  const absl::Status status = Measure(own, commits, record);
  std::filesystem::remove_all(own);
  return status;
}

}  // namespace sounder::store_bench
