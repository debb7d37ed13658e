#include "kv_node/tuning/schedule_cache.h"

#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/absl_text.h"
#include "common/base/status_macros.h"
#include "common/config/option_file.h"

namespace sounder::kv_node {
namespace {

constexpr char kFileName[] = "kernel_schedule.yaml";

std::string Quoted(const std::string& text) {
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\"", "\\\""}}), "\"");
}

std::string FileText(const ScheduleOrigin& origin, const kernels::KernelSchedule& schedule) {
  return absl::StrCat("# Found by sounder_node at its start; delete it to have it found again.\n",
                      "cpu: ", Quoted(origin.cpu), "\nsimd: ", Quoted(origin.simd),
                      "\nversion: ", Quoted(origin.version),
                      "\nschedule: ", Quoted(kernels::ScheduleText(schedule)), "\n");
}

}  // namespace

std::string DefaultScheduleFile(const config::Environment& environment) {
  const auto find = [&](const char* name) {
    const auto it = environment.find(name);
    return it == environment.end() ? std::string() : it->second;
  };
  if (const std::string directory = find("CACHE_DIRECTORY"); !directory.empty()) {
    return absl::StrCat(directory, "/", kFileName);
  }
  if (const std::string directory = find("XDG_CACHE_HOME"); !directory.empty()) {
    return absl::StrCat(directory, "/sounder/", kFileName);
  }
  if (const std::string home = find("HOME"); !home.empty()) {
    return absl::StrCat(home, "/.cache/sounder/", kFileName);
  }
  return "";
}

absl::StatusOr<kernels::KernelSchedule> ReadSchedule(const std::string& path,
                                                     const ScheduleOrigin& origin) {
  const std::vector<std::string> keys = {"cpu", "simd", "version", "schedule"};
  ASSIGN_OR_RETURN(config::OptionFile file, config::ReadOptionFile(path, keys));
  const ScheduleOrigin found = {
      .cpu = file["cpu"].text, .simd = file["simd"].text, .version = file["version"].text};
  if (found != origin) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is of ", found.cpu, " (", found.simd, "), version ", found.version,
                     "; this is ", origin.cpu, " (", origin.simd, "), version ", origin.version));
  }
  absl::StatusOr<kernels::KernelSchedule> schedule = kernels::ParseSchedule(file["schedule"].text);
  if (!schedule.ok()) return base::Annotate(schedule.status(), path);
  return schedule;
}

absl::Status WriteSchedule(const std::string& path, const ScheduleOrigin& origin,
                           const kernels::KernelSchedule& schedule) {
  const std::filesystem::path target(path);
  std::error_code error;
  if (target.has_parent_path()) std::filesystem::create_directories(target.parent_path(), error);
  const std::string partial = path + ".new";
  if (!error) {
    std::ofstream file(partial, std::ios::trunc);
    file << FileText(origin, schedule);
    file.close();
    if (!file) error = std::make_error_code(std::errc::io_error);
  }
  if (!error) std::filesystem::rename(partial, target, error);
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("cannot write the kernel schedule to ", path, ": ", error.message()));
}

}  // namespace sounder::kv_node
