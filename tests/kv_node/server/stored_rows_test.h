// A node with rows on its disk, both in virtual time.
#ifndef SOUNDER_TESTS_KV_NODE_SERVER_STORED_ROWS_TEST_H_
#define SOUNDER_TESTS_KV_NODE_SERVER_STORED_ROWS_TEST_H_

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/virtual_executor.h"
#include "tests/kv_node/server/stored_rows.h"

namespace sounder::kv_node {

class StoredRowsTest : public testing::Test {
 protected:
  using Question = StoredRows::Question;

  // A disk in virtual time.
  StoredRowsOptions Timed(base::Duration delay, uint64_t cache_bytes = 0) {
    StoredRowsOptions options;
    options.faults.executor = &executor_;
    options.faults.read_delay = delay;
    options.cache_bytes = cache_bytes;
    return options;
  }
  std::vector<wire::AttendReply> Replies(StoredRows& node) {
    executor_.RunFor(std::chrono::seconds(2));
    return node.driver.AttendReplies();
  }
  std::shared_ptr<Session> Open(StoredRows& node, const wire::SessionSpec& spec, uint32_t rows,
                                bool seal = false) {
    auto session = node.Open(spec, rows, seal);
    executor_.RunFor(std::chrono::milliseconds(10));
    for (const wire::AppendReply& reply : node.driver.AppendReplies()) {
      EXPECT_TRUE(reply.items.at(0).status.ok()) << reply.items[0].status;
    }
    return session;
  }
  wire::AttendReply Answer(StoredRows& node, std::vector<Question> questions,
                           uint32_t deadline_us = 0) {
    node.Send(questions, deadline_us);
    std::vector<wire::AttendReply> replies = Replies(node);
    CHECK(replies.size() == 1) << replies.size() << " answers";
    CHECK(replies[0].envelope.status.ok()) << replies[0].envelope.status.ToString();
    return std::move(replies[0]);
  }

  base::VirtualExecutor executor_{1};
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_SERVER_STORED_ROWS_TEST_H_
