// libFuzzer's entry; SOUNDER_FUZZ_TARGET names the target. Seeds: tests/golden/llama, e.g.
//   fuzz_model_config -max_total_time=60 corpus/ tests/golden/llama/gqa_tied
#include <cstddef>
#include <cstdint>
#include <span>

#include "tests/fuzz/model_files/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const sounder::fuzz::Target& target : sounder::fuzz::Targets()) {
    if (target.name == SOUNDER_FUZZ_TARGET) target.run(std::as_bytes(std::span(data, size)));
  }
  return 0;
}
