#include "common/config/option_report.h"

#include <nlohmann/json.hpp>

namespace sounder::config {

std::string ConfJson(const std::vector<OptionValue>& values) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const OptionValue& value : values) {
    json[value.name] = {{"value", value.value},
                        {"default", value.default_value},
                        {"origin", OriginName(value.origin)},
                        {"source", value.source}};
  }
  // Values come from outside and need not be UTF-8.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string ConfLine(const std::vector<OptionValue>& values) {
  std::string line;
  for (const OptionValue& value : values) {
    if (value.origin == Origin::kDefault) continue;
    line += (line.empty() ? "" : ", ") + value.name + "=" + value.value + " (" + value.source + ")";
  }
  return line.empty() ? "all options at their defaults" : line;
}

}  // namespace sounder::config
