#include "kv_node/server/store_metrics.h"

namespace sounder::kv_node {
namespace {

void AddTierMetrics(metrics::Registry& registry, const Tiers& tiers) {
  const auto gauge = [&](const char* name, const char* help, uint64_t TierCounts::*field) {
    registry.AddGaugeCallback(
        name, help, [&tiers, field] { return static_cast<double>(tiers.counts().*field); });
  };
  gauge("sounder_store_hot_segments", "Segments with rows and index in memory.",
        &TierCounts::hot_segments);
  gauge("sounder_store_warm_segments", "Segments with only their index in memory.",
        &TierCounts::warm_segments);
  gauge("sounder_store_cold_segments", "Segments of which nothing is in memory.",
        &TierCounts::cold_segments);
  const auto counter = [&](const char* name, const char* help, uint64_t TierCounts::*field) {
    registry.AddCounterCallback(
        name, help, [&tiers, field] { return static_cast<double>(tiers.counts().*field); });
  };
  counter("sounder_store_spilled_segments_total", "Times that rows of a segment left memory.",
          &TierCounts::spilled_segments);
  counter("sounder_store_evicted_segments_total",
          "Times that the index of a segment left memory too.", &TierCounts::evicted_indexes);
  counter("sounder_store_opened_segments_total", "Times that the index of a segment was read back.",
          &TierCounts::opened_segments);
  counter("sounder_store_loaded_segments_total", "Times that all rows of a segment were read back.",
          &TierCounts::loaded_segments);
  counter("sounder_store_failed_written_segments_total", "Segments that could not be written.",
          &TierCounts::failed_writes);
  counter("sounder_store_failed_loaded_segments_total",
          "Segments whose rows could not be read back.", &TierCounts::failed_reads);
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
}

void AddReadMetrics(metrics::Registry& registry, const RowSource& rows) {
  const auto counter = [&](const char* name, const char* help, auto value) {
    registry.AddCounterCallback(name, help,
                                [&rows, value] { return static_cast<double>(value(rows)); });
  };
  counter("sounder_store_asked_rows_total", "Rows of stored segments that attends asked for.",
          [](const RowSource& source) { return source.counts().rows; });
  counter("sounder_store_cached_rows_total", "Rows of those that the row cache had.",
          [](const RowSource& source) { return source.counts().cached; });
  counter("sounder_store_failed_rows_total", "Rows of those that could not be read.",
          [](const RowSource& source) { return source.counts().failed; });
  counter("sounder_store_read_bytes_total", "Bytes read from disk for attends and fetches.",
          [](const RowSource& source) { return source.counts().bytes(); });
  counter("sounder_store_read_requests_total", "Reads of the disk, of neighbouring pages each.",
          [](const RowSource& source) { return source.counts().reads; });
  registry.AddGaugeCallback("sounder_store_row_cache_bytes", "Memory of the row cache.",
                            [&rows] { return static_cast<double>(rows.cache().bytes()); });
}

}  // namespace

void AddStoreMetrics(metrics::Registry& registry, const Tiers& tiers, const RowSource& rows) {
  AddTierMetrics(registry, tiers);
  AddSegmentMetrics(registry, *tiers.store());
  AddReadMetrics(registry, rows);
}

}  // namespace sounder::kv_node
