@0xb8d2f6031c47a95e;
# The control plane: Cap'n Proto RPC over TCP. Every call answers with a Status of its own; the RPC
# layer's exceptions mean a broken connection or a peer that does not know the call.
#
# Calls that change a session carry the session's sequence number, which they share with the data
# plane's appends: a close cannot overtake an append. Calls of a session carry its tenant (to
# another one the session is not there: NOT_FOUND) and the epoch its writer holds it by: another one
# is FAILED_PRECONDITION, naming both. Calls may come twice; the second is answered from what was
# done.

using Cxx = import "/capnp/c++.capnp";
using Data = import "data.capnp";
$Cxx.namespace("sounder::proto");

struct Status {
  code @0 :UInt16;  # absl::StatusCode
  message @1 :Text;
}

struct ModelIdentity {
  # Rows computed by one model mean nothing to another: a session belongs to one identity, and a
  # mismatch is refused with a message that names both sides.
  name @0 :Text;
  weightsDigest @1 :Text;
  layers @2 :UInt32;
  kvHeads @3 :UInt32;
  queryHeads @4 :UInt32;
  headDim @5 :UInt32;
  ropeDigest @6 :Text;
  adapter @7 :Text;
  kvLayout @8 :Text;              # what a row is, in words: "llama: k after rope, v"
}

enum Projection { hadamard @0; gaussian @1; }

struct LshOptions {
  bitsPerTable @0 :UInt32;
  numTables @1 :UInt32;   # 0: the session has no tables
  minCollisions @2 :UInt32;
  projection @3 :Projection;
  seed @4 :UInt64;
}

struct SketchOptions {
  bits @0 :UInt32;        # 64, 128 or 256 sign bits of every key; 0: the session has no sketches
  seed @1 :UInt64;        # of the rotation
}

enum Durability { memory @0; disk @1; }

struct SessionSpec {
  protocolVersion @0 :UInt16;
  idHigh @1 :UInt64;
  idLow @2 :UInt64;
  epoch @3 :UInt64;
  tenant @4 :UInt32;
  model @5 :ModelIdentity;
  dtype @6 :Data.DType;           # of appended rows
  sealRows @7 :UInt32;            # seal marks at multiples of it; 0: the node's default
  minIndexedRows @8 :UInt32;      # shorter segments get no index; 0: the node's default
  lsh @9 :LshOptions;
  indexedLayers @10 :List(UInt32);
  kvHeadBegin @11 :UInt32;        # kv heads this node will hold
  kvHeadCount @12 :UInt32;
  ttlSeconds @13 :UInt32;         # 0: until closed
  durability @14 :Durability;
  rowFormat @15 :Data.RowFormat;  # what sampling reads; int8 (with sketches only): a copy in eight
                                  # bits is kept. Appended rows have the dtype either way
  sketch @16 :SketchOptions;      # of a session with sketches; then it has no tables
  placement @17 :Placement;
}

struct Placement {
  # How the worker cut the session over its nodes. A node only keeps it, for who adopts the session.
  idHigh @0 :UInt64;              # what places the session: its own id, or that of the session it
  idLow @1 :UInt64;               # was forked from, whose rows it shares
  shardRows @2 :Int64;            # positions of one shard; 0: no cut along the sequence
  headShards @3 :UInt32;          # parts the kv heads are cut into
  nodes @4 :UInt32;               # of the worker's list
}

struct OpenResult {
  sealRows @0 :UInt32;            # as in force
  minIndexedRows @1 :UInt32;
}

struct SessionInfo {
  spec @0 :SessionSpec;
  appliedSequence @1 :UInt64;
  firstPosition @2 :Int64;        # of the rows held; -1: none yet
  endPosition @3 :Int64;          # one past the last row that every stream holds: what is committed
                                  # on a node that holds the session alone
  rows @4 :UInt64;                # summed over layers and kv heads
  segments @5 :UInt64;
  rowBytes @6 :UInt64;
  indexBytes @7 :UInt64;
  tokens @8 :UInt64;              # token ids recorded
  headEnds @9 :List(Int64);       # per kv head of the node, one past the last row that every layer
                                  # holds; who knows the placement sees from it what is committed
  parentHigh @10 :UInt64;         # the session it was forked from; 0, 0: none
  parentLow @11 :UInt64;
  forkPosition @12 :Int64 = -1;   # -1: not a fork
  sharedBytes @13 :UInt64;        # of its rows, indexes and token ids, held by other sessions too
  ttlRemainingSeconds @14 :UInt32;  # rounded up; meaningless without a TTL
  durablePosition @15 :Int64 = -1;  # rows before it survive the node's end; -1: none do
  warmSegments @16 :UInt64;       # of the segments, those with only their index in memory,
  coldSegments @17 :UInt64;       # and those with nothing in memory
  storedBytes @18 :UInt64;        # on the node's disk
  pinnedSeconds @19 :UInt32;      # that its segments stay in memory, rounded up,
  pinnedSoftly @20 :Bool;         # or are the last to leave it
}

struct ConnectionInfo {
  peer @0 :Text;
  transport @1 :Text;
  detail @2 :Text;
}

struct NodeStatus {
  version @0 :Text;
  protocolVersion @1 :UInt16;
  controlAddress @2 :Text;
  dataAddress @3 :Text;
  httpAddress @4 :Text;
  sessions @5 :UInt64;
  memoryUsed @6 :UInt64;          # accounted bytes
  memoryLimit @7 :UInt64;
  rowBytes @8 :UInt64;
  indexBytes @9 :UInt64;
  threads @10 :UInt32;
  simd @11 :Text;
  uptimeSeconds @12 :UInt64;
  connections @13 :List(ConnectionInfo);
  draining @14 :Bool;
  storedBytes @15 :UInt64;        # on disk, of segments
  store @16 :Text;                # where and how; empty: no disk
}

interface Node {
  open @0 (spec :SessionSpec) -> (status :Status, result :OpenResult);
  # Idempotent: opening the same session with the same spec again succeeds.

  close @1 (idHigh :UInt64, idLow :UInt64, epoch :UInt64, sequence :UInt64, tenant :UInt32)
      -> (status :Status);
  # Frees the session. `sequence` = operations issued before; the node applies those first.

  fork @2 (idHigh :UInt64, idLow :UInt64, epoch :UInt64, sequence :UInt64, position :Int64,
           childHigh :UInt64, childLow :UInt64, tenant :UInt32, ttlSeconds :UInt32,
           childEpoch :UInt64) -> (status :Status);
  # A session of its own, `child`, with the rows and token ids before `position`, which both share.
  # It has the parent's spec but for its id, its epoch and its TTL. `sequence` as in close. The same
  # fork again succeeds; a child that is another session, or at another epoch, is ALREADY_EXISTS.

  truncate @3 (idHigh :UInt64, idLow :UInt64, epoch :UInt64, sequence :UInt64, position :Int64,
               tenant :UInt32) -> (status :Status);
  # An operation like an append, with a sequence number of its own. Afterwards the session is as if
  # only the rows before `position` had been appended; a seal mark at `position` stays, as the end
  # of those. OUT_OF_RANGE beyond the end of what was appended, as far as this node can know it.

  adopt @4 (idHigh :UInt64, idLow :UInt64, epoch :UInt64, tenant :UInt32, holder :UInt64)
      -> (status :Status, info :SessionInfo);
  # A new writer, by an epoch above the session's. The old one, and whatever of it waits, is refused
  # from then on. `holder` is random: the same adopt again is answered again, another holder's of
  # that epoch is refused. Counts as a message of the session's writer, as does describe with
  # `keepAlive`: a session lives on for its TTL.

  describe @5 (idHigh :UInt64, idLow :UInt64, epoch :UInt64, tenant :UInt32, keepAlive :Bool)
      -> (status :Status, info :SessionInfo);
  # keepAlive: the writer asks, and its epoch is checked. Without, anybody of the tenant may.

  list @6 () -> (status :Status, sessions :List(SessionInfo));
  pin @7 (idHigh :UInt64, idLow :UInt64, seconds :UInt32, soft :Bool) -> (status :Status);
  # The session's segments, also those to come, stay in memory for so long. 0: no longer. soft: they
  # leave it when there is nothing else that could.

  spill @8 (idHigh :UInt64, idLow :UInt64) -> (status :Status);
  # Takes the session's segments from memory; an attend brings back what it needs.
  # FAILED_PRECONDITION on a node without a disk.

  drain @9 (on :Bool) -> (status :Status);
  status @10 () -> (status :Status, node :NodeStatus);

  load @11 (idHigh :UInt64, idLow :UInt64) -> (status :Status);
  # The opposite of spill, ahead of attends. RESOURCE_EXHAUSTED where not all of it fits.
}
