// Records with content of their own: equal arguments give equal records.
#ifndef SOUNDER_TESTS_KV_NODE_STORE_RECORD_VALUES_H_
#define SOUNDER_TESTS_KV_NODE_STORE_RECORD_VALUES_H_

#include <cstdint>
#include <vector>

#include "common/base/philox.h"
#include "kv_node/store/records.h"

namespace sounder::kv_node {

inline base::SessionId TestId(uint64_t number) { return {number << 32 | 7, ~number}; }

inline SessionRecord TestSession(const base::SessionId& id, uint64_t version = 0) {
  SessionRecord record;
  record.spec.session = {id, 3};
  record.spec.tenant = 9;
  record.spec.model = {"llama \"3\"", "sha256:\xff\x80", 32, 8, 32, 128, "rope", "", "kv\n"};
  record.spec.seal_rows = 4096;
  record.spec.sketch = {128, 0xfedcba9876543210};
  record.spec.indexed_layers = {2, 3, 31};
  record.spec.kv_head_count = 8;
  record.spec.durability = wire::Durability::kDisk;
  record.spec.placement = {id, 65536, 2, 4};
  record.epoch = 0xffffffffffffffff;
  record.holder = 0x8000000000000001;
  record.applied_sequence = version;
  record.committed_position = 12345;
  record.parent = {1, 2};
  record.fork_position = 777;
  record.fork_sequence = 5;
  record.replicas = {"10.0.0.1:7400", "b:7400"};
  record.in_sync = {"b:7400"};
  return record;
}

inline SegmentRecord TestSegmentRecord(uint32_t layer, uint32_t kv_head, base::Position first,
                                       uint64_t version = 0) {
  SegmentRecord record;
  record.layer = layer;
  record.kv_head = kv_head;
  record.shape = {{}, first, 4096, 128, base::DType::kBF16, 81920 + version};
  record.shape.tag.fill(std::byte(layer + 16 * kv_head));
  record.place = {2 + version, 4096 * 77};
  record.rows_used = 4000;
  record.indexed = true;
  for (size_t i = 0; i < record.content_hash.size(); ++i) record.content_hash[i] = std::byte(i);
  return record;
}

// A tail's rows, which the record borrows.
struct TestTail {
  TestTail(uint32_t layer, uint32_t kv_head, base::Position first, int64_t rows, int dim = 8)
      : record{layer, kv_head, first, rows, dim, base::DType::kF16, {}, {}},
        keys(record.half_bytes()),
        values(record.half_bytes()) {
    base::PhiloxStream random(static_cast<uint64_t>(first), 16 * layer + kv_head);
    for (std::byte& b : keys) b = std::byte(random.Next32());
    for (std::byte& b : values) b = std::byte(random.Next32());
    record.keys = keys;
    record.values = values;
  }
  TestTail(const TestTail&) = delete;

  TailRecord record;
  std::vector<std::byte> keys, values;
};

inline TokenRecord TestTokens(base::Position first, int64_t begin, int64_t end, int32_t version) {
  TokenRecord record;
  record.first_position = first;
  for (base::Position at = first + begin; at < first + end; ++at) {
    record.Put(at, version * 100'000 + static_cast<int32_t>(at));
  }
  return record;
}

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_STORE_RECORD_VALUES_H_
