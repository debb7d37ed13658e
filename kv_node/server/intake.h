// What the data plane holds in memory for its peers: requests that came and answers that have not
// gone, bounded over all connections and shared so that none of them can use up the room.
#ifndef SOUNDER_KV_NODE_SERVER_INTAKE_H_
#define SOUNDER_KV_NODE_SERVER_INTAKE_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "common/policy/shared_quota.h"
#include "common/transport/transport.h"
#include "kv_node/server/probe.h"

namespace sounder::kv_node {

struct IntakeOptions {
  // Of requests with their answers; beside the cap on rows and indexes. Twice the largest payload,
  // so that all but the very
  // largest messages of the protocol fit with their answers into an idle node.
  uint64_t message_bytes = uint64_t{512} << 20;
  // Answers without payload (refusals, pongs) that a peer may leave untaken before it is closed.
  size_t bare_answers = 1024;
};

// Thread safe. Outlives its holds.
class Intake {
 public:
  // Room that returns to the intake with this object.
  class Hold {
   public:
    Hold(Intake* intake, transport::ConnectionId connection, uint64_t bytes)
        : intake_(intake), connection_(connection), bytes_(bytes) {}
    ~Hold() { Shrink(0); }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    // Gives back all but `bytes`. Not thread safe.
    void Shrink(uint64_t bytes);

   private:
    Intake* const intake_;
    const transport::ConnectionId connection_;
    uint64_t bytes_;
  };
  // Shared by whoever works on the request, and at last by its answer until that has gone.
  using SharedHold = std::shared_ptr<Hold>;

  // What a request takes beside its bytes and those of its answer.
  static constexpr uint64_t kBytesPerRequest = 4096;

  Intake(const IntakeOptions& options, ServerProbe* probe)
      : options_(options), probe_(probe), bytes_(options.message_bytes) {}

  // RESOURCE_EXHAUSTED, naming the numbers, when the connection's share does not allow it.
  absl::StatusOr<SharedHold> Take(transport::ConnectionId connection, uint64_t bytes);
  // Whether so many bytes could ever be taken.
  bool Possible(uint64_t bytes) const { return bytes <= options_.message_bytes; }

  // Counts an answer without payload. kTooMany, once for a connection: its peer does not take them;
  // from then on nothing more is to be sent to it (kDrop) or taken from it (Slow).
  enum class BareAnswer { kSend, kTooMany, kDrop };
  BareAnswer AddBare(transport::ConnectionId connection);
  void BareGone(transport::ConnectionId connection);
  bool Slow(transport::ConnectionId connection) const;
  void Forget(transport::ConnectionId connection);  // it is closed

  uint64_t limit() const { return options_.message_bytes; }
  uint64_t held_by(transport::ConnectionId connection) const;

 private:
  void Give(transport::ConnectionId connection, uint64_t bytes);
  struct Bare {
    size_t unsent = 0;
    bool slow = false;
  };

  const IntakeOptions options_;
  ServerProbe* const probe_;
  mutable std::mutex mutex_;   // guards everything below
  policy::SharedQuota bytes_;  // by connection
  std::unordered_map<transport::ConnectionId, Bare> bare_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SERVER_INTAKE_H_
