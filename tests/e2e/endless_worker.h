// A sounder_worker that decodes for as long as it is let.
#ifndef SOUNDER_TESTS_E2E_ENDLESS_WORKER_H_
#define SOUNDER_TESTS_E2E_ENDLESS_WORKER_H_

#include <memory>
#include <string>

#include "tests/e2e/processes.h"

namespace sounder::e2e {

// Four sequences of the smallest golden model over the nodes ("host:port,host:port"). Its files are
// in `folder`, which outlives it. `extra` are further options.
std::unique_ptr<Process> EndlessWorker(const TemporaryFolder& folder, const std::string& nodes,
                                       const Arguments& extra = {},
                                       const std::string& attention = "exact");
// Its arguments alone.
Arguments EndlessWorkerArguments(const TemporaryFolder& folder, const std::string& nodes,
                                 const Arguments& extra, const std::string& attention = "exact");

}  // namespace sounder::e2e

#endif  // SOUNDER_TESTS_E2E_ENDLESS_WORKER_H_
