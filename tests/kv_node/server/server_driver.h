// A data server behind a transport that only keeps what is sent, for tests that decide when each
// message arrives and when the executor's work runs.
#ifndef SOUNDER_TESTS_KV_NODE_SERVER_SERVER_DRIVER_H_
#define SOUNDER_TESTS_KV_NODE_SERVER_SERVER_DRIVER_H_

#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "common/metrics/registry.h"
#include "common/wire/codec.h"
#include "kv_node/server/data_server.h"
#include "tests/kv_node/session/session_driver.h"

namespace sounder::kv_node {

class SentMessages final : public transport::Transport {
 public:
  absl::Status Start(transport::TransportEvents*) override { return absl::OkStatus(); }
  absl::StatusOr<std::string> Listen(const std::string& address) override { return address; }
  absl::StatusOr<transport::ConnectionId> Connect(const std::string&) override { return 1; }
  void Send(transport::ConnectionId connection, transport::Message message, transport::SendMode,
            transport::SendDone done) override {
    {
      std::lock_guard lock(mutex_);
      sent_.push_back(std::move(message));
      if (connection == slow_ && done != nullptr) {
        dones_.push_back(std::move(done));
        return;
      }
    }
    if (done != nullptr) done(absl::OkStatus());
  }
  void Close(transport::ConnectionId connection) override {
    std::lock_guard lock(mutex_);
    closed_.push_back(connection);
  }
  absl::StatusOr<transport::ConnectionInfo> Describe(transport::ConnectionId) override {
    return absl::NotFoundError("none");
  }
  // The sends of a connection do not end until Unblock, which returns how many there were.
  void Block(transport::ConnectionId connection) { slow_ = connection; }
  size_t Unblock() {
    std::vector<transport::SendDone> dones;
    {
      std::lock_guard lock(mutex_);
      slow_ = 0;
      dones.swap(dones_);
    }
    for (const transport::SendDone& done : dones) done(absl::OkStatus());
    return dones.size();
  }
  std::vector<transport::ConnectionId> closed() {
    std::lock_guard lock(mutex_);
    return closed_;
  }
  // What was closed since the last call.
  std::vector<transport::ConnectionId> TakeClosed() {
    std::lock_guard lock(mutex_);
    return std::exchange(closed_, {});
  }
  // What was sent since the last call.
  std::vector<transport::Message> Take() {
    std::lock_guard lock(mutex_);
    return std::exchange(sent_, {});
  }

 private:
  std::mutex mutex_;
  std::vector<transport::Message> sent_;  // guarded by mutex_, like all below
  transport::ConnectionId slow_ = 0;
  std::vector<transport::SendDone> dones_;
  std::vector<transport::ConnectionId> closed_;
};

// The server, its sessions and its metrics, on any executor.
struct ServerDriver {
  explicit ServerDriver(base::Executor* executor, const SessionMapOptions& options = {},
                        const DataServerOptions& server_options = {}, RowSource* rows = nullptr,
                        const SessionStores& stores = {})
      : map(options, executor, stores),
        probe(registry, map),
        server(&transport, &map, executor, /*num_threads=*/2, &probe, {}, server_options, rows) {}

  std::shared_ptr<Session> Open(const wire::SessionSpec& spec) {
    const auto opened = map.Open(spec);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return *map.Find(spec.session.id);
  }
  // Gives the server an append of the items, with rows of zeros.
  void Append(std::vector<wire::AppendItem> items, wire::Envelope envelope = {},
              transport::ConnectionId connection = 1) {
    wire::AppendRequest request;
    request.envelope = std::move(envelope);
    request.envelope.kind = wire::MessageKind::kAppend;
    size_t most = 0;
    for (const wire::AppendItem& item : items) {
      most = std::max(most, item.kv_head_count * item.head_bytes());
    }
    const memory::AlignedBuffer zeros = memory::AlignedBuffer::Zeroed(most);
    for (wire::AppendItem& item : items) {
      item.keys = item.values = zeros.bytes().first(item.kv_head_count * item.head_bytes());
    }
    request.items = std::move(items);
    server.OnMessage(connection, wire::Encode(request));
  }
  // Gives the server an attend of the items, with queries of zeros and signatures of zeros.
  void Attend(std::vector<wire::AttendItem> items, wire::Envelope envelope = {},
              transport::ConnectionId connection = 1) {
    wire::AttendRequest request;
    request.envelope = std::move(envelope);
    request.envelope.kind = wire::MessageKind::kAttend;
    const memory::AlignedBuffer zeros = memory::AlignedBuffer::Zeroed(size_t{1} << 20);
    for (wire::AttendItem& item : items) {
      const size_t rows = size_t{item.query_count} * item.query_heads();
      item.queries = zeros.bytes().first(rows * item.head_dim * SizeOf(item.query_dtype));
      item.signatures = zeros.As<uint64_t>().first(rows * item.signature_words);
    }
    request.items = std::move(items);
    server.OnMessage(connection, wire::Encode(request));
  }
  std::vector<wire::AppendReply> AppendReplies() {
    std::vector<wire::AppendReply> replies;
    for (transport::Message& message : transport.Take()) {
      replies.push_back(*wire::DecodeAppendReply(std::move(message)));
    }
    return replies;
  }
  std::vector<wire::AttendReply> AttendReplies() {
    std::vector<wire::AttendReply> replies;
    for (transport::Message& message : transport.Take()) {
      replies.push_back(*wire::DecodeAttendReply(std::move(message)));
    }
    return replies;
  }

  SessionMap map;
  metrics::Registry registry;
  ServerProbe probe;
  SentMessages transport;
  DataServer server;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_SERVER_SERVER_DRIVER_H_
