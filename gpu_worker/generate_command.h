// `sounder_worker generate`: answers prompts from a file.
#ifndef SOUNDER_GPU_WORKER_GENERATE_COMMAND_H_
#define SOUNDER_GPU_WORKER_GENERATE_COMMAND_H_

#include "common/config/environment.h"

namespace sounder::gpu_worker {

// The exit status.
int GenerateCommand(int argc, const char* const* argv, const config::Environment& environment);

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_GENERATE_COMMAND_H_
