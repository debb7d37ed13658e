// sounder_worker: its commands.
#include <vector>

#include "common/config/commands.h"
#include "common/config/environment.h"
#include "gpu_worker/chat_command.h"
#include "gpu_worker/generate_command.h"

int main(int argc, char** argv) {
  using namespace sounder;
  const std::vector<config::Command> commands = {
      {"generate", "answer prompts from a file", gpu_worker::GenerateCommand},
      {"chat", "talk to a model, turn by turn", gpu_worker::ChatCommand},
  };
  return config::RunCommand("sounder_worker", "Runs a model over KV nodes.", commands, argc, argv,
                            config::EnvironmentFromProcess());
}
