// Messages to bytes and back. All validation of bytes from outside happens in the Decode functions:
// what they return is consistent (every span lies inside the payload and has the size its item
// says, every enum and bound of common/base/limits.h holds, the checksum was right). They refuse
// everything else with INVALID_ARGUMENT (FAILED_PRECONDITION for another protocol version,
// DATA_LOSS for a wrong checksum) and never crash. Pure functions, thread safe.
#ifndef SOUNDER_COMMON_WIRE_CODEC_H_
#define SOUNDER_COMMON_WIRE_CODEC_H_

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/transport/transport.h"
#include "common/wire/messages.h"

namespace sounder::wire {

// The spans of the items are copied into the message. CHECKs that they have the announced sizes.
transport::Message Encode(const AttendRequest& request);
transport::Message Encode(const AttendReply& reply);
transport::Message Encode(const AppendRequest& request);
transport::Message Encode(const AppendReply& reply);
transport::Message Encode(const FetchRequest& request);
transport::Message Encode(const FetchReply& reply);
// A message of an envelope alone: ping, pong, or an answer that failed as a whole.
transport::Message EncodeBare(const Envelope& envelope);

// The envelope of any message: checks version, kind and the payload's size against the header, but
// not the payload. Enough to answer a request that is otherwise malformed.
absl::StatusOr<Envelope> DecodeEnvelope(const transport::Message& message);

// Of a request that may take so long; at least 1.
uint32_t DeadlineMicros(base::Duration deadline);
// Changes the deadline of an encoded message of ours.
void SetDeadline(uint32_t deadline_us, transport::Message* message);
// Message is move-only.
transport::Message CopyOf(const transport::Message& message);

// The kind in the envelope must be the function's.
absl::StatusOr<AttendRequest> DecodeAttend(transport::Message message);
absl::StatusOr<AttendReply> DecodeAttendReply(transport::Message message);
absl::StatusOr<AppendRequest> DecodeAppend(transport::Message message);
absl::StatusOr<AppendReply> DecodeAppendReply(transport::Message message);
absl::StatusOr<FetchRequest> DecodeFetch(transport::Message message);
absl::StatusOr<FetchReply> DecodeFetchReply(transport::Message message);

// Bytes Encode puts on the wire for it, header included.
size_t WireBytes(const transport::Message& message);

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_CODEC_H_
