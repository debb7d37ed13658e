// Writes docs/errors.md to stdout, for scripts/errors_doc.sh.
#include <cstdio>

#include "tests/errors/error_case.h"

int main() {
  std::fputs(sounder::tests::ErrorsPage().c_str(), stdout);
  return 0;
}
