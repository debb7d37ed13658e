// libFuzzer's entry; SOUNDER_FUZZ_TARGET names the target. Seeds: tests/fuzz/wire/corpus, e.g.
//   fuzz_wire_items -max_total_time=60 work/ tests/fuzz/wire/corpus/wire_items
#include <cstddef>
#include <cstdint>
#include <span>

#include "tests/fuzz/wire/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const sounder::fuzz::WireTarget& target : sounder::fuzz::WireTargets()) {
    if (target.name == SOUNDER_FUZZ_TARGET) target.run(std::as_bytes(std::span(data, size)));
  }
  return 0;
}
