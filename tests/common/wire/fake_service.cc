#include "tests/common/wire/fake_service.h"

#include "common/base/absl_text.h"

namespace sounder::wire {
namespace {

std::string TextOf(const absl::Status& status) {
  return absl::StrCat(static_cast<int>(status.code()), " ", base::MessageOf(status));
}
std::string TextOf(const absl::StatusOr<SessionInfo>& info) {
  return info.ok() ? Describe(*info) : TextOf(info.status());
}

}  // namespace

std::vector<std::string> CallEverything(ControlChannel* channel, const SessionSpec& spec) {
  const SessionOp op{{{1, 2}, 3}, 4, 9};
  std::vector<std::string> ends;
  const auto opened = channel->Open(spec);
  ends.push_back(opened.ok() ? absl::StrCat(opened->seal_rows, " ", opened->min_indexed_rows)
                             : TextOf(opened.status()));
  ends.push_back(TextOf(channel->Close(op)));
  ends.push_back(TextOf(channel->Fork({op, 77, {{5, 6}, 7}, 80})));
  ends.push_back(TextOf(channel->Truncate(op, 78)));
  ends.push_back(TextOf(channel->Adopt({op.session, 9, 81})));
  ends.push_back(TextOf(channel->Describe({op.session, 9, true})));
  const auto list = channel->List();
  if (!list.ok()) {
    ends.push_back(TextOf(list.status()));
  } else {
    std::string text;
    for (const SessionInfo& info : *list) text += Describe(info);
    ends.push_back(text);
  }
  ends.push_back(TextOf(channel->Pin({op.session.id, 79, true})));
  ends.push_back(TextOf(channel->Spill(op.session.id)));
  ends.push_back(TextOf(channel->Load(op.session.id)));
  ends.push_back(TextOf(channel->Drain(true)));
  const auto node = channel->Status();
  ends.push_back(node.ok() ? Describe(*node) : TextOf(node.status()));
  return ends;
}

}  // namespace sounder::wire
