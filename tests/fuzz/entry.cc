// What libFuzzer calls.
#include <cstddef>
#include <cstdint>
#include <span>

#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sounder::fuzz::RunTarget(std::as_bytes(std::span(data, size)));
  return 0;
}
