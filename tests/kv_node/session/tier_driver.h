// Sessions on a node with a store, in virtual time, on a disk that can be told to fail.
#ifndef SOUNDER_TESTS_KV_NODE_SESSION_TIER_DRIVER_H_
#define SOUNDER_TESTS_KV_NODE_SESSION_TIER_DRIVER_H_

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "kv_node/store/faulty_disk.h"
#include "kv_node/store/linux_disk.h"
#include "kv_node/store/segment_store.h"
#include "tests/kv_node/session/session_driver.h"
#include "tests/kv_node/store/scratch_folder.h"

namespace sounder::kv_node {

// The first column of the values of a piece's segment or tail, wherever they are; dim 64, f32.
inline std::vector<float> ReadColumn(SessionDriver& driver, const Piece& piece, Disk& disk,
                                     absl::Status* status) {
  memory::RowsView values = piece.values;
  memory::AlignedBuffer keys_buffer, values_buffer;
  if (!piece.in_memory()) {
    std::vector<uint16_t> rows(static_cast<size_t>(piece.segment->num_rows()));
    std::iota(rows.begin(), rows.end(), uint16_t{0});
    keys_buffer = memory::AlignedBuffer(rows.size() * 256);
    values_buffer = memory::AlignedBuffer(rows.size() * 256);
    std::optional<absl::Status> read;
    ReadRows(disk, {{piece.store, rows, keys_buffer.bytes(), values_buffer.bytes()}},
             [&](std::span<const absl::Status> statuses, const auto&) { read = statuses[0]; });
    while (!read.has_value()) driver.executor.Step();
    *status = *read;
    values = {values_buffer.data(), piece.segment->num_rows(), 256, 64, base::DType::kF32};
  }
  std::vector<float> column;
  for (int64_t row = 0; status->ok() && row < values.rows; ++row)
    column.push_back(values.At(row, 0));
  return column;
}

// The folder and what reads and writes it; it outlives the sessions.
struct TierDisk {
  SessionStores Start(base::Executor* on) {
    linux_disk = *LinuxDisk::Start(folder.path(), {.direct = false});
    DiskFaultOptions faults;
    faults.executor = on;
    faults.read_delay = std::chrono::microseconds(100);
    disk = *FaultyDisk::Start(linux_disk.get(), faults, /*seed=*/1);
    log = *SegmentLog::Open(disk.get(), {});
    store = std::make_unique<SegmentStore>(disk.get(), log.get(), on);
    return {store.get(), nullptr};
  }

  ScratchFolder folder;
  std::unique_ptr<LinuxDisk> linux_disk;
  std::unique_ptr<FaultyDisk> disk;
  std::unique_ptr<SegmentLog> log;
  std::unique_ptr<SegmentStore> store;
};

class TierDriver : public TierDisk, public SessionDriver {
 public:
  explicit TierDriver(uint64_t memory_bytes)
      : SessionDriver({.memory_bytes = memory_bytes}, /*seed=*/1,
                      [this](base::Executor* on) { return Start(on); }) {}

  // 1 layer, 2 kv heads, dim 64, f32, seals every 64 rows: 32 KiB a segment; with sketches.
  static wire::SessionSpec Spec(uint64_t number) {
    wire::SessionSpec spec = SessionDriver::SketchSpec(number);
    spec.row_format = wire::RowFormat::kAsAppended;
    spec.model.layers = 1;
    spec.model.head_dim = 64;
    spec.dtype = base::DType::kF32;
    spec.seal_rows = 64;
    spec.indexed_layers = {0};
    return spec;
  }

  // The values of the first column of `range`, wherever the rows are.
  absl::StatusOr<std::vector<float>> Read(Session& session, uint64_t sequence, uint32_t head,
                                          base::PositionRange range) {
    std::optional<absl::StatusOr<AttendPlan>> plan;
    session.Plan(Query(session, sequence, 0, range), executor.clock().Now() + kPatience,
                 [&](absl::StatusOr<AttendPlan> made) { plan = std::move(made); });
    while (!plan.has_value() && executor.Step()) {
    }
    if (!plan.has_value()) return absl::UnknownError("nothing more happens, and there is no plan");
    if (!plan->ok()) return plan->status();
    std::vector<float> read;
    for (const Piece& piece : (*plan)->pieces[head]) {
      absl::Status status;
      const std::vector<float> column = ReadColumn(*this, piece, *disk, &status);
      if (!status.ok()) return status;
      read.insert(read.end(), column.begin() + piece.row_begin, column.begin() + piece.row_end);
    }
    return read;
  }
  // What Read must return.
  static std::vector<float> Expected(uint32_t head, base::PositionRange range) {
    std::vector<float> expected;
    for (base::Position position = range.begin; position < range.end; ++position) {
      expected.push_back(Element(head, position));
    }
    return expected;
  }

  static constexpr base::Duration kPatience = std::chrono::seconds(10);
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_SESSION_TIER_DRIVER_H_
