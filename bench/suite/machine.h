// What the figures were measured on.
#ifndef SOUNDER_BENCH_SUITE_MACHINE_H_
#define SOUNDER_BENCH_SUITE_MACHINE_H_

#include <string>

namespace sounder::suite {

// The commit of the source tree at `directory`, with "-dirty" where it was changed since; "unknown"
// without git or outside a repository.
std::string CommitOf(const std::string& directory);

}  // namespace sounder::suite

#endif  // SOUNDER_BENCH_SUITE_MACHINE_H_
