// How many file descriptors a process may have.
#ifndef SOUNDER_COMMON_BASE_OPEN_FILES_H_
#define SOUNDER_COMMON_BASE_OPEN_FILES_H_

#include <cstdint>

namespace sounder::base {

// Raises the process's limit on open files to what it may raise it to (soft to hard); the limit now
// in force. To be called by main(), before threads are started.
uint64_t RaiseOpenFileLimit();

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_OPEN_FILES_H_
