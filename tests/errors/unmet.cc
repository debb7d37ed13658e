#include "tests/errors/error_case.h"

namespace sounder::tests {

std::vector<Unmet> UnmetErrors() {
  const std::string initial = "Stands in a variable until the result does.";
  const std::string wrapper = "Puts a name before another error, which is among the cases.";
  const std::string cause = "Why a connection ended: told behind 'node <node>: ', among the cases.";
  const std::string eval = "An option of samplers that sounderctl eval has, and no session.";
  const std::string shape = "Sessions seal rows of the shape they were opened with.";
  const std::string opened = "The decoder of the control plane refuses it before.";
  const std::string sampler = "kv_node/sampler/sampler.cc: ";
  const std::string segment = "kv_node/segment/segment_rows.cc: ";
  const std::string index = "kv_node/sampler/index_bytes.cc: ";
  const std::string restorer = "kv_node/session/session_restorer.cc: ";
  const std::string damage =
      "Of a store that is damaged, or of another version; what reads it makes it DATA_LOSS with "
      "the "
      "segment's name (tests/kv_node/sampler/index_bytes_test.cc).";
  const std::string records =
      "Of records that contradict each other, which no run of a node writes.";
  return {
      {"common/config/option_file.cc: : ", wrapper},
      {"common/config/option_set.cc: ", "CLI11's own words, of a flag that lacks its value."},
      {"common/config/option_text.cc: \"...\" is not ",
       "Says little by itself; among the cases with what was expected."},
      {"common/policy/placement.cc: placement needs a node",
       "KvClient::Create refuses a worker without nodes."},
      {"common/wire/codec.cc: item ...: ", wrapper},
      {"common/wire/codec_parts.cc: ", "What the peer answered, with its code and message."},
      {"common/wire/control_client.cc: no answer", initial},
      {"common/wire/control_codec.cc:  connections, at most ... are listed in a status",
       "Nodes list no more; it is for programs that are none (tests/fuzz makes such bytes)."},
      {"common/wire/data_client.cc: not connected",
       "sounderctl status asks right after an answer on that connection."},
      {"common/wire/data_client.cc: ", cause},
      {"common/wire/data_client.cc: node ...: ", wrapper},
      {"common/wire/data_client_liveness.cc: ", cause},
      {"common/wire/local_control.cc: not reachable",
       "A channel to a service of the same process, for tests."},
      {"gpu_worker/kv/kv_client.h: no answer", initial},
      {"kv_node/sampler/lsh_tables_sampler.cc: a segment of dim ..., expected ", shape},
      {"kv_node/sampler/sketch_sampler.cc: a segment of dim ..., expected ", shape},
      {sampler + "sketches of ... bits, expected 64, 128 or 256", opened},
      {sampler + "dim is ..., expected a multiple of 8, 8 to ", opened},
      {sampler + "min_indexed_rows is ..., expected 1 or more",
       "A session's 0 is the node's own number, which is 1 or more."},
      {sampler + "a share of ... of the rows, expected (0, 1]", eval},
      {sampler + "value_roulette with split tables, expected one of them", eval},
      {sampler + "group is ..., expected 1 to ", eval},
      {sampler + "split tables need independent directions: projection is ..., expected gaussian",
       eval},
      {sampler + "num_tables is ..., divided among ... query heads that ...need at least ... each "
                 "(min_collisions)",
       eval},
      {segment + "first position is ..., expected 0 or more", shape},
      {segment + "a segment of ... rows, expected 1 to ", shape},
      {segment + "dim is ..., expected a multiple of 8, 8 to ", shape},
      {segment + "rows of ... (K) and ... (V) bytes, expected ", shape},
      {index + "an index of ... bytes, expected at least ", damage},
      {index + "an index begins with ..., expected ", damage},
      {index + "an index of format version ..., this program reads version ", damage},
      {index + "an index of ... bytes has checksum ..., expected ", damage},
      {index + "reserved bytes of an index are not 0", damage},
      {index + "an index by ...; expected ", damage},
      {index + "an index of ... bytes that says ..., expected ", damage},
      {"kv_node/sampler/lsh_tables_index.cc: table ... of an index: ... at ", damage},
      {sampler + "an index for ..., which reads none", damage},
      {"kv_node/sampler/sketch_sampler.cc: factors of sketches with exponent ..., expected ... to ",
       damage},
      {"kv_node/server/attend_job.cc: not planned", initial},
      {"kv_node/session/sealed_segment.cc: the index is being built",
       "Nobody writes a segment before."},
      {"kv_node/session/sealed_segment.cc: an index of a layer that has none", damage},
      {"kv_node/session/sealed_segment.cc: an index without its copies of rows", damage},
      {restorer + "rows of layer ..., kv head ..., which session ... does not have", records},
      {restorer + "segment at position ... of layer ..., kv head ... does not fit session ",
       records},
      {restorer + "tail at position ... does not fit session ", records},
      {restorer + "tail at position ... of session ... goes beyond a seal mark", records},
      {"kv_node/session/session_branch.cc: not forked", initial},
      {"kv_node/session/session_branch.cc: session ...: ", wrapper},
      {"kv_node/session/session_branch.cc: not read", initial},
      {"kv_node/session/session_waits.cc: : ", wrapper},
      {"kv_node/session/session_waits.cc: not planned", initial},
  };
}

}  // namespace sounder::tests
