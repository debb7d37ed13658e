// Mutations that know what they change, for LLVMFuzzerCustomMutator: half of the time they edit
// words or JSON values, otherwise they leave it to LLVMFuzzerMutate. Pure functions of their
// arguments (and of LLVMFuzzerMutate, which libFuzzer or the replay test defines).
#ifndef SOUNDER_TESTS_FUZZ_MUTATIONS_H_
#define SOUNDER_TESTS_FUZZ_MUTATIONS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sounder::fuzz {

// For messages made of aligned 4- and 8-byte words: numbers become telling ones, words are swapped,
// doubled and taken out. `prefix` bytes at the front are no part of the words' grid.
size_t MutateWords(uint8_t* data, size_t size, size_t max_size, unsigned seed, size_t prefix = 0);

// For JSON and folded JSON: values become telling ones, move, go deeper, are doubled and taken out.
size_t MutateJson(uint8_t* data, size_t size, size_t max_size, unsigned seed);

// Folded text is how a short input says a long one: the byte 1, a character and a byte n are that
// character n * kFoldUnit times. So brackets nest thousands deep in a few bytes. (What calls itself
// for each of them ends the process: ./run fuzz has a stack of 1 MiB.) At most kMaxUnfolded bytes
// come out; what is folded beyond that is left out.
inline constexpr char kFold = '\1';
inline constexpr size_t kFoldUnit = 16;
inline constexpr size_t kMaxUnfolded = 8 * 1024;
std::string Unfold(std::string_view folded);

}  // namespace sounder::fuzz

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

#endif  // SOUNDER_TESTS_FUZZ_MUTATIONS_H_
