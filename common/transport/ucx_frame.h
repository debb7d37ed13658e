// What travels in the header of every UCX active message of ours, before the user's header.
#ifndef SOUNDER_COMMON_TRANSPORT_UCX_FRAME_H_
#define SOUNDER_COMMON_TRANSPORT_UCX_FRAME_H_

#include <cstddef>
#include <cstdint>

#include "common/base/limits.h"
#include "common/transport/ordered_lanes.h"

namespace sounder::transport {

inline constexpr unsigned kActiveMessageId = 1;
inline constexpr uint32_t kFrameMagic = 0x31444E53;  // "SND1", little endian
inline constexpr uint16_t kFrameVersion = 1;

enum class FrameKind : uint8_t {
  kHello = 1,    // first on every connection, both ways; no more header, no payload
  kMessage = 2,  // the user's header follows
  kGoodbye = 3,  // a LaneCounts follows: how many messages were sent before; nothing comes after
};

// Little endian, as every machine we run on (checked in ucx_send.cc).
struct Frame {
  uint32_t magic = kFrameMagic;
  uint16_t version = kFrameVersion;
  FrameKind kind = FrameKind::kMessage;
  uint8_t lane = 0;       // the SendMode, for kMessage
  uint64_t sequence = 0;  // number of the message in its lane, from 0
};
static_assert(sizeof(Frame) == 16);

inline constexpr size_t kMaxFrameBytes = sizeof(Frame) + base::kMaxHeaderBytes;
static_assert(sizeof(LaneCounts) <= base::kMaxHeaderBytes);

}  // namespace sounder::transport

#endif  // SOUNDER_COMMON_TRANSPORT_UCX_FRAME_H_
