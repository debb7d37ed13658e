// What every fuzz target is made of. A target is one file, <name>_fuzz.cc, that defines RunTarget
// and, where bytes need structure to get anywhere, LLVMFuzzerCustomMutator. It is linked twice:
// with libFuzzer (preset fuzz) and with replay_test.cc (every other build).
#ifndef SOUNDER_TESTS_FUZZ_TARGET_H_
#define SOUNDER_TESTS_FUZZ_TARGET_H_

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "common/base/check.h"

namespace sounder::fuzz {

// Gives the input to the parser, as the program would, and CHECKs what the parser's header promises
// of what it accepts and of how it refuses. True if the input was accepted. Deterministic, and
// without memory from one call to the next.
bool RunTarget(std::span<const std::byte> input);

inline std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A refusal says why, with one of the codes that the parser's header names.
inline void CheckRefusal(const absl::Status& status,
                         std::initializer_list<absl::StatusCode> codes = {
                             absl::StatusCode::kInvalidArgument}) {
  CHECK(!status.message().empty()) << status.ToString();
  CHECK(std::find(codes.begin(), codes.end(), status.code()) != codes.end()) << status.ToString();
}

}  // namespace sounder::fuzz

#endif  // SOUNDER_TESTS_FUZZ_TARGET_H_
