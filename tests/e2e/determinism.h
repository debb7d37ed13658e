// Runs of `sounder_worker generate` over the two_tasks model, and what must be the same in all.
#ifndef SOUNDER_TESTS_E2E_DETERMINISM_H_
#define SOUNDER_TESTS_E2E_DETERMINISM_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/e2e/processes.h"

namespace sounder::e2e {

inline constexpr char kTwoTasks[] = "tests/models/two_tasks";

// Of one prompt: the answer, and how many rows were sampled for it.
struct Outcome {
  std::vector<int32_t> tokens;
  uint64_t rows_visible = 0;
  uint64_t rows_read = 0;
  uint64_t rows_loaded = 0;
  uint64_t rows_exact = 0;  // positions attended exactly
  friend bool operator==(const Outcome&, const Outcome&) = default;
};
using Outcomes = std::map<std::string, Outcome>;

// Writes prompts of 1,100 to 2,048 tokens of both tasks, asking for 4 tokens each.
std::string WritePrompts(const TemporaryFolder& folder);

// Answers the prompts with LSH-sampled attention in segments of 512 rows, with a run of
// sounder_worker on the nodes; `extra` are more options, `attention` its option. A prompt that
// fails fails the test.
Outcomes RunWorker(const TemporaryFolder& folder, const std::string& prompts,
                   const std::vector<std::unique_ptr<Node>>& nodes, const Arguments& extra = {},
                   const std::string& attention = "lsh");
// The same with new nodes, started with `node_options`.
Outcomes RunCluster(const TemporaryFolder& folder, const std::string& prompts, int num_nodes,
                    const Arguments& node_options, const Arguments& extra = {},
                    const std::string& attention = "lsh");

uint64_t RowsRead(const Outcomes& outcomes);
uint64_t RowsVisible(const Outcomes& outcomes);

}  // namespace sounder::e2e

#endif  // SOUNDER_TESTS_E2E_DETERMINISM_H_
