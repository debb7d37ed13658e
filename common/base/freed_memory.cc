#include "common/base/freed_memory.h"

#include <malloc.h>

namespace sounder::base {

void ReturnFreedMemory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
  mallopt(M_TRIM_THRESHOLD, 1 << 20);
  mallopt(M_ARENA_MAX, 2);
#endif
}

}  // namespace sounder::base
