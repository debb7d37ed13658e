// The items of attends and of their answers, to the item table and its tensors and back. Private to
// common/wire. Pure functions.
#ifndef SOUNDER_COMMON_WIRE_ATTEND_ITEMS_H_
#define SOUNDER_COMMON_WIRE_ATTEND_ITEMS_H_

#include <vector>

#include "absl/status/statusor.h"
#include "common/wire/codec_parts.h"
#include "common/wire/messages.h"
#include "proto/data.capnp.h"

namespace sounder::wire {

// CHECK that the tensors have the announced sizes; add them to `tensors`.
void PutAttendItem(const AttendItem& item, proto::AttendItem::Builder out, TensorList* tensors);
void PutAttendReplyItem(const AttendReplyItem& item, proto::AttendReplyItem::Builder out,
                        TensorList* tensors);

// INVALID_ARGUMENT for what breaks a rule of proto/data.capnp or limits.h.
absl::StatusOr<AttendItem> GetAttendItem(proto::AttendItem::Reader in, TensorCursor* tensors);
absl::StatusOr<AttendReplyItem> GetAttendReplyItem(proto::AttendReplyItem::Reader in,
                                                   TensorCursor* tensors);
// The reply must fit into a message as well: f32 outputs may be twice the size of the queries.
absl::Status CheckReplyFits(const std::vector<AttendItem>& items);

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_ATTEND_ITEMS_H_
