// Goes over the records of a database for RecordStore::Visit.
#ifndef SOUNDER_KV_NODE_STORE_RECORD_WALK_H_
#define SOUNDER_KV_NODE_STORE_RECORD_WALK_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kv_node/store/record_store.h"

namespace rocksdb {
class Iterator;
}

namespace sounder::kv_node {

// Over records only, the same ones each time.
using OpenIterator = std::function<std::unique_ptr<rocksdb::Iterator>()>;

// What RecordStore::Visit promises. The status is the visitor's: what cannot be read is part of the
// result.
absl::StatusOr<VisitResult> WalkRecords(const OpenIterator& open, RecordVisitor& visitor);

// Puts every session that a visit tells whole into another store, which has none, and nothing else.
absl::StatusOr<VisitResult> CopyRecords(const OpenIterator& open, RecordStore* to);

// All keys that begin with a session's prefix lie in [BeginOfSession, EndOfSession), those that no
// record has as well.
std::string BeginOfSession(const base::SessionId& session);
std::string EndOfSession(const base::SessionId& session);

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_STORE_RECORD_WALK_H_
