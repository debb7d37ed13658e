// The CPU that a program runs on, and the time it takes of it. Thread safe.
#ifndef SOUNDER_COMMON_BASE_CPU_H_
#define SOUNDER_COMMON_BASE_CPU_H_

#include <string>

namespace sounder::base {

// From /proc/cpuinfo; "unknown" where it does not say.
std::string CpuModel();

// CPU time of the calling thread in microseconds: other load on the machine does not count into it
// (but its use of caches and memory does).
double ThreadCpuUs();

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_CPU_H_
