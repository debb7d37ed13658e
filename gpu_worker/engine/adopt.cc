// Sequences that another worker began.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/status_macros.h"
#include "gpu_worker/engine/sequence_runner.h"

namespace sounder::gpu_worker {
namespace {

// Whether rows of such a session are rows of this model. What else the session was opened with is
// its own.
absl::Status CheckRows(const AdoptedSession& adopted, const RemoteSessionOptions& asked,
                       base::DType dtype) {
  const RemoteSessionOptions& held = adopted.session->options();
  const std::string id = held.id.ToString();
  wire::ModelIdentity model = held.model;
  model.name = asked.model.name;  // is for people
  if (model != asked.model) {
    return absl::FailedPreconditionError(absl::StrCat("session ", id, " holds rows of model '",
                                                      held.model.name, "', which is another one"));
  }
  if (held.dtype != dtype) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", id, " holds rows in ", base::ToAbsl(NameOf(held.dtype)),
                     ", asked for was ", base::ToAbsl(NameOf(dtype)), " (--dtype)"));
  }
  const base::Position end = adopted.session->end();
  if (static_cast<base::Position>(adopted.tokens.size()) == end) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("session ", id, " holds ", end, " rows and ",
                                                    adopted.tokens.size(),
                                                    " tokens; a sequence needs that of every row"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Sequence>> SequenceRunner::Adopt(const base::SessionId& id,
                                                                uint64_t sample_key) {
  if (Stopped()) return absl::CancelledError("stopped");
  if (!options_.attention.AnyRemote()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "session ", id.ToString(), " lies on nodes, but every layer is local (--attention)"));
  }
  std::unique_ptr<Sequence> sequence = NewSequence(sample_key);
  ASSIGN_OR_RETURN(AdoptedSession adopted, client_->Adopt(id, options_.session.tenant));
  RETURN_IF_ERROR(CheckRows(adopted, options_.session, options_.attention.dtype));
  RETURN_IF_ERROR(CheckIndex(adopted.session->options()));
  sequence->positions = sequence->shipped = adopted.session->end();
  sequence->session = std::move(adopted.session);
  sequence->adopted = std::move(adopted.tokens);
  return sequence;
}

// The last token that was generated has no row yet, and is not on the nodes: it is decoded again
// from the row before it, whose logits nobody has kept.
absl::Status SequenceRunner::Replay(Sequence* sequence) {
  const std::vector<int32_t>& known = sequence->adopted;
  std::vector<int32_t>& tokens = sequence->tokens;
  const auto check = [&](size_t at) {
    if (tokens[at] == known[at]) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        "session ", sequence->session->id().ToString(), " is of another prompt: at position ", at,
        " it has token ", known[at], ", the prompt has ", tokens[at]));
  };
  for (size_t at = sequence->turn_begin; at < std::min(tokens.size(), known.size()); ++at) {
    RETURN_IF_ERROR(check(at));
  }
  const auto prompt_end = static_cast<base::Position>(tokens.size()) - 1;
  if (sequence->shipped > prompt_end && IsMark(*sequence, prompt_end)) {
    sequence->marks.push_back(prompt_end);
  }
  while (tokens.size() < known.size() && !TurnEnded(*sequence)) {
    const size_t at = tokens.size();
    const auto& forced = sequence->forced;
    const bool fed = forced.has_value() && sequence->generated() < forced->size();
    tokens.push_back(fed ? (*forced)[sequence->generated()] : known[at]);
    RETURN_IF_ERROR(check(at));
    ++sequence->steps;
  }
  if (tokens.size() < known.size()) return absl::OkStatus();  // the next turn has more
  sequence->adopted.clear();
  return TakeBack(sequence,
                  std::min(sequence->shipped, static_cast<base::Position>(tokens.size()) - 1));
}

}  // namespace sounder::gpu_worker
