#include "tests/e2e/bystander.h"

#include <algorithm>
#include <cstdio>
#include <vector>

namespace sounder::e2e {
namespace {

constexpr uint32_t kDim = 16;

}  // namespace

gpu_worker::RemoteSessionOptions TinySession(uint64_t id) {
  gpu_worker::RemoteSessionOptions options;
  options.id = {77, id};
  options.model = {"tiny", "abc123", 1, 1, 2, kDim, "", "", ""};
  options.dtype = base::DType::kF32;
  options.seal_rows = 16;
  options.min_indexed_rows = 16;
  return options;
}

absl::Status AppendOnes(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session,
                        base::Position first, int64_t count) {
  const std::vector<float> ones(static_cast<size_t>(count) * kDim, 1.0f);
  gpu_worker::AppendRows rows;
  rows.first_position = first;
  rows.row_count = count;
  rows.rows = [&](uint32_t, uint32_t) {
    const auto bytes = std::as_bytes(std::span(ones));
    return gpu_worker::AppendRows::Head{bytes, bytes};
  };
  const absl::Status status = client.Append(session, rows);
  return status.ok() ? client.WaitAppended(session, first + count) : status;
}

absl::Status AttendTo(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session,
                      base::Position end) {
  const std::vector<float> query(2 * kDim, 1.0f);
  std::vector<gpu_worker::AttendQuery> queries(1);
  queries[0].session = session;
  queries[0].queries = query.data();
  queries[0].range = {0, end};
  queries[0].layout_position = end;
  queries[0].scale = 1;
  client.StartAttend(0, queries)->Wait();
  return queries[0].status;
}

Bystander::Bystander(gpu_worker::KvClient* client) : client_(client), thread_([this] { Loop(); }) {}

void Bystander::Note(const absl::Status& status) {
  ++requests_;
  if (status.ok()) return;
  ++failed_;
  std::lock_guard lock(mutex_);
  if (first_failure_.empty()) first_failure_ = status.ToString();
}

void Bystander::Loop() {
  const auto session = client_->Open(TinySession(1));
  Note(session.status());
  if (!session.ok()) return;
  base::Position end = 0;
  for (uint64_t step = 0; !stopping_; ++step) {
    if (step % 16 == 0) {
      Note(AppendOnes(*client_, session->get(), end, 1));
      ++end;
    }
    if (step % 2048 == 0) {
      const auto another = client_->Open(TinySession(2 + step));
      Note(another.status());
      if (another.ok()) Note(client_->Close(another->get()));
    }
    Note(AttendTo(*client_, session->get(), end));
  }
  Note(client_->Close(session->get()));
}

void Bystander::Stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  thread_.join();
  std::printf("bystander_requests %lu\nbystander_failed %lu\n",
              static_cast<unsigned long>(requests_), static_cast<unsigned long>(failed_));
  EXPECT_EQ(failed_, 0u) << first_failure_;
  EXPECT_GT(requests_, 0u);
}

bool Bystander::Works(uint64_t more) {
  const uint64_t wanted = requests_ + more;
  return Eventually([&] { return requests_ >= wanted; }, seconds(10));
}

}  // namespace sounder::e2e
