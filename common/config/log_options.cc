// Apart from logging.cc, so that who logs without options links no library for options.
#include "common/config/logging.h"

namespace sounder::config {

void AddLogOptions(OptionSet& set, std::string* level) {
  set.AddText("log_level", level, "the least important events to log", LogLevelNames());
}

}  // namespace sounder::config
