// What the fuzzers of the wire run: each decoder of bytes from outside, and what must hold of
// everything it accepts. A broken promise stops the process (CHECK).
#ifndef SOUNDER_TESTS_FUZZ_WIRE_TARGETS_H_
#define SOUNDER_TESTS_FUZZ_WIRE_TARGETS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "common/transport/transport.h"

namespace sounder::fuzz {

struct WireTarget {
  std::string_view name;
  // True if the bytes were accepted.
  bool (*run)(std::span<const std::byte> bytes);
};

// wire_header: a message's header, without its seal. wire_items: Shape, then a payload; the header
// is made to fit, so that the checksums stop nobody. wire_control: a flat Cap'n Proto message, read
// as each struct of the control plane.
std::span<const WireTarget> WireTargets();

// What wire_items reads first. Little-endian.
struct ItemsShape {
  uint32_t kind = 0;  // of the message, modulo the kinds that have items
  uint32_t item_count = 0;
  uint32_t item_table_bytes = 0;
};
// The input of wire_items that says what `message` says.
std::string ItemsInput(const transport::Message& message);
// The input of wire_header likewise.
std::string HeaderInput(const transport::Message& message);

// Decodes by every decoder; true if one accepted. For whole messages, damaged or not.
bool RunMessage(const transport::Message& message);

}  // namespace sounder::fuzz

#endif  // SOUNDER_TESTS_FUZZ_WIRE_TARGETS_H_
