#include "kv_node/store/row_source.h"

#include <cstring>
#include <utility>

namespace sounder::kv_node {

// Rows of a request by their places in it. Of one that is wanted whole there are no lists.
struct RowSource::Part {
  size_t request = 0;
  bool whole = false;
  std::vector<uint32_t> places;  // ascending, as are the rows
  std::vector<uint16_t> rows;    // at those places

  std::span<const uint16_t> RowsOf(const RowRequest& of) const { return whole ? of.rows : rows; }
  uint32_t PlaceOf(size_t i) const { return whole ? static_cast<uint32_t>(i) : places[i]; }
};

// A part that comes with somebody else's reading.
struct RowSource::Waiter {
  std::shared_ptr<Batch> batch;
  Part part;
  std::vector<uint32_t> from;  // the places of its rows in the other request
};

// A part that is read from the disk.
struct RowSource::Reading {
  const RowRequest* request = nullptr;
  Part part;
  std::vector<Waiter> waiters;
};

// What is between the call and the callback.
struct RowSource::Batch {
  std::vector<RowRequest> requests;
  std::vector<absl::Status> statuses;
  std::vector<std::unique_ptr<Reading>> readings;
  RowsRead done;
  std::atomic<size_t> unfinished{1};  // its reads together are one, those it waits for one each
};

void RowSource::Read(std::vector<RowRequest> requests, RowsRead done) {
  auto batch = std::make_shared<Batch>();
  batch->requests = std::move(requests);
  batch->statuses.resize(batch->requests.size());
  batch->done = std::move(done);
  std::vector<Part> missing;
  for (size_t i = 0; i < batch->requests.size(); ++i) {
    Part part = Look(batch->requests[i], i);
    if (!part.RowsOf(batch->requests[i]).empty()) missing.push_back(std::move(part));
  }
  {
    std::lock_guard lock(mutex_);
    ++in_flight_;
    for (Part& part : missing) {
      const RowRequest& request = batch->requests[part.request];
      Join(batch, &part);
      if (part.RowsOf(request).empty()) continue;
      auto reading = std::make_unique<Reading>();
      reading->request = &request;
      reading->part = std::move(part);
      readings_[request.segment.get()].push_back(reading.get());
      batch->readings.push_back(std::move(reading));
    }
  }
  if (batch->readings.empty()) return EndPart(*batch);
  Start(batch);
}

RowSource::Part RowSource::Look(const RowRequest& request, size_t index) {
  Part part;
  part.request = index;
  part.whole = !request.recurring;
  rows_ += request.rows.size();
  if (part.whole || request.rows.empty()) return part;
  cache_->Find(request.segment, request.rows, request.keys, request.values, &part.places);
  cached_ += request.rows.size() - part.places.size();
  for (const uint32_t place : part.places) part.rows.push_back(request.rows[place]);
  return part;
}

void RowSource::Join(const std::shared_ptr<Batch>& batch, Part* part) {
  const RowRequest& request = batch->requests[part->request];
  const auto found = readings_.find(request.segment.get());
  if (found == readings_.end()) return;
  for (Reading* const reading : found->second) {
    // A sample would wait for all of a long run, of which it wants some pages.
    if (reading->request->recurring != request.recurring) continue;
    const std::span<const uint16_t> theirs = reading->part.RowsOf(*reading->request);
    const std::span<const uint16_t> ours = part->RowsOf(request);
    Waiter waiter;
    waiter.batch = batch;
    Part rest;
    waiter.part.request = rest.request = part->request;
    size_t at = 0;
    for (size_t i = 0; i < ours.size(); ++i) {
      while (at < theirs.size() && theirs[at] < ours[i]) ++at;
      const bool shared = at < theirs.size() && theirs[at] == ours[i];
      Part& to = shared ? waiter.part : rest;
      to.places.push_back(part->PlaceOf(i));
      to.rows.push_back(ours[i]);
      if (shared) waiter.from.push_back(reading->part.PlaceOf(at));
    }
    if (waiter.from.empty()) continue;
    joined_ += waiter.from.size();
    ++batch->unfinished;
    reading->waiters.push_back(std::move(waiter));
    *part = std::move(rest);
    if (part->rows.empty()) break;
  }
}

void RowSource::Start(const std::shared_ptr<Batch>& batch) {
  std::vector<RowRead> reads;
  for (const auto& reading : batch->readings) {
    const RowRequest& request = *reading->request;
    reads.push_back({request.segment, reading->part.RowsOf(request), request.keys, request.values,
                     reading->part.places});
  }
  batches_ += 1;
  ReadRows(*disk_, std::move(reads),
           [this, batch](std::span<const absl::Status> statuses, const RowReadCounts& counts) {
             Finish(batch, statuses, counts);
           });
}

void RowSource::Finish(const std::shared_ptr<Batch>& batch, std::span<const absl::Status> statuses,
                       const RowReadCounts& counts) {
  pages_ += counts.pages;
  reads_ += counts.reads;
  {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < batch->readings.size(); ++i) {
      Reading* const reading = batch->readings[i].get();
      batch->statuses[reading->part.request].Update(statuses[i]);
      const auto found = readings_.find(reading->request->segment.get());
      std::erase(found->second, reading);
      if (found->second.empty()) readings_.erase(found);
    }
  }
  // Nobody comes to wait any more.
  for (size_t i = 0; i < batch->readings.size(); ++i) {
    Reading& reading = *batch->readings[i];
    const RowRequest& request = *reading.request;
    Arrived(request, statuses[i], reading.part);
    const size_t half = request.segment->shape().row_bytes() / 2;
    for (Waiter& waiter : std::exchange(reading.waiters, {})) {
      if (!statuses[i].ok()) {
        ReadAgain(std::move(waiter));
        continue;
      }
      const RowRequest& to = waiter.batch->requests[waiter.part.request];
      for (size_t row = 0; row < waiter.from.size(); ++row) {
        const size_t here = waiter.from[row] * half, there = waiter.part.places[row] * half;
        std::memcpy(to.keys.data() + there, request.keys.data() + here, half);
        std::memcpy(to.values.data() + there, request.values.data() + here, half);
      }
      EndPart(*waiter.batch);
    }
  }
  EndPart(*batch);
}

void RowSource::ReadAgain(Waiter waiter) {
  const auto again = std::make_shared<Waiter>(std::move(waiter));
  const RowRequest& request = again->batch->requests[again->part.request];
  ReadRows(*disk_,
           {{request.segment, again->part.rows, request.keys, request.values, again->part.places}},
           [this, again](std::span<const absl::Status> statuses, const RowReadCounts& counts) {
             pages_ += counts.pages;
             reads_ += counts.reads;
             {
               std::lock_guard lock(mutex_);
               again->batch->statuses[again->part.request].Update(statuses[0]);
             }
             Arrived(again->batch->requests[again->part.request], statuses[0], again->part);
             EndPart(*again->batch);
           });
}

void RowSource::Arrived(const RowRequest& request, const absl::Status& status, const Part& part) {
  if (!status.ok()) {
    failed_ += part.RowsOf(request).size();
  } else if (request.recurring) {
    cache_->Keep(request.segment, request.rows, request.keys, request.values, part.places);
  }
}

void RowSource::EndPart(Batch& batch) {
  if (batch.unfinished.fetch_sub(1) != 1) return;
  // With what it holds: whoever waits may take that apart.
  std::exchange(batch.done, nullptr)(batch.statuses);
  batch.readings.clear();
  batch.requests.clear();
  std::lock_guard lock(mutex_);
  if (--in_flight_ == 0) idle_.notify_all();
}

void RowSource::WaitIdle() {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return in_flight_ == 0; });
}

RowSourceCounts RowSource::counts() const {
  return {.rows = rows_,
          .cached = cached_,
          .joined = joined_,
          .failed = failed_,
          .pages = pages_,
          .reads = reads_,
          .batches = batches_};
}

}  // namespace sounder::kv_node
