// A data server whose sessions' rows can be moved to a disk: the same session, asked with its rows
// in memory and again with them in the store, must answer alike.
#ifndef SOUNDER_TESTS_KV_NODE_SERVER_STORED_ROWS_H_
#define SOUNDER_TESTS_KV_NODE_SERVER_STORED_ROWS_H_

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/philox.h"
#include "common/kernels/signature.h"
#include "kv_node/store/faulty_disk.h"
#include "kv_node/store/linux_disk.h"
#include "kv_node/store/row_source.h"
#include "kv_node/store/segment_log.h"
#include "kv_node/store/segment_store.h"
#include "tests/kv_node/server/server_driver.h"
#include "tests/kv_node/store/forwarding_disk.h"
#include "tests/kv_node/store/scratch_folder.h"

namespace sounder::kv_node {

// Counts what is asked of a disk at the same time.
class WatchedDisk final : public ForwardingDisk {
 public:
  using ForwardingDisk::ForwardingDisk;

  void Read(std::vector<DiskRead> reads, ReadsDone done) override {
    size_t bytes = 0;
    for (const DiskRead& read : reads) bytes += read.into.size();
    {
      std::lock_guard lock(mutex_);
      ++batches_;
      most_in_flight_ = std::max(most_in_flight_, ++in_flight_);
      most_bytes_ = std::max(most_bytes_, bytes_ += bytes);
    }
    below().Read(std::move(reads),
                 [this, bytes, done = std::move(done)](std::span<const absl::Status> statuses) {
                   {
                     std::lock_guard lock(mutex_);
                     --in_flight_;
                     bytes_ -= bytes;
                   }
                   done(statuses);
                 });
  }

  size_t batches() {
    std::lock_guard lock(mutex_);
    return batches_;
  }
  size_t in_flight() {
    std::lock_guard lock(mutex_);
    return in_flight_;
  }
  size_t most_in_flight() {
    std::lock_guard lock(mutex_);
    return most_in_flight_;
  }
  size_t most_bytes() {
    std::lock_guard lock(mutex_);
    return most_bytes_;
  }

 private:
  std::mutex mutex_;
  size_t batches_ = 0;  // guarded by mutex_, like all below
  size_t in_flight_ = 0;
  size_t most_in_flight_ = 0;
  size_t bytes_ = 0;  // in flight
  size_t most_bytes_ = 0;
};

struct StoredRowsOptions {
  DiskFaultOptions faults = {};
  uint64_t seed = 1;
  uint64_t cache_bytes = 0;
  uint64_t memory_bytes = uint64_t{4} << 30;
};

class StoredRows {
 public:
  explicit StoredRows(base::Executor* executor, const StoredRowsOptions& options = {})
      : folder_("/dev/shm"),
        linux_(*LinuxDisk::Start(folder_.path())),
        disk(*FaultyDisk::Start(linux_.get(), options.faults, options.seed)),
        watched(disk.get()),
        log(*SegmentLog::Open(&watched, {})),
        store(&watched, log.get(), executor),
        cache(options.cache_bytes),
        source(&watched, &cache),
        driver(executor, {.memory_bytes = options.memory_bytes}, {}, &source) {}

  // A session of one layer; normal numbers as rows, sealed at multiples of spec.seal_rows.
  static wire::SessionSpec Spec(uint64_t number, uint32_t dim, base::DType dtype,
                                uint32_t seal_rows, wire::AttentionKind index, bool int8 = false) {
    wire::SessionSpec spec;
    spec.session.id = {1, number};
    spec.model = {"toy", "digest", 1, 2, 4, dim, "", ""};
    spec.dtype = dtype;
    spec.seal_rows = seal_rows;
    spec.min_indexed_rows = 64;
    spec.kv_head_count = 2;
    if (index == wire::AttentionKind::kLshTables) {
      spec.lsh = {7, 12, 2, wire::Projection::kHadamard, 1};
    } else if (index == wire::AttentionKind::kSketch) {
      spec.sketch = {64, 1};
    }
    if (index != wire::AttentionKind::kExact) spec.indexed_layers = {0};
    if (int8) spec.row_format = wire::RowFormat::kInt8;
    return spec;
  }
  static std::vector<float> Gaussian(size_t count, uint64_t seed) {
    base::PhiloxStream random(seed, 5);
    std::vector<float> numbers(count);
    for (float& number : numbers) number = static_cast<float>(random.NextGaussian());
    return numbers;
  }
  // Rows are in the session once the executor has done what there is to do.
  std::shared_ptr<Session> Open(const wire::SessionSpec& spec, uint32_t rows, bool seal = false) {
    const std::shared_ptr<Session> session = driver.Open(spec);
    wire::AppendRequest request;
    request.envelope.kind = wire::MessageKind::kAppend;
    wire::AppendItem& item = request.items.emplace_back();
    item = SessionDriver::Item(*session, 1, 0, 0, rows);
    item.seal_after = seal;
    memory::AlignedBuffer data[2];
    for (int i = 0; i < 2; ++i) {
      const auto numbers =
          Gaussian(size_t{2} * rows * spec.model.head_dim, 10 * spec.session.id.low + i);
      data[i] = memory::AlignedBuffer(numbers.size() * SizeOf(spec.dtype));
      for (size_t n = 0; n < numbers.size(); ++n) {
        base::StoreElement(numbers[n], data[i].data() + n * SizeOf(spec.dtype), spec.dtype);
      }
    }
    item.keys = data[0].bytes();
    item.values = data[1].bytes();
    driver.server.OnMessage(1, wire::Encode(request));
    return session;
  }

  // The session's sealed segments over a range, once they are indexed.
  static std::vector<std::shared_ptr<SealedSegment>> Segments(Session& session,
                                                              base::PositionRange range) {
    wire::AttendItem item =
        SessionDriver::Query(session, 1, 0, range, session.spec().index() != wire::AttentionKind{});
    item.signature_words = SignatureWords(session);
    std::vector<std::shared_ptr<SealedSegment>> segments;
    session.Plan(item, base::kNever, [&](absl::StatusOr<AttendPlan> plan) {
      ASSERT_TRUE(plan.ok()) << plan.status();
      for (const std::vector<Piece>& pieces : plan->pieces) {
        for (const Piece& piece : pieces) {
          if (piece.holder != nullptr) segments.push_back(piece.holder);
        }
      }
    });
    return segments;
  }
  // Takes the rows of the segment from memory.
  void MakeWarm(const std::shared_ptr<SealedSegment>& segment) {
    SealedSegment& sealed = *segment;
    const auto written = sealed.Write(&store);
    ASSERT_TRUE(written.ok()) << written.status();
    // Who was answered may still be about to let go of them.
    const base::Time until = base::SteadyClock().Now() + std::chrono::seconds(10);
    while (sealed.DropRows() == 0) {
      ASSERT_LT(base::SteadyClock().Now(), until) << "the rows are in use";
      std::this_thread::yield();
    }
  }
  void MakeWarm(Session& session, base::PositionRange range) {
    for (const auto& segment : Segments(session, range)) MakeWarm(segment);
  }

  static uint32_t SignatureWords(const Session& session) {
    const wire::LshOptions& lsh = session.spec().lsh;
    return (lsh.bits_per_table * lsh.num_tables + 63) / 64;
  }

  // What a query needs beside its item.
  struct Question {
    wire::AttendItem item;
    std::vector<float> queries;
    std::vector<uint64_t> signatures;
    std::vector<float> lse_hints;
    std::vector<wire::HeadHint> head_hints;
  };
  static Question Ask(const Session& session, base::PositionRange range, uint32_t count,
                      bool sampled, uint64_t seed = 1) {
    Question question;
    wire::AttendItem& item = question.item;
    item = SessionDriver::Query(session, 1, 0, range, sampled);
    item.query_count = count;
    item.scale = .3f;
    item.sample_key = seed;
    item.step = 7;
    question.queries = Gaussian(size_t{count} * item.query_heads() * item.head_dim, seed);
    if (item.attention == wire::AttentionKind::kLshTables) {
      item.signature_words = SignatureWords(session);
      question.signatures.resize(size_t{count} * item.query_heads() * item.signature_words);
      kernels::SignVectors(*session.sampler()->projection(), question.queries.data(), item.head_dim,
                           static_cast<int64_t>(count) * item.query_heads(),
                           question.signatures.data());
    }
    return question;
  }
  void Send(std::vector<Question>& questions, uint32_t deadline_us = 0,
            transport::ConnectionId connection = 1) {
    wire::AttendRequest request;
    request.envelope.kind = wire::MessageKind::kAttend;
    request.envelope.deadline_us = deadline_us;
    for (Question& question : questions) {
      wire::AttendItem& item = request.items.emplace_back(question.item);
      item.queries = std::as_bytes(std::span(question.queries));
      item.signatures = question.signatures;
      item.lse_hints = question.lse_hints;
      item.head_hints = question.head_hints;
    }
    driver.server.OnMessage(connection, wire::Encode(request));
  }
  void SendFetch(const Session& session, base::PositionRange range) {
    const wire::SessionSpec& spec = session.spec();
    wire::FetchRequest request;
    request.envelope.kind = wire::MessageKind::kFetch;
    wire::FetchItem& item = request.items.emplace_back();
    item.session = spec.session;
    item.sequence = 1;
    item.kv_head_count = spec.kv_head_count;
    item.range = range;
    item.head_dim = spec.model.head_dim;
    item.dtype = spec.dtype;
    driver.server.OnMessage(1, wire::Encode(request));
  }

  template <typename T>
  static bool SameBits(std::span<const T> a, std::span<const T> b) {
    return a.size() == b.size() &&
           (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
  }
  static bool SameAnswer(const wire::AttendReplyItem& a, const wire::AttendReplyItem& b) {
    return a.status.ok() && b.status.ok() && !a.outputs.empty() && SameBits(a.outputs, b.outputs) &&
           SameBits(a.lse, b.lse) && SameBits(a.error_terms, b.error_terms) &&
           SameBits(a.head_mass, b.head_mass) && a.rows_visible == b.rows_visible &&
           a.rows_read == b.rows_read && a.rows_loaded == b.rows_loaded &&
           a.rows_exact == b.rows_exact;
  }

 private:
  const ScratchFolder folder_;
  const std::unique_ptr<LinuxDisk> linux_;

 public:
  const std::unique_ptr<FaultyDisk> disk;
  WatchedDisk watched;
  const std::unique_ptr<SegmentLog> log;
  SegmentStore store;
  RowCache cache;
  RowSource source;
  ServerDriver driver;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_SERVER_STORED_ROWS_H_
