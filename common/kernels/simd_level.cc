#include "common/kernels/simd_level.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "hwy/highway.h"

namespace sounder::kernels {
namespace {

// Bits of lower value are better levels.
std::vector<int64_t> Targets() {
  std::vector<int64_t> targets;
  for (int64_t left = HWY_TARGETS; left != 0; left &= left - 1) targets.push_back(left & -left);
  return targets;
}

std::vector<int64_t> SupportedTargets() {
  const int64_t forced = hwy::SupportedTargets();
  hwy::SetSupportedTargetsForTest(0);
  const int64_t supported = hwy::SupportedTargets() | HWY_STATIC_TARGET;
  hwy::SetSupportedTargetsForTest(forced);
  std::vector<int64_t> targets;
  for (int64_t target : Targets()) {
    if ((supported & target) != 0) targets.push_back(target);
  }
  return targets;
}

}  // namespace

std::vector<std::string> SimdLevels() {
  std::vector<std::string> names;
  for (int64_t target : SupportedTargets()) names.push_back(hwy::TargetName(target));
  return names;
}

absl::Status ForceSimdLevel(std::string_view level) {
  if (level == "best") {
    hwy::SetSupportedTargetsForTest(0);
    return absl::OkStatus();
  }
  std::string names;
  for (int64_t target : SupportedTargets()) {
    if (level == hwy::TargetName(target)) {
      hwy::SetSupportedTargetsForTest(target);
      return absl::OkStatus();
    }
    absl::StrAppend(&names, ", ", hwy::TargetName(target));
  }
  return absl::InvalidArgumentError(absl::StrCat("SIMD level '", base::ToAbsl(level),
                                                 "' is not supported here; expected best", names));
}

std::string CurrentSimdLevel() {
  const int64_t supported = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(supported & -supported);
}

}  // namespace sounder::kernels
