#include "kv_node/store/row_source.h"

#include <utility>

namespace sounder::kv_node {

// What is between the call and the callback.
struct RowSource::Batch {
  struct Missing {
    size_t request = 0;
    std::vector<uint32_t> places;  // in the request's rows; of one that is read whole none
    std::vector<uint16_t> rows;    // at those places
  };
  std::vector<RowRequest> requests;
  std::vector<Missing> missing;
  RowsRead done;
};

void RowSource::Read(std::vector<RowRequest> requests, RowsRead done) {
  auto batch = std::make_shared<Batch>();
  batch->requests = std::move(requests);
  batch->done = std::move(done);
  for (size_t i = 0; i < batch->requests.size(); ++i) {
    const RowRequest& request = batch->requests[i];
    if (request.rows.empty()) continue;
    rows_ += request.rows.size();
    Batch::Missing missing{.request = i, .places = {}, .rows = {}};
    if (request.recurring) {
      cache_->Find(request.segment, request.rows, request.keys, request.values, &missing.places);
      cached_ += request.rows.size() - missing.places.size();
      if (missing.places.empty()) continue;
      for (const uint32_t place : missing.places) missing.rows.push_back(request.rows[place]);
    }
    batch->missing.push_back(std::move(missing));
  }
  if (batch->missing.empty()) {
    batch->done(std::vector<absl::Status>(batch->requests.size()));
    return;
  }
  std::vector<RowRead> reads;
  for (const Batch::Missing& missing : batch->missing) {
    const RowRequest& request = batch->requests[missing.request];
    reads.push_back({request.segment, request.recurring ? std::span(missing.rows) : request.rows,
                     request.keys, request.values, missing.places});
  }
  batches_ += 1;
  {
    std::lock_guard lock(mutex_);
    ++in_flight_;
  }
  ReadRows(*disk_, std::move(reads),
           [this, batch](std::span<const absl::Status> statuses, const RowReadCounts& counts) {
             Finish(*batch, statuses, counts);
           });
}

void RowSource::Finish(Batch& batch, std::span<const absl::Status> statuses,
                       const RowReadCounts& counts) {
  pages_ += counts.pages;
  reads_ += counts.reads;
  std::vector<absl::Status> all(batch.requests.size());
  for (size_t i = 0; i < batch.missing.size(); ++i) {
    const Batch::Missing& missing = batch.missing[i];
    const RowRequest& request = batch.requests[missing.request];
    all[missing.request] = statuses[i];
    if (!statuses[i].ok()) {
      failed_ += request.recurring ? missing.rows.size() : request.rows.size();
    } else if (request.recurring) {
      cache_->Keep(request.segment, request.rows, request.keys, request.values, missing.places);
    }
  }
  // With what it holds: whoever waits may take that apart.
  std::exchange(batch.done, nullptr)(all);
  batch.requests.clear();
  std::lock_guard lock(mutex_);
  if (--in_flight_ == 0) idle_.notify_all();
}

void RowSource::WaitIdle() {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return in_flight_ == 0; });
}

RowSourceCounts RowSource::counts() const {
  return {rows_, cached_, failed_, pages_, reads_, batches_};
}

}  // namespace sounder::kv_node
