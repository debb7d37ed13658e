#include "kv_node/server/probe.h"

#include "common/base/clock.h"
#include "common/config/logging.h"

namespace sounder::kv_node {
namespace {

// What is read from the sessions at every exposition.
void AddSessionGauges(metrics::Registry& registry, const SessionMap& sessions) {
  registry.AddGaugeCallback("sounder_node_open_sessions", "Sessions open on this node.",
                            [&sessions] { return static_cast<double>(sessions.size()); });
  registry.AddGaugeCallback(
      "sounder_node_memory_used_bytes",
      "Accounted memory of rows and indexes, room reserved for indexes to come included.",
      [&sessions] { return static_cast<double>(sessions.budget().used()); });
  registry.AddGaugeCallback("sounder_node_memory_limit_bytes", "The cap on accounted memory.",
                            [&sessions] { return static_cast<double>(sessions.budget().limit()); });
  registry.AddGaugeCallback(
      "sounder_node_index_backlog_rows",
      "Rows that wait for their index, counted per layer and kv head (--index-backlog-rows).",
      [&sessions] { return static_cast<double>(sessions.lane().waiting_rows()); });
  registry.AddCounterCallback(
      "sounder_node_merged_segments_total",
      "Segments that were merged into a larger one when their block was complete.",
      [&sessions] { return static_cast<double>(sessions.lane().merged_segments()); });
  registry.AddGaugeCallback(
      "sounder_node_queued_append_items",
      "Appends and truncates that wait in their session for an earlier operation.",
      [&sessions] { return static_cast<double>(sessions.Waiting().operations); });
  registry.AddGaugeCallback(
      "sounder_node_waiting_requests",
      "Attends, fetches, forks, acknowledgements and closes that wait for their session.",
      [&sessions] { return static_cast<double>(sessions.Waiting().waiters); });
}

}  // namespace

ServerProbe::ServerProbe(metrics::Registry& registry, const SessionMap& sessions)
    : attend_requests_(
          registry.AddCounter("sounder_node_attend_requests_total", "Attend requests answered.")),
      attend_items_(registry.AddCounter(
          "sounder_node_attend_items_total",
          "Items (session, layer, head range) of the attend requests answered.")),
      attend_failures_(registry.AddCounter("sounder_node_attend_failed_items_total",
                                           "Items of attend requests answered with an error.")),
      attend_seconds_(registry.AddHistogram(
          "sounder_node_attend_seconds",
          "Time from the arrival of an attend request to its answer.", metrics::LatencyBuckets())),
      rows_visible_(registry.AddCounter(
          "sounder_node_visible_rows_total",
          "Rows in reach of the queries answered, counted per query and query head.")),
      rows_read_(registry.AddCounter(
          "sounder_node_read_rows_total",
          "Rows whose key was read for a query head, counted per query and query head.")),
      rows_loaded_(registry.AddCounter("sounder_node_loaded_rows_total",
                                       "Distinct rows read, counted per query and kv head.")),
      append_requests_(
          registry.AddCounter("sounder_node_append_requests_total", "Append requests answered.")),
      append_rows_(registry.AddCounter("sounder_node_appended_rows_total",
                                       "Rows appended, counted per layer and kv head.")),
      append_bytes_(registry.AddCounter("sounder_node_appended_bytes_total",
                                        "Bytes of keys and values appended.")),
      append_failures_(registry.AddCounter("sounder_node_append_failed_items_total",
                                           "Items of append requests answered with an error.")),
      refused_(registry.AddCounter("sounder_node_refused_messages_total",
                                   "Data-plane messages refused as malformed.")),
      refused_requests_(registry.AddCounterFamily(
          "sounder_node_refused_requests_total",
          "Sound requests of the data plane that were not done: they could not be in time "
          "(deadline), their turn came too late (expired), their connection had its share of the "
          "attends (queue) or of the message bytes (memory), or their rows had no room until "
          "others are on disk (room).",
          {"reason"})),
      slow_readers_(registry.AddCounter("sounder_node_slow_reader_connections_total",
                                        "Connections closed because their peer did not take its "
                                        "answers.")),
      admitted_attends_(registry.AddGauge("sounder_node_admitted_attend_requests",
                                          "Attends taken on and not ended: waiting for rows or "
                                          "their turn, or in work.")),
      pending_reads_(registry.AddGauge(
          "sounder_node_pending_read_bytes",
          "What attends that are under way wanted from the disk when they began, by estimate.")),
      message_bytes_(registry.AddGauge("sounder_node_message_bytes",
                                       "Requests of the data plane and answers that have not "
                                       "gone, as counted against --message-memory.")),
      append_credit_(registry.AddGauge("sounder_node_append_credit_bytes",
                                       "What the writer of a session may have in flight, as last "
                                       "granted.")),
      row_seconds_(registry.AddGaugeFamily(
          "sounder_node_attend_row_seconds",
          "Measured thread time of attending a row of a kv head with four queries, by kind of "
          "attention (a row in range, whether it was read or not); 0: not measured yet.",
          {"attention"})),
      thread_share_(registry.AddGauge("sounder_node_attend_thread_ratio",
                                      "Share of the threads' time that attends got while some "
                                      "waited, as last measured.")),
      shutdown_refused_(
          registry.AddCounter("sounder_node_shutdown_refused_requests_total",
                              "Requests refused because the node was shutting down.")),
      refused_connections_(registry.AddCounterFamily(
          "sounder_node_refused_connections_total",
          "Connections refused or cut off by the node, by port and cause.", {"port", "cause"})),
      connections_(
          registry.AddGauge("sounder_node_open_connections", "Data-plane connections open.")) {
  AddSessionGauges(registry, sessions);
}

void ServerProbe::AttendCost(const std::array<double, 3>& nanos, double share) {
  thread_share_.Set(share);
  const std::array<std::string, 3> kinds{"exact", "lsh_tables", "sketch"};
  for (size_t kind = 0; kind < kinds.size(); ++kind) {
    row_seconds_.With({kinds[kind]}).Set(nanos[kind] * 1e-9);
  }
}

void ServerProbe::ConnectionRefused(const std::string& port, const std::string& cause,
                                    const std::string& what) {
  refused_connections_.With({port, cause}).Add();
  const base::Time now = base::SteadyClock().Now();
  if (const auto line = throttle_.Admit(port + " " + cause, what, now)) {
    config::LogWarning(port + " port: " + *line);
  }
}

void ServerProbe::AttendDone(const wire::AttendReply& reply, double seconds) {
  attend_requests_.Add();
  attend_items_.Add(static_cast<double>(reply.items.size()));
  attend_seconds_.Observe(seconds);
  for (const wire::AttendReplyItem& item : reply.items) {
    if (!item.status.ok()) attend_failures_.Add();
    rows_visible_.Add(static_cast<double>(item.rows_visible));
    rows_read_.Add(static_cast<double>(item.rows_read));
    rows_loaded_.Add(static_cast<double>(item.rows_loaded));
  }
}

void ServerProbe::RowsAppended(uint64_t rows, uint64_t bytes) {
  append_rows_.Add(static_cast<double>(rows));
  append_bytes_.Add(static_cast<double>(bytes));
}

void ServerProbe::AppendDone(const wire::AppendReply& reply) {
  append_requests_.Add();
  for (const wire::AppendReplyItem& item : reply.items) {
    if (!item.status.ok()) append_failures_.Add();
  }
}

}  // namespace sounder::kv_node
