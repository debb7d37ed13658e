// Item tables of the data plane and the tensors behind them: what the header says of the payload,
// then the payload. The header is made to fit, so that its checksums stop nobody.
#include <xxhash.h>

#include <cstdint>
#include <cstring>
#include <iterator>

#include "common/wire/codec_parts.h"
#include "tests/fuzz/mutations.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/wire_checks.h"

namespace sounder::fuzz {
namespace {

// Little-endian; corpus_generator.cc writes the same.
struct Shape {
  uint32_t kind = 0;  // of the message: its place in kKindsWithItems, modulo their number
  uint32_t item_count = 0;
  uint32_t item_table_bytes = 0;
};

}  // namespace

bool RunTarget(std::span<const std::byte> input) {
  Shape given;
  if (input.size() < sizeof given) return false;
  std::memcpy(&given, input.data(), sizeof given);
  input = input.subspan(sizeof given);
  transport::Message message;
  message.payload = memory::AlignedBuffer::Zeroed(wire::Padded(input.size()));
  if (!input.empty()) std::memcpy(message.payload.data(), input.data(), input.size());
  wire::Envelope envelope;
  envelope.kind = kKindsWithItems[given.kind % std::size(kKindsWithItems)];
  message.header =
      wire::EncodeHeader(envelope, {given.item_count, given.item_table_bytes,
                                    static_cast<uint32_t>(message.payload.size()),
                                    XXH3_64bits(message.payload.data(), message.payload.size())});
  return RunMessage(message);
}

}  // namespace sounder::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return sounder::fuzz::MutateWords(data, size, max_size, seed);
}
