// What a program was configured with, for /conf and for logs. Pure functions.
#ifndef SOUNDER_COMMON_CONFIG_OPTION_REPORT_H_
#define SOUNDER_COMMON_CONFIG_OPTION_REPORT_H_

#include <string>
#include <vector>

#include "common/config/option_set.h"

namespace sounder::config {

// {"seal_rows": {"value": "4096", "default": "4096", "origin": "default", "source": ""}, ...}
std::string ConfJson(const std::vector<OptionValue>& values);

// The options that are not at their defaults, on one line: "seal_rows=64 (--seal-rows), ...".
std::string ConfLine(const std::vector<OptionValue>& values);

}  // namespace sounder::config

#endif  // SOUNDER_COMMON_CONFIG_OPTION_REPORT_H_
