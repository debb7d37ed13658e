// What a chat says of a turn. (Chats themselves: tests/e2e/chat_test.cc.)
#include "gpu_worker/chat.h"

#include <gtest/gtest.h>

namespace sounder::gpu_worker {
namespace {

TEST(DescribeTest, WhatIsKnown) {
  TurnFigures figures;
  figures.prompt_tokens = 12;
  figures.generated = 40;
  figures.first_token_seconds = .25;
  figures.decode_seconds = 2;
  figures.decode_steps = 40;
  figures.counts.rows_visible = 1000;
  figures.counts.rows_read = 25;
  figures.counts.audited = 4;
  figures.counts.audited_error = .2;
  figures.attend_bytes = 40 * 3072;
  figures.node_memory = 3 << 19;
  EXPECT_EQ(Describe(3, figures),
            "[turn 3: 12 tokens, 40 generated, first after 0.25 s, 20.0 tokens/s, 2.50 % of rows "
            "read, attention error 0.0500, 3.0 KiB/step, nodes hold 1.5 MiB]");
}

TEST(DescribeTest, WhatIsNot) {
  TurnFigures figures;
  figures.prompt_tokens = 1;
  figures.recomputed = 700;
  EXPECT_EQ(Describe(1, figures), "[turn 1: 1 tokens (+ 700 again), 0 generated]");
}

}  // namespace
}  // namespace sounder::gpu_worker
