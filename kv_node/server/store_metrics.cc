#include "kv_node/server/store_metrics.h"

#include <memory>

#include "kv_node/server/shared_reading.h"

namespace sounder::kv_node {
namespace {

void AddTierMetrics(metrics::Registry& registry, const Tiers& tiers) {
  // Where segments are is found by looking at all of them: once for an exposition.
  const auto census =
      std::make_shared<SharedReading<TierCensus>>([&tiers] { return tiers.census(); });
  const auto gauge = [&](const char* name, const char* help, uint64_t TierCensus::*field) {
    registry.AddGaugeCallback(name, help, [census, field] { return census->Of(field); });
  };
  gauge("sounder_store_hot_segments", "Segments with rows and index in memory.",
        &TierCensus::hot_segments);
  gauge("sounder_store_warm_segments", "Segments with only their index in memory.",
        &TierCensus::warm_segments);
  gauge("sounder_store_cold_segments", "Segments of which nothing is in memory.",
        &TierCensus::cold_segments);
  const auto counter = [&](const char* name, const char* help, uint64_t TierCounters::*field) {
    registry.AddCounterCallback(
        name, help, [&tiers, field] { return static_cast<double>(tiers.counters().*field); });
  };
  counter("sounder_store_spilled_segments_total", "Times that rows of a segment left memory.",
          &TierCounters::spilled_segments);
  counter("sounder_store_evicted_segments_total",
          "Times that the index of a segment left memory too.", &TierCounters::evicted_indexes);
  counter("sounder_store_opened_segments_total", "Times that the index of a segment was read back.",
          &TierCounters::opened_segments);
  counter("sounder_store_loaded_segments_total", "Times that all rows of a segment were read back.",
          &TierCounters::loaded_segments);
  counter("sounder_store_failed_written_segments_total", "Segments that could not be written.",
          &TierCounters::failed_writes);
  counter("sounder_store_failed_loaded_segments_total",
          "Segments whose rows could not be read back.", &TierCounters::failed_reads);
}

void AddSegmentMetrics(metrics::Registry& registry, const SegmentStore& store) {
  registry.AddGaugeCallback(
      "sounder_store_live_bytes", "Bytes on disk of segments in use.",
      [&store] { return static_cast<double>(store.log().counts().live_bytes); });
  registry.AddGaugeCallback("sounder_store_open_files", "Files of segments.",
                            [&store] { return static_cast<double>(store.log().counts().files); });
  registry.AddGaugeCallback("sounder_store_free_bytes", "Free space of the file system.", [&store] {
    return static_cast<double>(store.disk().FreeBytes().value_or(0));
  });
  const auto counter = [&](const char* name, const char* help,
                           uint64_t SegmentStoreCounts::*field) {
    registry.AddCounterCallback(
        name, help, [&store, field] { return static_cast<double>(store.counts().*field); });
  };
  counter("sounder_store_written_segments_total", "Segments written.",
          &SegmentStoreCounts::written_segments);
  counter("sounder_store_written_bytes_total", "Bytes of segments written.",
          &SegmentStoreCounts::written_bytes);
  counter("sounder_store_freed_segments_total", "Segments whose space was given back.",
          &SegmentStoreCounts::freed_segments);
  counter("sounder_store_failed_freed_segments_total",
          "Segments whose space could not be given back: it is at the next start.",
          &SegmentStoreCounts::failed_frees);
}

}  // namespace

void AddRowSourceMetrics(metrics::Registry& registry, const RowSource& rows) {
  const auto add = [&](const std::string& name, const std::string& help, auto read) {
    registry.AddCounterCallback(name, help,
                                [&rows, read] { return static_cast<double>(read(rows.counts())); });
  };
  using Counts = RowSourceCounts;
  add("sounder_store_asked_rows_total", "Rows of stored segments that attends and fetches needed.",
      [](const Counts& counts) { return counts.rows; });
  add("sounder_store_cached_rows_total", "Of those, rows that the row cache had.",
      [](const Counts& counts) { return counts.cached; });
  add("sounder_store_joined_rows_total",
      "Of those, rows that were being read already, for another request.",
      [](const Counts& counts) { return counts.joined; });
  add("sounder_store_failed_rows_total",
      "Of those, rows that could not be read or were not what had been written.",
      [](const Counts& counts) { return counts.failed; });
  add("sounder_store_read_bytes_total", "Bytes of rows read from the disk, in whole pages.",
      [](const Counts& counts) { return counts.bytes(); });
  add("sounder_store_read_requests_total", "Reads of the disk, each of neighbouring pages.",
      [](const Counts& counts) { return counts.reads; });
  registry.AddGaugeCallback("sounder_store_row_cache_bytes",
                            "Memory of the rows in the row cache, bookkeeping included.",
                            [&rows] { return static_cast<double>(rows.cache().bytes()); });
}

void AddStoreMetrics(metrics::Registry& registry, const SessionMap& sessions,
                     const RowSource& rows) {
  AddTierMetrics(registry, *sessions.tiers());
  AddSegmentMetrics(registry, *sessions.tiers()->store());
  AddRowSourceMetrics(registry, rows);
  registry.AddCounterCallback(
      "sounder_store_commit_errors_total",
      "Writes of durable sessions that failed; each is tried again until it succeeds.",
      [&sessions] { return static_cast<double>(sessions.failed_commits()); });
}

}  // namespace sounder::kv_node
