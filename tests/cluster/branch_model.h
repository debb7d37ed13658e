// What a session that branches must hold, and whether it does: against what was appended, and
// against a session built from scratch.
#ifndef SOUNDER_TESTS_CLUSTER_BRANCH_MODEL_H_
#define SOUNDER_TESTS_CLUSTER_BRANCH_MODEL_H_

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "gpu_worker/kv/kv_client.h"
#include "tests/cluster/test_session.h"

namespace sounder::tests {

// Several made-up versions of every row, so that what was appended anew is told from what was
// there.
class RowVersions {
 public:
  RowVersions(const Shape& shape, int64_t positions, int versions, uint64_t seed);
  const Shape& shape() const { return shape_; }
  int versions() const { return static_cast<int>(rows_.size()); }
  int64_t positions() const { return rows_[0].positions(); }
  const TestRows& Of(int version) const { return rows_[static_cast<size_t>(version)]; }
  static int32_t Token(base::Position position, int version) {
    return static_cast<int32_t>(100000 * version + position);
  }

 private:
  const Shape shape_;
  std::vector<TestRows> rows_;
};

// One session's content: the version of every position, and its explicit seal marks.
struct BranchContent {
  std::vector<int> versions;
  std::set<base::Position> marks;

  base::Position end() const { return static_cast<base::Position>(versions.size()); }
  void Append(int64_t rows, int version, bool seal);
  void Truncate(base::Position position);
};

// Appends rows of one version behind what `content` says, with their token ids; and to the content.
absl::Status AppendVersion(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session,
                           const RowVersions& rows, int version, int64_t count, bool seal,
                           BranchContent* content);
// Appends what `content` says from `begin` on, in as few calls as there can be.
absl::Status AppendContent(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session,
                           const RowVersions& rows, const BranchContent& content,
                           base::Position begin);
// A new session of the options, id included, with that content, appended in as few calls as there
// can be.
std::shared_ptr<gpu_worker::RemoteSession> BuildFromScratch(
    gpu_worker::KvClient& client, const gpu_worker::RemoteSessionOptions& options,
    const RowVersions& rows, const BranchContent& content);

// What is wrong with the rows of a layer and the token ids of a session, read back; "" if nothing.
std::string ReadBackFault(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session,
                          const RowVersions& rows, const BranchContent& content, uint32_t layer,
                          base::PositionRange range);
// How far exact attention of some query is from float64 (tests::Distance).
absl::StatusOr<double> ExactDistance(gpu_worker::KvClient& client,
                                     gpu_worker::RemoteSession* session, const RowVersions& rows,
                                     const BranchContent& content, uint32_t layer,
                                     base::PositionRange range, std::span<const float> queries);

// What is wrong with a session, empty if nothing is: rows and token ids read back, exact attention
// against float64, and, if a session from scratch is given, exact and sampled attention bit for
// bit.
std::string BranchFault(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session,
                        const RowVersions& rows, const BranchContent& content,
                        gpu_worker::RemoteSession* scratch, base::PhiloxStream& random);

}  // namespace sounder::tests

#endif  // SOUNDER_TESTS_CLUSTER_BRANCH_MODEL_H_
