#include "common/kernels/kernel_schedule.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace sounder::kernels {
namespace {

constexpr ScheduleField kFields[] = {
    {"exact_rows_ahead", &KernelSchedule::exact_rows_ahead, 0, 65536, {128, 32, 64, 256, 512}},
    {"exact_page_rows_ahead",
     &KernelSchedule::exact_page_rows_ahead,
     0,
     65536,
     {512, 0, 256, 1024, 2048}},
    {"value_pairs", &KernelSchedule::value_pairs, 0, 2, {0, 1, 2, 2, 2}},
    {"sampled_rows_ahead", &KernelSchedule::sampled_rows_ahead, 0, 65536, {32, 8, 16, 64, 128}},
    {"sampled_tile_rows",
     &KernelSchedule::sampled_tile_rows,
     1,
     kMaxSampledTileRows,
     {64, 8, 16, 32, 48}},
    {"lsh_rows_ahead", &KernelSchedule::lsh_rows_ahead, 0, 65536, {64, 16, 32, 128, 256}},
    {"scan_bytes_ahead",
     &KernelSchedule::scan_bytes_ahead,
     0,
     1 << 20,
     {4096, 1024, 2048, 8192, 16384}},
};

}  // namespace

std::span<const ScheduleField> ScheduleFields() { return kFields; }

absl::StatusOr<KernelSchedule> ParseSchedule(const std::string& text) {
  KernelSchedule schedule;
  const auto join_name = [](std::string* out, const ScheduleField& field) {
    absl::StrAppend(out, field.name);
  };
  for (const absl::string_view part : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(absl::StripAsciiWhitespace(part), absl::MaxSplits('=', 1));
    const ScheduleField* field = nullptr;
    for (const ScheduleField& known : kFields) {
      if (pair.first == known.name) field = &known;
    }
    if (field == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("no field '", pair.first,
                                                     "' in a kernel schedule; expected ",
                                                     absl::StrJoin(kFields, ", ", join_name)));
    }
    int value = 0;
    if (!absl::SimpleAtoi(pair.second, &value) || value < field->min || value > field->max) {
      return absl::InvalidArgumentError(absl::StrCat(field->name, "='", pair.second,
                                                     "': expected a whole number, ", field->min,
                                                     " to ", field->max));
    }
    schedule.*field->value = value;
  }
  return schedule;
}

std::string ScheduleText(const KernelSchedule& schedule) {
  return absl::StrJoin(kFields, ",", [&](std::string* out, const ScheduleField& field) {
    absl::StrAppend(out, field.name, "=", schedule.*field.value);
  });
}

}  // namespace sounder::kernels
