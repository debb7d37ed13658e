// `sounder_worker chat`: a conversation on stdin and stdout.
#ifndef SOUNDER_GPU_WORKER_CHAT_COMMAND_H_
#define SOUNDER_GPU_WORKER_CHAT_COMMAND_H_

#include "common/config/environment.h"

namespace sounder::gpu_worker {

// The exit status.
int ChatCommand(int argc, const char* const* argv, const config::Environment& environment);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_CHAT_COMMAND_H_
