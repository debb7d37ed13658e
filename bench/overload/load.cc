#include "bench/overload/load.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <future>
#include <utility>

#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/config/host_port.h"

namespace sounder::bench {
namespace {

using std::chrono::seconds;

constexpr int64_t kBlock = 1024;  // rows of an append

double Micros(base::Duration duration) { return static_cast<double>(duration.count()) / 1000; }

void SleepUntil(base::Time when) {
  const int64_t nanos = when.time_since_epoch().count();
  const timespec until{nanos / 1'000'000'000, nanos % 1'000'000'000};
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
}

}  // namespace

Load::Load(const LoadSpec& spec, const std::string& control)
    : spec_(spec), engine_(transport::MakeUcxEngine({.tls = "tcp", .net_devices = "lo"})) {
  wire::ControlClient channel(control, seconds(10));
  const absl::StatusOr<wire::NodeStatus> node = channel.Status();
  CHECK(node.ok()) << base::MessageOf(node.status());
  Connect(config::ReachableData(control, node->data_address));
  rows_ = memory::AlignedBuffer(size_t{spec.kv_heads} * kBlock * spec.dim * 2);
  for (size_t at = 0; at < rows_.size(); at += 2) {
    base::StoreElement(static_cast<float>(random_.NextGaussian()), rows_.data() + at,
                       base::DType::kBF16);
  }
  for (int i = 0; i < spec.sessions; ++i) Fill(channel);
  queries_.resize(size_t{spec_.kv_heads} * spec_.group * spec_.dim);
  for (float& element : queries_) element = static_cast<float>(random_.NextGaussian());
}

Load::~Load() { clients_.clear(); }

void Load::Connect(const std::string& address) {
  for (int i = 0; i < spec_.connections; ++i) {
    Client& client = clients_.emplace_back();
    client.transport = std::make_unique<transport::UcxTransport>(engine_);
    client.data = std::make_unique<wire::DataClient>(
        client.transport.get(), &executor_,
        wire::DataClientOptions{.max_pending = size_t{1} << 20, .retry = false});
    CHECK(client.transport->Start(client.data.get()).ok());
    client.data->AddNode(address);
  }
}

void Load::Fill(wire::ControlClient& channel) {
  wire::SessionSpec open;
  open.session.id = {0x10ad, random_.Next64()};
  open.model = {"synthetic", "", 1, spec_.kv_heads, spec_.kv_heads * spec_.group,
                spec_.dim,   "", ""};
  open.dtype = base::DType::kBF16;
  open.kv_head_count = spec_.kv_heads;
  const absl::StatusOr<wire::OpenResult> opened = channel.Open(open);
  CHECK(opened.ok()) << base::MessageOf(opened.status());
  sessions_.push_back(open.session);
  operations_ = 0;
  for (int64_t first = 0; first < spec_.rows; first += kBlock) {
    const absl::Status status = Append(open.session, first);
    CHECK(status.ok()) << base::MessageOf(status);
  }
}

// Again where the node has no room at the moment: its rows go to the disk.
absl::Status Load::Append(const wire::SessionRef& session, int64_t first) {
  ++operations_;
  for (;;) {
    wire::AppendRequest request;
    wire::AppendItem& item = request.items.emplace_back();
    item.session = session;
    item.sequence = operations_;
    item.kv_head_count = spec_.kv_heads;
    item.first_position = first;
    item.row_count = static_cast<uint32_t>(std::min(kBlock, spec_.rows - first));
    item.head_dim = spec_.dim;
    item.dtype = base::DType::kBF16;
    item.keys = item.values = rows_.bytes().first(item.kv_head_count * item.head_bytes());
    std::promise<absl::Status> done;
    clients_[0].data->Append(0, std::move(request), seconds(10),
                             [&](const absl::StatusOr<wire::AppendReply>& reply) {
                               done.set_value(!reply.ok()            ? reply.status()
                                              : reply->items.empty() ? reply->envelope.status
                                                                     : reply->items[0].status);
                             });
    const absl::Status status = done.get_future().get();
    if (!absl::IsResourceExhausted(status)) return status;
    SleepUntil(executor_.clock().Now() + std::chrono::milliseconds(20));
  }
}

wire::AttendRequest Load::Request() {
  wire::AttendRequest request;
  wire::AttendItem& item = request.items.emplace_back();
  {
    std::lock_guard lock(mutex_);
    item.session = sessions_[turn_++ % sessions_.size()];
  }
  item.sequence = operations_;
  item.kv_head_count = spec_.kv_heads;
  item.group = spec_.group;
  item.query_count = 1;
  item.head_dim = spec_.dim;
  item.range = {0, spec_.rows};
  item.layout_position = spec_.rows;
  item.scale = 1 / std::sqrt(static_cast<float>(spec_.dim));
  item.queries = std::as_bytes(std::span(queries_));
  return request;
}

void Load::Send(Client& client, base::Duration deadline, std::function<void()> then) {
  {
    std::lock_guard lock(mutex_);
    ++in_flight_;
    ++result_.asked;
  }
  const base::Time sent = executor_.clock().Now();
  client.data->Attend(
      0, Request(), deadline,
      [this, sent, then = std::move(then)](const absl::StatusOr<wire::AttendReply>& reply) {
        absl::Status status = reply.ok() ? reply->envelope.status : reply.status();
        if (status.ok()) status = reply->items.at(0).status;
        const double us = Micros(executor_.clock().Now() - sent);
        if (then != nullptr) then();
        std::lock_guard lock(mutex_);
        if (status.ok()) {
          ++result_.good;
          result_.good_us.push_back(us);
        } else if (absl::IsResourceExhausted(status)) {
          ++result_.refused;
          result_.refused_us.push_back(us);
        } else if (absl::IsDeadlineExceeded(status)) {
          ++result_.late;
        } else {
          if (result_.failed++ == 0) {
            std::fprintf(stderr, "failed: %s\n", base::MessageOf(status).c_str());
          }
        }
        if (--in_flight_ == 0) ended_.notify_all();
      });
}

void Load::WaitForAll() {
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [this] { return in_flight_ == 0; });
}

LoadResult Load::Closed(int in_flight, base::Duration duration) {
  result_ = LoadResult();
  const base::Time begin = executor_.clock().Now();
  const base::Time end = begin + duration;
  // One callback at a time: the engine's thread.
  std::function<void(Client&)> again = [&](Client& client) {
    if (executor_.clock().Now() >= end) return;
    Send(client, seconds(20), [&again, &client] { again(client); });
  };
  for (int i = 0; i < in_flight; ++i) again(clients_[static_cast<size_t>(i) % clients_.size()]);
  WaitForAll();
  result_.seconds = std::chrono::duration<double>(executor_.clock().Now() - begin).count();
  return std::exchange(result_, LoadResult());
}

LoadResult Load::Open(double per_second, base::Duration duration) {
  result_ = LoadResult();
  const base::Time begin = executor_.clock().Now();
  base::Time next = begin;
  for (size_t turn = 0;; ++turn) {
    const double wait = -std::log(1 - random_.NextUniform()) / per_second;
    next += base::Duration(static_cast<int64_t>(1e9 * wait));
    if (next >= begin + duration) break;
    SleepUntil(next);
    Send(clients_[turn % clients_.size()], spec_.deadline, nullptr);
  }
  result_.seconds = std::chrono::duration<double>(executor_.clock().Now() - begin).count();
  WaitForAll();
  return std::exchange(result_, LoadResult());
}

}  // namespace sounder::bench
