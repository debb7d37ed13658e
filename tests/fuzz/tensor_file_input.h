// How the fuzz targets of tensor files read their input, so that its length need not be right by
// chance.
#ifndef SOUNDER_TESTS_FUZZ_TENSOR_FILE_INPUT_H_
#define SOUNDER_TESTS_FUZZ_TENSOR_FILE_INPUT_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tests/fuzz/mutations.h"
#include "tests/fuzz/target.h"

namespace sounder::fuzz {

// An input that begins with '{' is the header's JSON up to the first line end, and the data behind
// it, both folded; the length is put before it. Any other input is the file as it is.
inline std::vector<std::byte> TensorFileOf(std::span<const std::byte> input) {
  std::string text(AsText(input));
  if (text.starts_with('{')) {
    const size_t end = text.find('\n');
    const std::string header = Unfold(text.substr(0, end));
    std::string data;
    if (end != text.npos) data = Unfold(std::string_view(text).substr(end + 1));
    text.clear();
    for (int shift = 0; shift < 64; shift += 8) {
      text += static_cast<char>(uint64_t{header.size()} >> shift);
    }
    text += header + data;
  }
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

}  // namespace sounder::fuzz

#endif  // SOUNDER_TESTS_FUZZ_TENSOR_FILE_INPUT_H_
