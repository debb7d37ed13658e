#include "cli/eval_sweep.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/baselines/registry.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/lsh/lsh_params.h"
#include "kv_node/kernels/sketch.h"

namespace sounder::cli {
namespace {

bool HasTables(std::string_view sampler) { return sampler.starts_with("lsh"); }
bool HasSketches(std::string_view sampler) { return sampler == "sketch"; }

bool TakesBits(std::string_view sampler, int64_t bits) {
  if (HasTables(sampler)) return bits <= base::kMaxBitsPerTable;
  return HasSketches(sampler) && (bits == 64 || bits == 128 || bits == kv_node::kMaxSketchBits);
}

// The numbers of a list, each in [min, max].
template <typename T>
absl::StatusOr<std::vector<T>> Numbers(const char* flag, const std::vector<std::string>& texts,
                                       T min, T max) {
  std::vector<T> numbers;
  for (const std::string& text : texts) {
    T number = 0;
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, number);
    if (parsed.ec != std::errc() || parsed.ptr != end || !(number >= min && number <= max)) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag, " has '", text, "', expected numbers in [", min, ", ", max, "]"));
    }
    numbers.push_back(number);
  }
  return numbers;
}

struct Choices {
  std::vector<int64_t> bits;
  std::vector<int64_t> tables;
  std::vector<double> rows;
};

absl::Status CheckNames(const EvalLists& lists) {
  for (const std::string& sampler : lists.samplers) {
    if (FindSampler(sampler) != nullptr) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--sampler has '", sampler, "', expected some of ", SamplerNames()));
  }
  for (const std::string& format : lists.row_formats) {
    if (format == kAppended || format == kBf16 || format == kInt8) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--row-format has '", format, "', expected some of bf16, int8, appended"));
  }
  return absl::OkStatus();
}

absl::Status CheckBits(const EvalLists& lists, const std::vector<int64_t>& bits) {
  std::vector<std::string> takers;
  for (const std::string& sampler : lists.samplers) {
    if (HasTables(sampler) || HasSketches(sampler)) takers.push_back(sampler);
  }
  for (const int64_t number : bits) {
    if (takers.empty() || std::any_of(takers.begin(), takers.end(), [number](const auto& sampler) {
          return TakesBits(sampler, number);
        })) {
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("--bits has ", number, ", which none of these samplers takes: ",
                     absl::StrJoin(takers, ", "), "; a table has up to ", base::kMaxBitsPerTable,
                     ", a sketch 64, 128 or ", kv_node::kMaxSketchBits));
  }
  return absl::OkStatus();
}

std::vector<int64_t> BitsOf(const std::string& sampler, const std::vector<int64_t>& given) {
  std::vector<int64_t> bits;
  std::copy_if(given.begin(), given.end(), std::back_inserter(bits),
               [&](int64_t number) { return TakesBits(sampler, number); });
  if (!bits.empty()) return bits;
  if (sampler.ends_with("multiprobe")) return {12};
  if (HasTables(sampler)) return {lsh::LshParams().bits_per_table};
  if (HasSketches(sampler)) return {kv_node::SketchParams().bits};
  return {0};
}

std::vector<std::string> FormatsOf(const std::string& sampler, std::vector<std::string> formats) {
  if (!HasSketches(sampler)) {
    std::replace(formats.begin(), formats.end(), std::string(kInt8), std::string(kAppended));
  }
  return formats;
}

void AddSampler(const std::string& sampler, const std::vector<std::string>& formats,
                const Choices& choices, std::vector<EvalSetting>& settings) {
  const auto add = [&settings](const EvalSetting& setting) {
    if (std::find(settings.begin(), settings.end(), setting) == settings.end()) {
      settings.push_back(setting);
    }
  };
  for (const int64_t bits : BitsOf(sampler, choices.bits)) {
    for (const std::string& format : FormatsOf(sampler, formats)) {
      if (sampler == "exact") {
        add({.sampler = sampler, .row_format = format});
      } else if (HasTables(sampler)) {
        for (const int64_t tables : choices.tables) add({sampler, bits, tables, 0, format});
      } else {
        for (const double rows : choices.rows) add({sampler, bits, 0, rows, format});
      }
    }
  }
}

}  // namespace

absl::StatusOr<std::vector<EvalSetting>> ExpandSweep(const EvalLists& lists) {
  RETURN_IF_ERROR(CheckNames(lists));
  Choices choices;
  ASSIGN_OR_RETURN(choices.bits,
                   Numbers<int64_t>("--bits", lists.bits, 1, kv_node::kMaxSketchBits));
  ASSIGN_OR_RETURN(choices.tables, Numbers<int64_t>("--tables", lists.tables, 1, base::kMaxTables));
  ASSIGN_OR_RETURN(choices.rows, Numbers<double>("--rows", lists.rows, 1e-6, 1));
  RETURN_IF_ERROR(CheckBits(lists, choices.bits));
  std::vector<EvalSetting> settings;
  for (const std::string& sampler : lists.samplers) {
    AddSampler(sampler, lists.row_formats, choices, settings);
  }
  return settings;
}

std::string SamplerNames() {
  std::vector<std::string> names;
  for (const auto& sampler : AllSamplers()) names.emplace_back(sampler.name);
  return absl::StrJoin(names, ", ");
}

std::string LineName(const EvalSetting& setting) {
  std::string name = setting.sampler;
  if (setting.bits != 0) absl::StrAppend(&name, " ", setting.bits);
  if (setting.row_format != kAppended) absl::StrAppend(&name, " ", setting.row_format);
  return name;
}

}  // namespace sounder::cli
