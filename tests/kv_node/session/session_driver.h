// A session map in virtual time, and the requests tests make of it.
#ifndef SOUNDER_TESTS_KV_NODE_SESSION_SESSION_DRIVER_H_
#define SOUNDER_TESTS_KV_NODE_SESSION_SESSION_DRIVER_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "common/base/virtual_executor.h"
#include "common/memory/aligned_buffer.h"
#include "kv_node/session/session_map.h"

namespace sounder::kv_node {

class SessionDriver {
 public:
  explicit SessionDriver(uint64_t memory_bytes = uint64_t{1} << 30, uint64_t seed = 1,
                         size_t max_sessions = 4096)
      : SessionDriver({.memory_bytes = memory_bytes, .max_sessions = max_sessions}, seed,
                      [](base::Executor*) { return SessionStores(); }) {}
  // With stores, which are made on the driver's executor.
  SessionDriver(const SessionMapOptions& options, uint64_t seed,
                const std::function<SessionStores(base::Executor*)>& make_stores)
      : executor(seed), map(options, &executor, make_stores(&executor)) {}

  // 2 layers, 2 kv heads of 2 query heads each, dim 16, bf16, seals every 16 rows; with LSH tables
  // on layer 1 for segments of at least 8 rows.
  static wire::SessionSpec Spec(uint64_t number) {
    wire::SessionSpec spec;
    spec.session.id = {1, number};
    spec.model = {"toy", "digest", 2, 2, 4, 16, "", ""};
    spec.dtype = base::DType::kBF16;
    spec.seal_rows = 16;
    spec.min_indexed_rows = 8;
    spec.lsh = {4, 6, 2, wire::Projection::kHadamard, 1};
    spec.indexed_layers = {1};
    spec.kv_head_count = 2;
    return spec;
  }
  // The same with sketches instead of tables, and rows in eight bits beside.
  static wire::SessionSpec SketchSpec(uint64_t number) {
    wire::SessionSpec spec = Spec(number);
    spec.lsh = {};
    spec.sketch = {64, 1};
    spec.row_format = wire::RowFormat::kInt8;
    return spec;
  }
  std::shared_ptr<Session> Open(const wire::SessionSpec& spec) {
    const auto opened = map.Open(spec);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return *map.Find(spec.session.id);
  }

  // An append of rows that say their position and head, to all heads of the session's spec.
  static wire::AppendItem Item(const Session& session, uint64_t sequence, uint32_t layer,
                               base::Position first, uint32_t rows) {
    const wire::SessionSpec& spec = session.spec();
    wire::AppendItem item;
    item.session = spec.session;
    item.sequence = sequence;
    item.layer = layer;
    item.kv_head_begin = spec.kv_head_begin;
    item.kv_head_count = spec.kv_head_count;
    item.first_position = first;
    item.row_count = rows;
    item.head_dim = spec.model.head_dim;
    item.dtype = spec.dtype;
    return item;
  }
  // The element at every column of a row.
  static float Element(uint32_t head, base::Position position) {
    return static_cast<float>(position % 128) + 128.0f * static_cast<float>(head);
  }
  // Sends the item with its rows; the answer comes when it comes.
  std::shared_ptr<std::optional<AppendResult>> Send(
      Session& session, wire::AppendItem item, base::Duration deadline = std::chrono::seconds(1)) {
    const size_t element = SizeOf(item.dtype);
    memory::AlignedBuffer rows(item.kv_head_count * item.head_bytes());
    std::byte* out = rows.data();
    for (uint32_t head = 0; head < item.kv_head_count; ++head) {
      for (uint32_t row = 0; row < item.row_count; ++row) {
        for (uint32_t column = 0; column < item.head_dim; ++column, out += element) {
          base::StoreElement(Element(item.kv_head_begin + head, item.first_position + row), out,
                             item.dtype);
        }
      }
    }
    item.keys = item.values = rows.bytes();
    auto answer = std::make_shared<std::optional<AppendResult>>();
    session.Append(item, executor.clock().Now() + deadline, [answer](const AppendResult& result) {
      EXPECT_FALSE(answer->has_value()) << "answered twice";
      *answer = result;
    });
    return answer;
  }
  // The same, for an operation that is answered at once.
  AppendResult Append(Session& session, const wire::AppendItem& item) {
    const auto answer = Send(session, item);
    EXPECT_TRUE(answer->has_value()) << "not answered at once";
    return answer->value_or(AppendResult{absl::UnknownError("no answer"), 0, 0});
  }

  static wire::AttendItem Query(const Session& session, uint64_t sequence, uint32_t layer,
                                base::PositionRange range, bool sampled = false) {
    const wire::SessionSpec& spec = session.spec();
    wire::AttendItem item;
    item.session = spec.session;
    item.sequence = sequence;
    item.layer = layer;
    item.kv_head_begin = spec.kv_head_begin;
    item.kv_head_count = spec.kv_head_count;
    item.group = 2;
    item.query_count = 1;
    item.head_dim = spec.model.head_dim;
    item.range = range;
    item.layout_position = range.end;
    if (sampled) {
      item.attention = spec.index();
      item.row_format = spec.row_format;
      item.signature_words = spec.index() == wire::AttentionKind::kLshTables ? 1 : 0;
    }
    return item;
  }
  using PlanAnswer = std::shared_ptr<std::optional<absl::StatusOr<AttendPlan>>>;
  PlanAnswer Plan(Session& session, const wire::AttendItem& item,
                  base::Duration deadline = std::chrono::seconds(1)) {
    auto answer = std::make_shared<std::optional<absl::StatusOr<AttendPlan>>>();
    session.Plan(item, executor.clock().Now() + deadline,
                 [answer](absl::StatusOr<AttendPlan> plan) {
                   EXPECT_FALSE(answer->has_value()) << "answered twice";
                   *answer = std::move(plan);
                 });
    return answer;
  }

  // Lets time pass, and everything happen that falls into it.
  void RunFor(base::Duration duration) { executor.RunFor(duration); }

  base::VirtualExecutor executor;
  SessionMap map;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_SESSION_SESSION_DRIVER_H_
