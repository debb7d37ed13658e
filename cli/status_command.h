// `sounderctl status`: what the nodes of a cluster are doing.
#ifndef SOUNDER_CLI_STATUS_COMMAND_H_
#define SOUNDER_CLI_STATUS_COMMAND_H_

#include "common/config/commands.h"

namespace sounder::cli {

// Exit statuses as in exit_codes.h: kExitUnavailable when a node does not answer (the others are
// shown all the same).
config::Command StatusCommand();

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_STATUS_COMMAND_H_
