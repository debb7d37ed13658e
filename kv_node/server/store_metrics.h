// The metrics of a node with a disk: the only place their names are written.
#ifndef SOUNDER_KV_NODE_SERVER_STORE_METRICS_H_
#define SOUNDER_KV_NODE_SERVER_STORE_METRICS_H_

#include "common/metrics/registry.h"
#include "kv_node/session/session_map.h"
#include "kv_node/store/row_source.h"

namespace sounder::kv_node {

// What is given outlives the registry's exposition.
void AddRowSourceMetrics(metrics::Registry& registry, const RowSource& rows);
// Of sessions with a store.
void AddStoreMetrics(metrics::Registry& registry, const SessionMap& sessions,
                     const RowSource& rows);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_STORE_METRICS_H_
