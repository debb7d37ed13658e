// What a record store holds, for comparisons.
#ifndef SOUNDER_TESTS_KV_NODE_STORE_RECORDED_BYTES_H_
#define SOUNDER_TESTS_KV_NODE_STORE_RECORDED_BYTES_H_

#include <map>
#include <string>

#include "kv_node/store/record_store.h"

namespace sounder::kv_node {

// Everything a visit tells, as it would be written: bytes by key. Sessions that are not told whole
// are left out.
class RecordedBytes final : public RecordVisitor {
 public:
  using Records = std::map<std::string, std::string>;

  absl::Status OnSession(const SessionRecord& record) override {
    session_ = record.spec.session.id;
    current_.clear();
    return Add(EncodeRecord(record));
  }
  absl::Status OnSegment(const SegmentRecord& r) override { return Add(EncodeRecord(session_, r)); }
  absl::Status OnTail(const TailRecord& r) override { return Add(EncodeRecord(session_, r)); }
  absl::Status OnTokens(const TokenRecord& r) override { return Add(EncodeRecord(session_, r)); }
  absl::Status OnEnd(const base::SessionId&) override {
    records.merge(current_);
    return absl::OkStatus();
  }
  absl::Status OnDamaged(const base::SessionId&, const absl::Status&) override {
    current_.clear();
    return absl::OkStatus();
  }

  Records records;

 private:
  absl::Status Add(EncodedRecord record) {
    if (!current_.empty() && current_.rbegin()->first >= record.key) {
      return absl::InternalError("records are not told in the order of their keys");
    }
    current_[record.key] = record.value;
    return absl::OkStatus();
  }

  base::SessionId session_;
  Records current_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_STORE_RECORDED_BYTES_H_
