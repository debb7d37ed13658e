// The node's metrics: the only place their names are written.
#ifndef SOUNDER_KV_NODE_SERVER_PROBE_H_
#define SOUNDER_KV_NODE_SERVER_PROBE_H_

#include <array>
#include <string>

#include "common/config/log_throttle.h"
#include "common/metrics/registry.h"
#include "common/wire/messages.h"
#include "kv_node/session/session_map.h"

namespace sounder::kv_node {

// Thread safe. Registered once per registry; the sessions outlive the registry's exposition.
class ServerProbe {
 public:
  ServerProbe(metrics::Registry& registry, const SessionMap& sessions);

  void AttendDone(const wire::AttendReply& reply, double seconds);
  // Rows that a session really took, with the bytes of their keys and values.
  void RowsAppended(uint64_t rows, uint64_t bytes);
  void AppendDone(const wire::AppendReply& reply);
  void MessageRefused() { refused_.Add(); }
  // Why a sound request was not done: "deadline" (it could not be in time), "queue" or "memory"
  // (its connection had its share of the bound), "expired" (its turn came too late), "disk" (its
  // rows would be read too late), "room" (there is none for its rows until segments have left
  // memory).
  void RequestRefused(const std::string& reason) { refused_requests_.With({reason}).Add(); }
  void SlowReaderClosed() { slow_readers_.Add(); }
  void AttendsAdmitted(double count) { admitted_attends_.Set(count); }
  void PendingReads(double more) { pending_reads_.Add(more); }
  void MessageBytes(double more) { message_bytes_.Add(more); }
  void CreditGranted(double bytes) { append_credit_.Set(bytes); }
  // Thread time of a row by wire::AttentionKind; share of the threads' time that attends get.
  void AttendCost(const std::array<double, 3>& nanos, double share);
  // A request that came after the node had begun to shut down.
  void RequestRefusedAtShutdown() { shutdown_refused_.Add(); }
  // A connection to `port` (control, data, http) that was refused or cut off, and for what. Counted
  // always; logged as often as LogThrottle lets it.
  void ConnectionRefused(const std::string& port, const std::string& cause,
                         const std::string& what);
  void Accepted() { connections_.Add(1); }
  void Closed() { connections_.Add(-1); }

 private:
  metrics::Counter& attend_requests_;
  metrics::Counter& attend_items_;
  metrics::Counter& attend_failures_;
  metrics::Histogram& attend_seconds_;
  metrics::Counter& rows_visible_;
  metrics::Counter& rows_read_;
  metrics::Counter& rows_loaded_;
  metrics::Counter& append_requests_;
  metrics::Counter& append_rows_;
  metrics::Counter& append_bytes_;
  metrics::Counter& append_failures_;
  metrics::Counter& refused_;
  metrics::Family<metrics::Counter>& refused_requests_;
  metrics::Counter& slow_readers_;
  metrics::Gauge& admitted_attends_;
  metrics::Gauge& pending_reads_;
  metrics::Gauge& message_bytes_;
  metrics::Gauge& append_credit_;
  metrics::Family<metrics::Gauge>& row_seconds_;
  metrics::Gauge& thread_share_;
  metrics::Counter& shutdown_refused_;
  metrics::Family<metrics::Counter>& refused_connections_;
  metrics::Gauge& connections_;
  config::LogThrottle throttle_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_PROBE_H_
