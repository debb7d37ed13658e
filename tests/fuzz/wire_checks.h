// What must hold of every message of the data plane, for the fuzz targets of the wire.
#ifndef SOUNDER_TESTS_FUZZ_WIRE_CHECKS_H_
#define SOUNDER_TESTS_FUZZ_WIRE_CHECKS_H_

#include "common/transport/transport.h"
#include "common/wire/messages.h"

namespace sounder::fuzz {

// Inputs name them by their place here.
inline constexpr wire::MessageKind kKindsWithItems[] = {
    wire::MessageKind::kAttend, wire::MessageKind::kAttendReply,
    wire::MessageKind::kAppend, wire::MessageKind::kAppendReply,
    wire::MessageKind::kFetch,  wire::MessageKind::kFetchReply};

// Gives the message to every decoder, and CHECKs: one of them accepts it at most; what it accepts
// keeps every bound of proto/data.capnp and common/base/limits.h, has its tensors inside the
// payload, and says the same when it is written and read again; a refusal has a code of codec.h.
// True if the message was accepted.
bool RunMessage(const transport::Message& message);

// What an item is allowed to be. Written from the comments of proto/data.capnp, not from the codec.
bool IsAllowed(const wire::AttendItem& item);
bool IsAllowed(const wire::AttendReplyItem& item);
bool IsAllowed(const wire::AppendItem& item);
bool IsAllowed(const wire::FetchItem& item);
bool IsAllowed(const wire::FetchReplyItem& item);
// Bytes of the tensors of the answer, without their paddings.
unsigned __int128 AnswerBytes(const wire::FetchRequest& request);

}  // namespace sounder::fuzz

#endif  // SOUNDER_TESTS_FUZZ_WIRE_CHECKS_H_
