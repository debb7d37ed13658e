#include "kv_node/session/token_runs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {
namespace {

constexpr int64_t kBlockTokens = 4096;

}  // namespace

const TokenRuns::Run* TokenRuns::RunOf(base::Position position) const {
  const auto behind =
      std::upper_bound(runs_.begin(), runs_.end(), position,
                       [](base::Position at, const Run& run) { return at < run.block->first; });
  return behind == runs_.begin() ? nullptr : &*std::prev(behind);
}

absl::Status TokenRuns::Check(base::Position first, std::span<const int32_t> tokens) const {
  const base::Position end = runs_.empty() ? 0 : runs_.back().end();
  for (size_t i = 0; i < tokens.size() && first + static_cast<int64_t>(i) < end; ++i) {
    const base::Position position = first + static_cast<int64_t>(i);
    const Run* run = RunOf(position);
    if (run == nullptr || position >= run->end()) {
      return absl::FailedPreconditionError(
          absl::StrCat("position ", position, " got no token id before those up to position ",
                       end - 1, " came, it cannot get one now"));
    }
    const int32_t held = run->block->tokens[static_cast<size_t>(position - run->block->first)];
    if (held != tokens[i]) {
      return absl::AlreadyExistsError(absl::StrCat("position ", position, " has the token id ",
                                                   held, ", it cannot get ", tokens[i]));
    }
  }
  return absl::OkStatus();
}

absl::Status TokenRuns::Put(base::Position first, std::span<const int32_t> tokens) {
  const base::Position end = runs_.empty() ? 0 : runs_.back().end();
  const auto known =
      static_cast<size_t>(std::clamp<int64_t>(end - first, 0, static_cast<int64_t>(tokens.size())));
  tokens = tokens.subspan(known);
  first += static_cast<int64_t>(known);
  while (!tokens.empty()) {
    const auto wanted = static_cast<int64_t>(tokens.size());
    int64_t room = 0;
    if (!runs_.empty() && runs_.back().end() == first) {
      ASSIGN_OR_RETURN(room, Extend(&runs_.back(), wanted));
    }
    if (room == 0) {
      const int64_t capacity = std::clamp<int64_t>(wanted, 64, kBlockTokens);
      ASSIGN_OR_RETURN(Held<Block> block, NewBlock(first, capacity, nullptr));
      room = std::min(wanted, capacity);
      block->written = room;
      runs_.push_back({std::move(block), 0});
    }
    Run& run = runs_.back();
    const auto taken = static_cast<size_t>(room);
    std::copy(tokens.begin(), tokens.begin() + room, run.block->tokens.begin() + run.size);
    run.size += room;
    tokens = tokens.subspan(taken);
    first += room;
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> TokenRuns::Extend(Run* run, int64_t count) {
  const int64_t room = std::min(count, kBlockTokens - run->size);
  if (room == 0) return room;
  const int64_t size = run->size + room;
  const auto capacity = static_cast<int64_t>(run->block->tokens.size());
  if (size <= capacity) {
    if (run->block.Alone()) {
      run->block->written = size;
      return room;
    }
    int64_t held = run->size;
    if (run->block->written.compare_exchange_strong(held, size)) return room;
  }
  const int64_t grown = std::clamp(capacity + capacity / 2, size, kBlockTokens);
  ASSIGN_OR_RETURN(Held<Block> block,
                   NewBlock(run->block->first, size <= capacity ? capacity : grown, run));
  block->written = size;
  run->block = std::move(block);
  return room;
}

// A copy that `replaces` the block of a run that nobody else holds takes its place in the budget.
absl::StatusOr<Held<TokenRuns::Block>> TokenRuns::NewBlock(base::Position first, int64_t capacity,
                                                           Run* replaces) const {
  Reservation reservation(budget_);
  const uint64_t bytes = static_cast<uint64_t>(capacity) * sizeof(int32_t);
  if (replaces != nullptr && replaces->block.Alone()) {
    Reservation& old = replaces->block->reservation;
    RETURN_IF_ERROR(old.Resize(std::max(bytes, old.bytes())));
    old.Give(old.bytes(), &reservation);
  }
  RETURN_IF_ERROR(reservation.Resize(bytes));
  Held<Block> block(std::make_shared<Block>(first, std::move(reservation), capacity));
  if (replaces != nullptr) {
    std::copy_n(replaces->block->tokens.begin(), replaces->size, block->tokens.begin());
  }
  return block;
}

absl::StatusOr<std::vector<int32_t>> TokenRuns::Read(base::PositionRange range) const {
  std::vector<int32_t> tokens;
  tokens.reserve(std::min(static_cast<size_t>(range.size()), static_cast<size_t>(count())));
  for (base::Position next = range.begin; next < range.end;) {
    const Run* run = RunOf(next);
    if (run == nullptr || next >= run->end()) {
      return absl::FailedPreconditionError(
          absl::StrCat("token ids of [", range.begin, ", ", range.end,
                       ") were asked for, but position ", next, " has none"));
    }
    const base::Position end = std::min(range.end, run->end());
    const auto from = run->block->tokens.begin() + (next - run->block->first);
    tokens.insert(tokens.end(), from, from + (end - next));
    next = end;
  }
  return tokens;
}

std::vector<TokenRuns::Ids> TokenRuns::From(base::Position position) const {
  std::vector<Ids> all;
  for (const Run& run : runs_) {
    const base::Position first = std::max(position, run.block->first);
    if (first >= run.end()) continue;
    const auto begin = run.block->tokens.begin();
    all.push_back(
        {first, {begin + (first - run.block->first), begin + (run.end() - run.block->first)}});
  }
  return all;
}

void TokenRuns::Truncate(base::Position position) {
  while (!runs_.empty() && runs_.back().block->first >= position) runs_.pop_back();
  if (runs_.empty()) return;
  Run& last = runs_.back();
  last.size = std::min(last.size, position - last.block->first);
}

uint64_t TokenRuns::count() const {
  uint64_t count = 0;
  for (const Run& run : runs_) count += static_cast<uint64_t>(run.size);
  return count;
}

void TokenRuns::Count(HeldBytes* bytes, SharedBlocks* once) const {
  for (const Run& run : runs_) {
    if (!HeldBytes::Counts(run.block, once)) continue;
    bytes->other += run.block->reservation.bytes();
    if (!run.block.Alone()) bytes->shared += run.block->reservation.bytes();
  }
}

}  // namespace sounder::kv_node
