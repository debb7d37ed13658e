// Puts into a database of records what no record store would, for tests of what reads it.
#ifndef SOUNDER_TESTS_KV_NODE_STORE_RAW_RECORD_H_
#define SOUNDER_TESTS_KV_NODE_STORE_RAW_RECORD_H_

#include <rocksdb/db.h>

#include <string>

#include "common/base/check.h"

namespace sounder::kv_node {

// The folder, which is not in use, is made if it is not there.
inline void PutRawRecord(const std::string& folder, const std::string& key,
                         const std::string& value) {
  rocksdb::Options options;
  options.create_if_missing = true;
  rocksdb::DB* db = nullptr;
  CHECK(rocksdb::DB::Open(options, folder, &db).ok());
  rocksdb::WriteOptions write;
  write.sync = true;
  CHECK(db->Put(write, key, value).ok());
  delete db;
}

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_STORE_RAW_RECORD_H_
