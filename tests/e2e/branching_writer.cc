// branching_writer NODE...: opens a session on nodes (control addresses), appends to it, and says
// "acknowledged N" whenever the nodes have N positions; until it is killed.
#include <cstdio>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "gpu_worker/kv/kv_connection.h"
#include "tests/e2e/branching.h"

int main(int argc, char** argv) {
  using namespace sounder;  // NOLINT: a program of one page
  transport::UcxOptions ucx;
  ucx.tls = "tcp";
  ucx.spin = std::chrono::microseconds(5);
  gpu_worker::KvClientOptions options;
  options.deadline = std::chrono::seconds(5);
  const auto connection = gpu_worker::KvConnection::Connect(
      std::vector<std::string>(argv + 1, argv + argc), options, transport::MakeUcxEngine(ucx));
  CHECK(connection.ok()) << connection.status().ToString();
  gpu_worker::KvClient& client = (*connection)->client();
  const tests::RowVersions rows = e2e::BranchRows();
  auto session = client.Open(e2e::BranchOptions());
  CHECK(session.ok()) << session.status().ToString();
  tests::BranchContent content;
  while (content.end() + e2e::kBranchStep <= e2e::kBranchPositions) {
    const absl::Status appended =
        tests::AppendVersion(client, session->get(), rows, 0, e2e::kBranchStep, false, &content);
    CHECK(appended.ok()) << appended.ToString();
    if (content.end() % (3 * e2e::kBranchStep) != 0) continue;
    const absl::Status status = client.WaitAppended(session->get(), content.end());
    CHECK(status.ok()) << status.ToString();
    std::printf("acknowledged %ld\n", static_cast<long>(content.end()));
    std::fflush(stdout);
  }
  std::getchar();  // for its end
  return 0;
}
