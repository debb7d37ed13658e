// branching_writer NODE...: opens a session on nodes (control addresses), appends to it, and says
// "acknowledged N" whenever the nodes have N positions; until it is killed.
#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/thread_executor.h"
#include "common/transport/ucx_transport.h"
#include "common/wire/control_client.h"
#include "tests/e2e/branching.h"

int main(int argc, char** argv) {
  using namespace sounder;  // NOLINT: a program of one page
  base::ThreadExecutor executor(1, "writer");
  transport::UcxOptions ucx;
  ucx.tls = "tcp";
  ucx.spin = std::chrono::microseconds(5);
  auto transport = std::make_unique<transport::UcxTransport>(ucx);
  std::vector<std::unique_ptr<wire::ControlChannel>> channels;
  for (int i = 1; i < argc; ++i) {
    channels.push_back(std::make_unique<wire::ControlClient>(argv[i], std::chrono::seconds(5)));
  }
  gpu_worker::KvClientOptions options;
  options.deadline = std::chrono::seconds(5);
  auto client =
      gpu_worker::KvClient::Create(options, std::move(channels), transport.get(), &executor);
  CHECK(client.ok()) << client.status().ToString();
  const tests::RowVersions rows = e2e::BranchRows();
  auto session = (*client)->Open(e2e::BranchOptions());
  CHECK(session.ok()) << session.status().ToString();
  tests::BranchContent content;
  while (content.end() + e2e::kBranchStep <= e2e::kBranchPositions) {
    const absl::Status appended =
        tests::AppendVersion(**client, session->get(), rows, 0, e2e::kBranchStep, false, &content);
    CHECK(appended.ok()) << appended.ToString();
    if (content.end() % (3 * e2e::kBranchStep) != 0) continue;
    const absl::Status status = (*client)->WaitAppended(session->get(), content.end());
    CHECK(status.ok()) << status.ToString();
    std::printf("acknowledged %ld\n", static_cast<long>(content.end()));
    std::fflush(stdout);
  }
  std::getchar();  // for its end
  transport.reset();
  return 0;
}
