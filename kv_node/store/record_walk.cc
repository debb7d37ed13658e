#include "kv_node/store/record_walk.h"

#include <rocksdb/iterator.h>

#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/status_macros.h"

namespace sounder::kv_node {
namespace {

constexpr size_t kSessionPrefix = 17;  // of keys: 'S' and the id

std::string_view TextOf(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

class Walk {
 public:
  Walk(const OpenIterator& open, RecordVisitor& visitor)
      : open_(open), it_(open()), visitor_(visitor) {}

  absl::StatusOr<VisitResult> Run() {
    it_->SeekToFirst();
    while (!done_) {
      if (it_->Valid()) {
        RETURN_IF_ERROR(Record());
      } else if (!it_->status().ok()) {
        RETURN_IF_ERROR(Leap(it_->status().ToString()));
      } else {
        RETURN_IF_ERROR(End());
        done_ = true;
      }
    }
    return std::move(result_);
  }

 private:
  // Tells the record the iterator is at, and moves on.
  absl::Status Record() {
    const auto key = ParseKey(TextOf(it_->key()));
    if (!key.ok()) return Stray(key.status());
    if (current_ != key->session) {
      RETURN_IF_ERROR(End());
      current_ = last_ = key->session;
      if (key->kind != RecordKind::kSession) {
        return Damage(absl::DataLossError("records of a session without the session's own"));
      }
    }
    bool refused = false;  // by the visitor: that is no damage
    const absl::Status status = Tell(*key, TextOf(it_->value()), &refused);
    if (refused) return status;
    if (!status.ok()) return Damage(base::Annotate(status, Describe(*key)));
    it_->Next();
    return absl::OkStatus();
  }

  absl::Status Tell(const RecordKey& key, std::string_view value, bool* refused) {
    const auto told = [&](const absl::Status& status) {
      *refused = !status.ok();
      return status;
    };
    switch (key.kind) {
      case RecordKind::kSession: {
        ASSIGN_OR_RETURN(const SessionRecord record, ParseSession(key, value));
        return told(visitor_.OnSession(record));
      }
      case RecordKind::kSegment: {
        ASSIGN_OR_RETURN(const SegmentRecord record, ParseSegment(key, value));
        return told(visitor_.OnSegment(record));
      }
      case RecordKind::kTail: {
        ASSIGN_OR_RETURN(const TailRecord record, ParseTail(key, value));
        return told(visitor_.OnTail(record));
      }
      case RecordKind::kTokens: {
        ASSIGN_OR_RETURN(const TokenRecord record, ParseTokens(key, value));
        return told(visitor_.OnTokens(record));
      }
    }
    return absl::OkStatus();  // ParseKey gives no other
  }

  static std::string Describe(const RecordKey& key) {
    switch (key.kind) {
      case RecordKind::kSession:
        return "session";
      case RecordKind::kTokens:
        return absl::StrCat("token ids from ", key.first_position);
      default:
        return absl::StrCat(key.kind == RecordKind::kTail ? "tail" : "segment", " of layer ",
                            key.layer, ", kv head ", key.kv_head, " from ", key.first_position);
    }
  }

  // A key that no record has: its session is not whole, if it is told which.
  absl::Status Stray(const absl::Status& why) {
    std::string front(TextOf(it_->key()).substr(0, kSessionPrefix));
    if (front.size() == kSessionPrefix) {
      front += '\0';  // the key of the session's own record
      if (const auto key = ParseKey(front); key.ok()) {
        if (current_ != key->session) RETURN_IF_ERROR(End());
        current_ = last_ = key->session;
        return Damage(why);
      }
    }
    result_.unreadable.push_back(why);
    it_->Next();
    return absl::OkStatus();
  }

  absl::Status End() {
    if (!current_.has_value()) return absl::OkStatus();
    ++result_.sessions;
    return visitor_.OnEnd(*std::exchange(current_, std::nullopt));
  }

  // Goes on with the next session.
  absl::Status Damage(const absl::Status& why) {
    const base::SessionId session = *std::exchange(current_, std::nullopt);
    result_.damaged.emplace_back(session, why);
    RETURN_IF_ERROR(visitor_.OnDamaged(session, why));
    it_->Seek(EndOfSession(session));
    return absl::OkStatus();
  }

  // Past a place that cannot be read, to the least session id behind it that can be looked for: by
  // the upper half of ids, which are random.
  absl::Status Leap(const std::string& why) {
    constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
    const std::string before = last_.empty() ? "the first session" : last_.ToString();
    if (current_.has_value()) {
      const base::SessionId session = *std::exchange(current_, std::nullopt);
      const absl::Status lost = absl::DataLossError(why);
      result_.damaged.emplace_back(session, lost);
      RETURN_IF_ERROR(visitor_.OnDamaged(session, lost));
    }
    // Twice as far each time, then the least in between.
    uint64_t unreadable = last_.high, readable = last_.high;
    for (uint64_t step = 1; readable<kMost; step = step> kMost / 2 ? kMost : 2 * step) {
      readable = last_.high > kMost - step ? kMost : last_.high + step;
      if (Readable(readable)) break;
      unreadable = readable;
    }
    if (unreadable == kMost) {
      result_.unreadable.push_back(absl::DataLossError(
          absl::StrCat("all that lies behind ", before, " cannot be read: ", why)));
      done_ = true;
      return absl::OkStatus();
    }
    while (readable - unreadable > 1) {
      const uint64_t middle = unreadable + (readable - unreadable) / 2;
      (Readable(middle) ? readable : unreadable) = middle;
    }
    last_ = {readable, 0};
    result_.unreadable.push_back(absl::DataLossError(absl::StrCat(
        "what lies between ", before, " and ", last_.ToString(), " cannot be read: ", why)));
    Readable(readable);
    return absl::OkStatus();
  }

  bool Readable(uint64_t high) {
    it_ = open_();  // one that met an error may answer later seeks with it
    it_->Seek(EncodeKey({{high, 0}}));
    return it_->status().ok();
  }

  const OpenIterator& open_;
  std::unique_ptr<rocksdb::Iterator> it_;
  RecordVisitor& visitor_;
  VisitResult result_;
  std::optional<base::SessionId> current_;  // that is being told
  base::SessionId last_;                    // that was looked at
  bool done_ = false;
};

class Copier final : public RecordVisitor {
 public:
  explicit Copier(RecordStore* to) : to_(to) {}

  absl::Status OnSession(const SessionRecord& record) override {
    session_ = record.spec.session.id;
    batch_.PutSession(record);
    return Added();
  }
  absl::Status OnSegment(const SegmentRecord& record) override {
    batch_.PutSegment(session_, record);
    return Added();
  }
  absl::Status OnTail(const TailRecord& record) override {
    batch_.PutTail(session_, record);
    return Added();
  }
  absl::Status OnTokens(const TokenRecord& record) override {
    batch_.PutTokens(session_, record);
    return Added();
  }
  absl::Status OnEnd(const base::SessionId&) override { return absl::OkStatus(); }
  absl::Status OnDamaged(const base::SessionId& session, const absl::Status&) override {
    batch_.RemoveSession(session);
    return Added();
  }
  absl::Status Finish() { return to_->Commit(batch_); }

 private:
  absl::Status Added() {
    constexpr int kPerCommit = 256;  // some megabytes, if they are tails
    if (++added_ % kPerCommit != 0) return absl::OkStatus();
    return to_->Commit(std::exchange(batch_, RecordBatch()));
  }

  RecordStore* const to_;
  base::SessionId session_;
  RecordBatch batch_;
  uint64_t added_ = 0;
};

}  // namespace

std::string BeginOfSession(const base::SessionId& session) {
  return EncodeKey({session}).substr(0, kSessionPrefix);
}

std::string EndOfSession(const base::SessionId& session) {
  std::string next = BeginOfSession(session);
  while (next.back() == '\xff') next.pop_back();  // not beyond the 'S'
  ++next.back();
  return next;
}

absl::StatusOr<VisitResult> WalkRecords(const OpenIterator& open, RecordVisitor& visitor) {
  return Walk(open, visitor).Run();
}

absl::StatusOr<VisitResult> CopyRecords(const OpenIterator& open, RecordStore* to) {
  Copier copier(to);
  ASSIGN_OR_RETURN(VisitResult result, WalkRecords(open, copier));
  RETURN_IF_ERROR(copier.Finish());
  return result;
}

}  // namespace sounder::kv_node
