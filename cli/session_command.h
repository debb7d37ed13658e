// `sounderctl describe`, `pin`, `spill` and `load`: one session on the nodes that hold it.
#ifndef SOUNDER_CLI_SESSION_COMMAND_H_
#define SOUNDER_CLI_SESSION_COMMAND_H_

#include "common/config/commands.h"

namespace sounder::cli {

config::Command DescribeCommand();
config::Command PinCommand();
config::Command SpillCommand();
config::Command LoadCommand();

}  // namespace sounder::cli

#endif  // SOUNDER_CLI_SESSION_COMMAND_H_
