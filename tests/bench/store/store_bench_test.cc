// The benchmark of stores on a few small segments: every figure is there, and those that do not
// depend on time are what the stores write. (Speed is not tested: disks differ.)
#include "bench/store/store_bench.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/kv_node/store/scratch_folder.h"

namespace sounder::store_bench {
namespace {

TEST(StoreBenchTest, GivesEveryFigureOfEveryStore) {
  kv_node::ScratchFolder folder;
  cli::Record record;
  const absl::Status status = RunStoreBench(QuickStoreBench(), folder.path(), record);
  if (absl::IsFailedPrecondition(status)) GTEST_SKIP() << status.ToString();
  ASSERT_TRUE(status.ok()) << status.ToString();
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  const auto json = nlohmann::json::parse(record.ToJson());
  const auto value = [&](const std::string& key) {
    EXPECT_TRUE(json.contains(key)) << key;
    return json.contains(key) ? json[key].get<double>() : std::nan("");
  };
  for (const std::string store :
       {"log_uring", "log_threads", "files_uring", "sst_xxh3", "blobdb", "append"}) {
    for (const char* key : {"write_mib_per_s", "durable_segment_p50_ms", "durable_segment_p99_ms",
                            "sustained_mib_per_s", "rows_p50_us", "rows_p99_us", "segment_p50_us",
                            "segment_p99_us", "delete_half_s", "space_after_delete_over_live"}) {
      EXPECT_GT(value(store + "_" + key), 0) << store << " " << key;
    }
    EXPECT_GE(value(store + "_rows_p99_us"), value(store + "_rows_p50_us"));
  }
  for (const char* key :
       {"open_ms", "segment_ms_p50", "segment_ms_p99", "tail_ms_p50", "tail_ms_p99"}) {
    EXPECT_GT(value(std::string("records_") + key), 0) << key;
  }
  // Per segment of 64 pages of rows: a header, checksums and a footer.
  for (const std::string store : {"log_uring", "log_threads", "files_uring"}) {
    EXPECT_NEAR(value(store + "_write_amplification"), 67.0 / 64, .03);
    EXPECT_NEAR(value(store + "_space_after_delete_over_live"), 67.0 / 64, .1);
  }
  EXPECT_NEAR(value("append_write_amplification"), 1, .01);
  EXPECT_NEAR(value("append_space_after_delete_over_live"), 2, .1);
  // Log and table.
  EXPECT_GT(value("sst_xxh3_write_amplification"), 1.9);
  EXPECT_GT(value("blobdb_write_amplification"), 1.9);
}

TEST(StoreBenchTest, RefusesMemory) {
  kv_node::ScratchFolder folder("/dev/shm");
  cli::Record record;
  const absl::Status status = RunStoreBench(QuickStoreBench(), folder.path(), record);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status.ToString();
}

}  // namespace
}  // namespace sounder::store_bench
