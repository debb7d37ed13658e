// `sounderctl tune`: how the kernels run fastest on this CPU, and what that gains.
#ifndef SOUNDER_CLI_TUNE_COMMAND_H_
#define SOUNDER_CLI_TUNE_COMMAND_H_

#include "common/config/commands.h"

namespace sounder::cli {

config::Command TuneCommand();

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_TUNE_COMMAND_H_
