#include "tests/errors/error_case.h"

namespace sounder::tests {
namespace {

std::vector<Unmet> UnmetStoreErrors() {
  const std::string wrapper = "Puts a name before another error, which is among the cases.";
  const std::string little =
      "The system's or the database's own words, behind the folder or file they are about.";
  const std::string injected = "Of disks that tests make fail.";
  const std::string segment =
      "Damage of a segment other than that of its rows, which is among the cases; told in the same "
      "way (tests/kv_node/store/segment_format_test.cc).";
  const std::string record =
      "Damage of a record other than those among the cases; stands in 'records are damaged: ' "
      "(tests/kv_node/store/records_test.cc, record_store_test.cc).";
  const std::string own = "The node writes only what it has checked.";
  const std::string format = "kv_node/store/segment_format.cc: ";
  const std::string session = "kv_node/store/session_record.cc: ";
  const std::string faulty = "kv_node/store/faulty_disk.cc: ";
  const std::string walk = "kv_node/store/record_walk.cc: ";
  return {
      {"kv_node/main.cc: draining", "What /readyz says, which is no answer to a request."},
      {"kv_node/node_store.cc: --shutdown-deadline is over",
       "A line of the log of a node that ends."},
      {faulty + "the disk has no power", injected},
      {faulty + "no space (injected)", injected},
      {faulty + "only ... (injected)", injected},
      {faulty + ": sync: input/output error (injected)", injected},
      {faulty + ": reading ... bytes at ...: the file ends before", injected},
      {faulty + "directory: sync: input/output error (injected)", injected},
      {"kv_node/store/power_loss.cc: : cannot create: it is there", injected},
      {"kv_node/store/power_loss.cc: : no such file", injected},
      {"kv_node/store/unsynced_folder.cc: : ", injected},
      {"kv_node/store/linux_file.cc: : only ... were written",
       "A write that the system cut short: the segment counts as not written, and stays in "
       "memory."},
      {"kv_node/store/linux_file.cc: : not on this file system",
       "Freeing space within a file: the node then frees whole files."},
      {"kv_node/store/read_queue.cc: : the file ends before, only ... are there",
       "A file that somebody cut short: told like a damaged page, which is among the cases."},
      {"kv_node/store/record_store.cc: ", little},
      {"kv_node/store/record_store.cc: : ", little},
      {walk, wrapper},
      {walk + "all that lies behind ... cannot be read: ", record},
      {walk + "what lies between ... and ... cannot be read: ", record},
      {"kv_node/store/records.cc: the record ", record},
      {"kv_node/store/records.cc: a key that no record has", record},
      {"kv_node/store/records.cc: a record of format version ...; this program reads version ",
       record},
      {format + "segment of format version ...; this program reads version ",
       "Of a segment that another release wrote: told to the attend that needs it. (Of records the "
       "same is among the cases.)"},
      {format + "the segment's last page is not a footer: it was not written whole", segment},
      {format + "footer and page checksums do not fit the segment's header", segment},
      {format + " ...: expected ", own},
      {format + "no segment begins here: another magic number", segment},
      {format + "the segment's header does not match its checksum", segment},
      {format + "the segment's header: ", segment},
      {format + "the segment's header has fields that do not fit each other", segment},
      {format + "another segment than the one recorded lies here: of ... rows from ..., expected "
                "... from ",
       segment},
      {format + "bytes behind the page checksums are not zero", segment},
      {format + "bytes behind the index are not zero", segment},
      {"kv_node/store/segment_log.cc: : the file of a segment is missing", segment},
      {session + "the session's record has no ", record},
      {session + "the session's record: ... is ... or out of its range", record},
      {session + "committed up to ..., forked at ...: expected positions up to 2^40", record},
      {session + "a parent without a fork's position, or the reverse", record},
      {session + "more than ... replicas", record},
      {session + "the session's record has ... bytes, expected at most ", record},
      {session + "the session's record is not JSON", record},
      {session + "the session's record: ", record},
      {session + "the record of session ... lies where that of ... should", record},
      {session + "the session's record has fields that this version does not write", record},
  };
}

}  // namespace

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
      "Of an index in a store that is damaged: told with this status to the attend that needs it "
      "(tests/kv_node/sampler/index_bytes_test.cc).";
  const std::string version =
      "Of an index that another release wrote: told with this status, FAILED_PRECONDITION, to the "
      "attend that needs it (tests/kv_node/sampler/index_bytes_test.cc).";
  const std::string records =
      "Of records that contradict each other, which no run of a node writes.";
  std::vector<Unmet> unmet = UnmetStoreErrors();
  const std::vector<Unmet> others = {
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
      {index + "an index of format version ..., this program reads version ", version},
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
      {"kv_node/session/session_waits.cc: : ", wrapper},
      {"kv_node/session/session.h: not gathered", initial},
      {"kv_node/store/record_store.cc: : cannot be locked (...)", "The system's reason says it."},
  };
  unmet.insert(unmet.end(), others.begin(), others.end());
  return unmet;
}

}  // namespace sounder::tests
