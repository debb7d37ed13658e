// A session map in virtual time for sessions that branch: rows that say which generation of a
// position they are, and what a session holds, as text.
#ifndef SOUNDER_TESTS_KV_NODE_SESSION_BRANCH_DRIVER_H_
#define SOUNDER_TESTS_KV_NODE_SESSION_BRANCH_DRIVER_H_

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/memory/aligned_buffer.h"
#include "tests/kv_node/session/session_driver.h"

namespace sounder::kv_node {

class BranchDriver : public SessionDriver {
 public:
  explicit BranchDriver(uint64_t memory_bytes = uint64_t{1} << 30, size_t max_sessions = 4096)
      : SessionDriver(memory_bytes, /*seed=*/1, max_sessions) {}

  // As SessionDriver's, in f32, with sketches on layer 1.
  static wire::SessionSpec Spec(uint64_t number) {
    wire::SessionSpec spec = SketchSpec(number);
    spec.row_format = wire::RowFormat::kAsAppended;
    spec.dtype = base::DType::kF32;
    return spec;
  }

  static wire::AppendItem Item(const Session& session, uint64_t sequence, uint32_t layer,
                               base::Position first, uint32_t rows, bool seal = false) {
    wire::AppendItem item = SessionDriver::Item(session, sequence, layer, first, rows);
    item.seal_after = seal;
    return item;
  }
  static int32_t Token(base::Position position, int generation) {
    return static_cast<int32_t>(1000000 * generation + position);
  }
  using Answer = std::shared_ptr<std::optional<AppendResult>>;
  // Sends the item with rows, and token ids with layer 0, of that generation.
  Answer Send(Session& session, wire::AppendItem item, int generation,
              base::Duration deadline = std::chrono::seconds(1)) {
    memory::AlignedBuffer rows =
        memory::AlignedBuffer::Zeroed(item.kv_head_count * item.head_bytes());
    const std::span<float> elements = rows.As<float>();
    std::vector<int32_t> tokens;
    for (uint32_t head = 0; head < item.kv_head_count; ++head) {
      for (uint32_t row = 0; row < item.row_count; ++row) {
        float* const out = elements.data() + (head * item.row_count + row) * item.head_dim;
        out[0] = static_cast<float>(generation);
        out[1] = static_cast<float>(item.first_position + row);
        out[2] = static_cast<float>(item.layer * 64 + item.kv_head_begin + head);
        if (head == 0) tokens.push_back(Token(item.first_position + row, generation));
      }
    }
    item.keys = item.values = std::as_const(rows).bytes();
    if (item.layer == 0 && item.tokens.empty()) item.tokens = tokens;
    auto answer = NewAnswer();
    session.Append(item, executor.clock().Now() + deadline, Keep(answer));
    return answer;
  }
  // The same, for an operation that is answered at once.
  AppendResult Append(Session& session, const wire::AppendItem& item, int generation = 1) {
    const Answer answer = Send(session, item, generation);
    EXPECT_TRUE(answer->has_value()) << "not answered at once";
    return answer->value_or(AppendResult{absl::UnknownError("no answer"), 0, 0});
  }
  Answer Truncate(Session& session, uint64_t sequence, base::Position position,
                  base::Duration deadline = std::chrono::seconds(1), uint64_t epoch = 0) {
    auto answer = NewAnswer();
    session.Truncate({session.spec().session.id, epoch}, sequence, position,
                     executor.clock().Now() + deadline, Keep(answer));
    return answer;
  }
  // The child is session {1, child}.
  absl::StatusOr<std::shared_ptr<Session>> Fork(Session& parent, uint64_t sequence,
                                                base::Position position, uint64_t child) {
    wire::ForkCall call;
    call.op = {parent.spec().session, sequence, parent.spec().tenant};
    call.position = position;
    call.child.id = {1, child};
    absl::Status forked = absl::UnknownError("no answer");
    map.Fork(call, executor.clock().Now(), [&](absl::Status status) { forked = status; });
    if (!forked.ok()) return forked;
    return map.Find(call.child.id);
  }

  static wire::FetchItem FetchItem(const Session& session, uint64_t sequence, uint32_t layer,
                                   base::PositionRange range) {
    const wire::SessionSpec& spec = session.spec();
    wire::FetchItem item;
    item.session = spec.session;
    item.sequence = sequence;
    item.layer = layer;
    item.kv_head_begin = spec.kv_head_begin;
    item.kv_head_count = spec.kv_head_count;
    item.range = range;
    item.head_dim = spec.model.head_dim;
    item.dtype = spec.dtype;
    item.want_tokens = true;
    return item;
  }
  absl::StatusOr<FetchedRows> Fetch(Session& session, const wire::FetchItem& item) {
    std::optional<absl::StatusOr<FetchedRows>> answer;
    session.Fetch(item, executor.clock().Now() + std::chrono::milliseconds(100),
                  [&](absl::StatusOr<FetchedRows> rows) { answer = std::move(rows); });
    if (!answer.has_value()) RunFor(std::chrono::milliseconds(200));
    EXPECT_TRUE(answer.has_value()) << "no answer by its deadline";
    return answer.has_value() ? *std::move(answer) : absl::UnknownError("no answer");
  }
  absl::StatusOr<FetchedRows> Fetch(Session& session, uint64_t sequence, uint32_t layer,
                                    base::PositionRange range) {
    return Fetch(session, FetchItem(session, sequence, layer, range));
  }

  // "1:20 3:15": runs of rows of one generation, the same in every head; or what is wrong with
  // them.
  std::string TextOf(const Session& session, const FetchedRows& rows) {
    std::string text;
    for (size_t head = 0; head < rows.pieces.size(); ++head) {
      std::vector<std::pair<int, int>> runs;
      for (const Piece& piece : rows.pieces[head]) {
        for (int64_t row = piece.row_begin; row < piece.row_end; ++row) {
          const auto generation = static_cast<int>(piece.keys.At(row, 0));
          if (piece.keys.At(row, 1) != static_cast<float>(piece.first_position + row) ||
              static_cast<size_t>(piece.values.At(row, 2)) % 64 !=
                  session.spec().kv_head_begin + head) {
            return absl::StrCat("wrong row at position ", piece.first_position + row);
          }
          if (runs.empty() || runs.back().first != generation) runs.emplace_back(generation, 0);
          ++runs.back().second;
        }
      }
      std::string of_head;
      for (const auto& [generation, count] : runs) {
        absl::StrAppend(&of_head, of_head.empty() ? "" : " ", generation, ":", count);
      }
      if (head > 0 && of_head != text) return absl::StrCat("heads differ: ", text, ", ", of_head);
      text = of_head;
    }
    return text;
  }
  // "[0,16)s [16,20) = 1:20": segments and tail of every head and layer, then all rows; checks
  // token ids as well.
  std::string RowsText(Session& session, uint32_t layer, uint64_t epoch = 0) {
    const base::Position end = session.Info().end_position;
    wire::FetchItem item = FetchItem(session, 0, layer, {0, layer == 0 ? EndOf(session) : end});
    item.session.epoch = epoch;
    item.sequence = session.Info().applied_sequence;
    const auto fetched = Fetch(session, item);
    if (!fetched.ok()) return fetched.status().ToString();
    std::string layout;
    wire::AttendItem query = Query(session, item.sequence, layer, item.range);
    query.session = item.session;
    query.layout_position = 1 << 20;
    const PlanAnswer plan = Plan(session, query);
    if (!plan->has_value() || !(*plan)->ok()) return "no plan";
    size_t at = 0;
    for (const Piece& piece : (**plan)->pieces[0]) {
      absl::StrAppend(&layout, "[", piece.first_position, ",", piece.first_position + piece.row_end,
                      piece.sealed ? ")s " : ") ");
      for (int64_t row = 0; row < piece.row_end; ++row, ++at) {
        const int32_t token =
            Token(piece.first_position + row, static_cast<int>(piece.keys.At(row, 0)));
        if (fetched->tokens.at(at) != token) return absl::StrCat("wrong token ", at);
      }
    }
    return absl::StrCat(layout, "= ", TextOf(session, *fetched));
  }
  std::string RowsText(Session& session) {
    const std::string first = RowsText(session, 0);
    const std::string second = RowsText(session, 1);
    return first == second ? first : absl::StrCat("layers differ: ", first, ", ", second);
  }
  static std::string EndsText(const Session& session) {
    std::string text;
    for (const base::Position end : session.Info().head_ends) {
      absl::StrAppend(&text, text.empty() ? "" : " ", end);
    }
    return text;
  }

 private:
  // Of layer 0, whose token ids say it.
  static base::Position EndOf(const Session& session) {
    return static_cast<base::Position>(session.Info().tokens);
  }
  static Answer NewAnswer() { return std::make_shared<std::optional<AppendResult>>(); }
  static Session::AppendDone Keep(const Answer& answer) {
    return [answer](const AppendResult& result) {
      EXPECT_FALSE(answer->has_value()) << "answered twice";
      *answer = result;
    };
  }
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_SESSION_BRANCH_DRIVER_H_
