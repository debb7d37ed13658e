// One entry per parser of model files, for libFuzzer and for the replay test.
#ifndef SOUNDER_TESTS_FUZZ_MODEL_FILES_TARGETS_H_
#define SOUNDER_TESTS_FUZZ_MODEL_FILES_TARGETS_H_

#include <cstddef>
#include <span>
#include <string_view>

namespace sounder::fuzz {

// Parses the bytes and, if they are accepted, uses every part of the result: so that a promise the
// parser broke shows as a crash, a CHECK or a sanitizer's report. Returns whether they were
// accepted.
struct Target {
  std::string_view name;
  bool (*run)(std::span<const std::byte> bytes);
};

// "tensor_file", "model_config", "weight_index", "tokenizer".
std::span<const Target> Targets();

}  // namespace sounder::fuzz

#endif  // SOUNDER_TESTS_FUZZ_MODEL_FILES_TARGETS_H_
