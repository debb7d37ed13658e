// LocalRows against a plain list of rows, under random appends, drops and reads.
#include "gpu_worker/kv/local_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/base/philox.h"

namespace sounder::gpu_worker {
namespace {

constexpr int kDim = 8;

// What a row of a position holds.
float KeyAt(base::Position position, int column) {
  return static_cast<float>(position % 200) + 0.25f * static_cast<float>(column % 2);
}
float ValueAt(base::Position position, int column) { return -KeyAt(position + 1, column); }

void ExpectHolds(const LocalPiece& piece, base::Position first, base::Position end,
                 base::DType dtype) {
  EXPECT_EQ(piece.first_position, first);
  ASSERT_EQ(piece.keys.rows, std::max<int64_t>(0, end - first));
  ASSERT_EQ(piece.values.rows, piece.keys.rows);
  for (int64_t row = 0; row < piece.keys.rows; ++row) {
    for (const int column : {0, kDim - 1}) {
      ASSERT_EQ(piece.keys.At(row, column), base::RoundTo(dtype, KeyAt(first + row, column)))
          << "position " << first + row;
      ASSERT_EQ(piece.values.At(row, column), base::RoundTo(dtype, ValueAt(first + row, column)));
    }
  }
}

void AppendNext(LocalRows* rows) {
  float key[kDim];
  float value[kDim];
  for (int column = 0; column < kDim; ++column) {
    key[column] = KeyAt(rows->end(), column);
    value[column] = ValueAt(rows->end(), column);
  }
  rows->Append(key, value);
}

TEST(LocalRowsTest, HoldsWhatAPlainListWouldHold) {
  for (uint64_t seed = 1; seed <= 200 && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    base::PhiloxStream random(seed, 0);
    const auto dtype = static_cast<base::DType>(random.NextBelow(3));
    const int64_t sinks = random.NextBelow(6);
    LocalRows rows(kDim, dtype, sinks);
    base::Position end = 0;
    base::Position window = sinks;  // first position held behind the sinks
    for (int step = 0; step < 60; ++step) {
      const uint32_t count = random.NextBelow(random.NextBelow(5) == 0 ? 400 : 10);
      for (uint32_t i = 0; i < count; ++i, ++end) AppendNext(&rows);
      if (random.NextBelow(2) == 0) {
        const base::Position drop = random.NextBelow(static_cast<uint32_t>(end) + 3);
        rows.DropBefore(drop);
        window = std::max(window, std::min(std::max(drop, sinks), std::max(end, sinks)));
      }
      ASSERT_EQ(rows.end(), end);
      ASSERT_EQ(rows.window_begin(), std::min(window, end));
      ExpectHolds(rows.Sinks(), 0, std::min(sinks, end), dtype);
      ExpectHolds(rows.Window(), std::min(window, end), end, dtype);
      if (end > window) {
        const base::Position a = window + random.NextBelow(static_cast<uint32_t>(end - window) + 1);
        const base::Position b = a + random.NextBelow(static_cast<uint32_t>(end - a) + 1);
        ExpectHolds(rows.Range({a, b}), a, b, dtype);
      }
      if (window == sinks) ExpectHolds(rows.Range({0, end}), 0, end, dtype);
      const int64_t held = std::min(sinks, end) + std::max<int64_t>(0, end - window);
      const size_t row_bytes = 2 * kDim * SizeOf(dtype);
      // A dropped prompt gives its memory back.
      ASSERT_LE(rows.bytes(), static_cast<size_t>(6 * held + 800) * row_bytes) << held;
    }
  }
}

TEST(LocalRowsTest, NothingIsHeldAtFirst) {
  LocalRows rows(kDim, base::DType::kF32, 4);
  EXPECT_EQ(rows.Sinks().keys.rows, 0);
  EXPECT_EQ(rows.Window().keys.rows, 0);
  EXPECT_EQ(rows.Range({0, 0}).keys.rows, 0);
  rows.DropBefore(10);
  AppendNext(&rows);
  ExpectHolds(rows.Sinks(), 0, 1, base::DType::kF32);
  EXPECT_EQ(rows.Window().keys.rows, 0);
}

TEST(LocalRowsDeathTest, WhatIsNotHeldIsABug) {
  LocalRows rows(kDim, base::DType::kF32, 2);
  for (int i = 0; i < 20; ++i) AppendNext(&rows);
  EXPECT_DEATH(rows.Range({15, 21}), "21 > 20");
  rows.DropBefore(10);
  EXPECT_DEATH(rows.Range({8, 20}), "not held in one piece");
  EXPECT_DEATH(rows.Range({0, 12}), "not held in one piece");
}

// Rows [first, end) as they come from a node.
std::vector<std::byte> Packed(base::PositionRange range, base::DType dtype,
                              float (*at)(base::Position, int)) {
  std::vector<std::byte> bytes(static_cast<size_t>(range.size()) * kDim * SizeOf(dtype));
  std::byte* out = bytes.data();
  for (base::Position position = range.begin; position < range.end; ++position) {
    for (int column = 0; column < kDim; ++column, out += SizeOf(dtype)) {
      base::StoreElement(at(position, column), out, dtype);
    }
  }
  return bytes;
}

// Back to any position, whose window is loaded where it was dropped, and on from there.
TEST(LocalRowsTest, GoesBackAndIsLoaded) {
  int loaded = 0;
  for (uint64_t seed = 1; seed <= 200 && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    base::PhiloxStream random(seed, 1);
    const auto dtype = static_cast<base::DType>(random.NextBelow(3));
    const int64_t sinks = random.NextBelow(6);
    LocalRows rows(kDim, dtype, sinks);
    const auto load = [&](base::PositionRange range) {
      const std::vector<std::byte> keys = Packed(range, dtype, KeyAt);
      const std::vector<std::byte> values = Packed(range, dtype, ValueAt);
      rows.Load(range, keys.data(), values.data());
    };
    for (int step = 0; step < 20; ++step) {
      const uint32_t count = random.NextBelow(100);
      for (uint32_t i = 0; i < count; ++i) AppendNext(&rows);
      rows.DropBefore(rows.end() - random.NextBelow(10));
      const base::Position end = random.NextBelow(static_cast<uint32_t>(rows.end()) + 1);
      const base::Position window =
          std::max(std::min(sinks, end), end - static_cast<base::Position>(random.NextBelow(10)));
      if (rows.window_begin() <= window) {
        rows.Truncate(end);
        rows.DropBefore(window);
      } else {
        rows.Truncate(std::min(sinks, end));
        load({window, end});
        ++loaded;
      }
      ASSERT_EQ(rows.end(), end);
      ExpectHolds(rows.Sinks(), 0, std::min(sinks, end), dtype);
      if (end > sinks) ExpectHolds(rows.Range({window, end}), window, end, dtype);
    }
  }
  EXPECT_GT(loaded, 1000);
}

}  // namespace
}  // namespace sounder::gpu_worker
