// sounderctl: looks at Sounder from the command line.
#include "cli/eval_command.h"
#include "cli/session_command.h"
#include "cli/status_command.h"
#include "cli/tune_command.h"
#include "common/config/commands.h"
#include "common/config/environment.h"

int main(int argc, char** argv) {
  return sounder::config::RunCommand(
      "sounderctl", "Operates and measures Sounder.",
      {sounder::cli::StatusCommand(), sounder::cli::DescribeCommand(), sounder::cli::PinCommand(),
       sounder::cli::SpillCommand(), sounder::cli::LoadCommand(), sounder::cli::EvalCommand(),
       sounder::cli::TuneCommand()},
      argc, argv, sounder::config::EnvironmentFromProcess());
}
