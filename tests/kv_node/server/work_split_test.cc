// How work is cut and ordered.
#include "kv_node/server/work_split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sounder::kv_node {
namespace {

using ::testing::ElementsAre;

std::vector<int64_t> Ends(int64_t begin, int64_t end, size_t queries) {
  Piece piece;
  piece.first_position = 1000;
  piece.row_begin = begin;
  piece.row_end = end;
  std::vector<int64_t> ends;
  int64_t next = begin;
  for (const Piece& part : CutExactPiece(piece, queries)) {
    EXPECT_EQ(part.first_position, 1000);
    EXPECT_EQ(part.row_begin, next) << "parts follow each other";
    EXPECT_GT(part.rows(), 0);
    next = part.row_end;
    ends.push_back(next);
  }
  return ends;
}

TEST(WorkSplitTest, PartsEndAtMultiplesOfRowsOfTheSegment) {
  EXPECT_THAT(Ends(0, 4096, 4), ElementsAre(4096));
  EXPECT_THAT(Ends(0, 10000, 4), ElementsAre(4096, 8192, 10000));
  // Wherever the range begins, the cuts are the same.
  EXPECT_THAT(Ends(4095, 8193, 4), ElementsAre(4096, 8192, 8193));
  EXPECT_THAT(Ends(4096, 4097, 1), ElementsAre(4097));
  EXPECT_THAT(Ends(7, 7, 1), ElementsAre());
}

TEST(WorkSplitTest, ManyQueriesGetLongerParts) {
  EXPECT_EQ(Ends(0, 65536, 64).size(), 16u);
  EXPECT_EQ(Ends(0, 65536, 65).size(), 8u);
  EXPECT_EQ(Ends(0, 65536, 64 * 16).size(), 1u);
  // Partial outputs at dim 128 stay below 1/30 of 65,536 rows of K and V in bf16.
  for (size_t queries = 1; queries <= size_t{64} * 16; ++queries) {
    EXPECT_LE(Ends(0, 65536, queries).size() * queries * 129 * 4, 65536u * 512 / 30) << queries;
  }
}

TEST(WorkSplitTest, DearestFirstAndOtherwiseInOrder) {
  EXPECT_THAT(DearestFirst(std::vector<int64_t>{5, 9, 5, 0, 9}), ElementsAre(1, 4, 0, 2, 3));
  EXPECT_THAT(DearestFirst({}), ElementsAre());
  Piece piece;
  piece.row_end = 800;
  EXPECT_GT(CostOf(piece, 4, false), CostOf(piece, 4, true));
  EXPECT_EQ(CostOf(piece, 5, false), 2 * CostOf(piece, 4, false));
}

}  // namespace
}  // namespace sounder::kv_node
