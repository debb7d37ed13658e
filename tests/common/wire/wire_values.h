// Messages for the tests of the wire: random ones of odd shapes, fixed ones whose bytes are
// committed, and comparisons of all their fields.
#ifndef SOUNDER_TESTS_COMMON_WIRE_WIRE_VALUES_H_
#define SOUNDER_TESTS_COMMON_WIRE_WIRE_VALUES_H_

#include <deque>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/transport/transport.h"
#include "common/wire/codec.h"
#include "common/wire/control_service.h"
#include "common/wire/messages.h"

namespace sounder::wire {

// Owns what the spans of the messages point to.
class Tensors {
 public:
  explicit Tensors(uint64_t seed) : random_(seed, 77) {}
  // `count` elements of random bits; floats are finite.
  std::span<const std::byte> Bytes(size_t count);
  std::span<const float> Floats(size_t count);
  std::span<const uint64_t> Words(size_t count);
  std::span<const int32_t> Tokens(size_t count);
  // Sensible ones: what is accepted of them is bounded.
  std::span<const HeadHint> HeadHints(size_t count);
  std::span<const ErrorTerms> Errors(size_t count);
  std::span<const float> Masses(size_t count);

 private:
  template <typename T>
  std::span<T> New(size_t count) {
    return memory_.emplace_back(count * sizeof(T)).template As<T>();
  }
  base::PhiloxStream random_;
  std::deque<memory::AlignedBuffer> memory_;
};

// Sets the spans of an item to the sizes that its fields ask for. hints: of both kinds;
// error_terms: and the masses of as many heads.
void Fill(AttendItem* item, bool hints, Tensors* tensors);
void Fill(AttendReplyItem* item, bool error_terms, Tensors* tensors);
void Fill(AppendItem* item, bool tokens, Tensors* tensors);
void Fill(FetchReplyItem* item, bool tokens, Tensors* tensors);

// Items that every rule accepts, the smallest of their kind.
AttendItem SmallAttend(Tensors* tensors);
AttendReplyItem SmallReply(Tensors* tensors);
AppendItem SmallAppend(Tensors* tensors);
FetchItem SmallFetch();
FetchReplyItem SmallFetchReply(Tensors* tensors);

Envelope RandomEnvelope(base::PhiloxStream& random, MessageKind kind);
AttendRequest RandomAttend(base::PhiloxStream& random, Tensors* tensors);
AttendReply RandomAttendReply(base::PhiloxStream& random, Tensors* tensors);
AppendRequest RandomAppend(base::PhiloxStream& random, Tensors* tensors);
AppendReply RandomAppendReply(base::PhiloxStream& random);
FetchRequest RandomFetch(base::PhiloxStream& random);
FetchReply RandomFetchReply(base::PhiloxStream& random, Tensors* tensors);
SessionSpec RandomSpec(base::PhiloxStream& random);
SessionInfo RandomInfo(base::PhiloxStream& random);
NodeStatus RandomNodeStatus(base::PhiloxStream& random);

// All fields as text, in one order; tensors as their bytes. Equal texts, equal values.
std::string Describe(const Envelope& envelope);
std::string Describe(const AttendRequest& request);
std::string Describe(const AttendReply& reply);
std::string Describe(const AppendRequest& request);
std::string Describe(const AppendReply& reply);
std::string Describe(const FetchRequest& request);
std::string Describe(const FetchReply& reply);
std::string Describe(const SessionSpec& spec);
std::string Describe(const SessionInfo& info);
std::string Describe(const NodeStatus& status);

}  // namespace sounder::wire

#endif  // SOUNDER_TESTS_COMMON_WIRE_WIRE_VALUES_H_
