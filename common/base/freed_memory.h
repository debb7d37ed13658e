// What a process gives back of the memory it has freed.
#ifndef SOUNDER_COMMON_BASE_FREED_MEMORY_H_
#define SOUNDER_COMMON_BASE_FREED_MEMORY_H_

namespace sounder::base {

// From now on memory that is freed goes back to the system, however large the blocks were. By
// itself glibc keeps ever larger blocks for reuse, and those of every thread apart, which a process
// near a cap on its memory cannot afford. At the start, before there are threads. Does nothing
// where the C library is another.
void ReturnFreedMemory();

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_FREED_MEMORY_H_
