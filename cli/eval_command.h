// `sounderctl eval`: prints how well and how cheaply a sampler attends to recorded tensors.
#ifndef SOUNDER_CLI_EVAL_COMMAND_H_
#define SOUNDER_CLI_EVAL_COMMAND_H_

#include "common/config/commands.h"

namespace sounder::cli {

// Exit statuses as in exit_codes.h.
config::Command EvalCommand();

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_EVAL_COMMAND_H_
