#include "kv_node/store/disk_faults.h"

#include "common/base/check.h"

namespace sounder::kv_node {

const char* NameOf(DiskFault fault) {
  constexpr std::array<const char*, kDiskFaults> kNames = {
      "read error",  "read flip",  "write error",         "no space",
      "short write", "sync error", "directory sync error"};
  return kNames[static_cast<size_t>(fault)];
}

void DiskFaults::Arm(DiskFault fault, uint64_t nth) {
  CHECK(nth >= 1) << nth;
  armed_[static_cast<size_t>(fault)] = nth;
}

bool DiskFaults::Draw(DiskFault fault) {
  const auto i = static_cast<size_t>(fault);
  bool hit = probability_[i] > 0 && random_.NextUniform() < probability_[i];
  if (armed_[i] > 0 && --armed_[i] == 0) hit = true;
  if (hit) ++counts_[i];
  return hit;
}

}  // namespace sounder::kv_node
