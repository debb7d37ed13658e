// The doors through which cases reach their errors: a worker's client, the control plane, the wire.
#ifndef SOUNDER_TESTS_ERRORS_WORLD_H_
#define SOUNDER_TESTS_ERRORS_WORLD_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/virtual_executor.h"
#include "common/wire/codec_parts.h"
#include "common/wire/data_client.h"
#include "tests/cluster/local_cluster.h"
#include "tests/cluster/test_session.h"
#include "tests/common/wire/data_world.h"
#include "tests/common/wire/fake_service.h"
#include "tests/common/wire/wire_values.h"
#include "tests/kv_node/server/server_driver.h"
#include "tests/kv_node/session/busy_executor.h"

namespace sounder::tests {

using Session = std::shared_ptr<gpu_worker::RemoteSession>;

// Nodes, a worker's client, and a peer that may send what no worker does, in virtual time.
class World {
 public:
  explicit World(LocalClusterOptions options = {});
  ~World();

  gpu_worker::KvClient* operator->() { return &cluster().client(); }
  LocalCluster& cluster() { return *cluster_; }
  wire::ControlChannel& control() { return *control_; }  // to the first node
  void RunFor(base::Duration duration);

  // The worker's side: a session of 2 layers, 2 kv heads of 2 query heads, dim 16, without an
  // index; seal marks every 16 rows.
  static gpu_worker::RemoteSessionOptions Options(uint64_t number = 1);
  Session Open(const gpu_worker::RemoteSessionOptions& options = Options());
  // Rows behind those that are there (up to 256 in all), with their token ids; waits for none.
  absl::Status Append(const Session& session, int64_t rows);
  Session OpenWithRows(int64_t rows, const gpu_worker::RemoteSessionOptions& options = Options());
  // Exact attention to [0, end), changed by `change`.
  absl::Status Attend(const Session& session, base::Position end,
                      const std::function<void(gpu_worker::AttendQuery&)>& change = nullptr);

  // The wire's side: sessions as SessionDriver::Spec says, and single items to the first node. The
  // status is the item's, or the whole request's.
  std::shared_ptr<kv_node::Session> OpenSpec(const wire::SessionSpec& spec);
  absl::Status Send(wire::AttendItem item);
  absl::Status Send(const std::vector<wire::AppendItem>& items);
  absl::Status Send(const wire::FetchItem& item);
  absl::Status Close(const wire::SessionOp& op) { return control().Close(op); }

 private:
  // Asks and waits for the answer, whatever way it comes.
  template <typename Reply>
  absl::Status Ask(const std::function<void(wire::DataClient::Callback<Reply>)>& ask);

  base::VirtualExecutor executor_{1};
  std::unique_ptr<LocalCluster> cluster_;
  std::unique_ptr<wire::ControlChannel> control_;
  std::unique_ptr<wire::DataClient> peer_;
  std::unique_ptr<transport::Transport> peer_transport_;
  wire::DataClient::NodeIndex node_ = 0;
  wire::Tensors tensors_{1};
};

// A data server whose executor stands still until it is told to go on.
struct BusyServer {
  explicit BusyServer(const kv_node::DataServerOptions& options = {});
  ~BusyServer();
  void RunFor(base::Duration duration);
  // The first answer that is an error, as a whole or of an item.
  absl::Status FirstRefusal();

  base::VirtualExecutor time{1};
  kv_node::BusyExecutor executor{&time};
  kv_node::ServerDriver driver;
  std::shared_ptr<kv_node::Session> session;
};

// What a worker is told when a node answers an attend, an append or a fetch with what `answer`
// makes of the right answer, or of the request where there is none.
absl::Status WhenAttendIsAnswered(const wire::DataNode::Answer& answer);
absl::Status WhenAppendIsAnswered(const wire::DataNode::Answer& answer);
absl::Status WhenFetchIsAnswered(const wire::DataNode::Answer& answer);
// The right answer to an attend, with one item changed.
absl::Status WhenAnswerHas(const std::function<void(wire::AttendReplyItem&)>& change);

// The message under a header that announces changed things and has the right hashes.
transport::Message WithShape(transport::Message message,
                             const std::function<void(wire::PayloadShape&)>& change);
// What a node says to an Append whose message was changed on its way.
absl::Status WhenAppendArrivesAs(
    const std::function<transport::Message(transport::Message)>& change);

// What a node says to an Open over TCP.
absl::Status OpenOverTcp(const std::function<void(wire::SessionSpec&)>& change);
// What a worker says of a node's Describe over TCP.
absl::Status DescribeOverTcp(const std::function<void(wire::SessionInfo&)>& change);

}  // namespace sounder::tests

#endif  // SOUNDER_TESTS_ERRORS_WORLD_H_
