// The items of fetches and of their answers, to the item table and its tensors and back. Private to
// common/wire. Pure functions.
#ifndef SOUNDER_COMMON_WIRE_FETCH_ITEMS_H_
#define SOUNDER_COMMON_WIRE_FETCH_ITEMS_H_

#include <vector>

#include "absl/status/statusor.h"
#include "common/wire/codec_parts.h"
#include "common/wire/messages.h"
#include "proto/data.capnp.h"

namespace sounder::wire {

void PutFetchItem(const FetchItem& item, proto::FetchItem::Builder out);
// CHECKs that the tensors have the announced sizes; adds them to `tensors`.
void PutFetchReplyItem(const FetchReplyItem& item, proto::FetchReplyItem::Builder out,
                       TensorList* tensors);

// INVALID_ARGUMENT for what breaks a rule of proto/data.capnp or limits.h.
absl::StatusOr<FetchItem> GetFetchItem(proto::FetchItem::Reader in);
absl::StatusOr<FetchReplyItem> GetFetchReplyItem(proto::FetchReplyItem::Reader in,
                                                 TensorCursor* tensors);
// The rows asked for must fit into one answer.
absl::Status CheckReplyFits(const std::vector<FetchItem>& items);

}  // namespace sounder::wire

#endif  // SOUNDER_COMMON_WIRE_FETCH_ITEMS_H_
