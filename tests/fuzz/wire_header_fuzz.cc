// Headers of the data plane. The input is a header without its seal (the hash behind it): it is
// read as it is, and once more with the right seal and a payload of the announced size.
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "common/wire/codec_parts.h"
#include "tests/fuzz/mutations.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/wire_checks.h"

namespace sounder::fuzz {

bool RunTarget(std::span<const std::byte> input) {
  transport::Message message;
  message.header.assign(input.begin(), input.end());
  bool accepted = RunMessage(message);
  const XXH64_hash_t seal = XXH3_64bits(input.data(), input.size());
  const auto* const raw = reinterpret_cast<const std::byte*>(&seal);
  message.header.insert(message.header.end(), raw, raw + sizeof seal);
  accepted = RunMessage(message) || accepted;
  wire::PayloadShape shape;
  if (wire::DecodeHeader(message.header, &shape).ok()) {
    message.payload = memory::AlignedBuffer::Zeroed(std::min(shape.payload_bytes, 65536u));
    RunMessage(message);
  }
  return accepted;
}

}  // namespace sounder::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return sounder::fuzz::MutateWords(data, size, max_size, seed);
}
