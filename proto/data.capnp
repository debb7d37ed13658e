@0xd1f0b4a2c3e59687;
# The data plane: what travels in UCX active messages between a worker and a KV node.
#
# A message is a header and a payload. The header is one DataHeader as a flat Cap'n Proto message,
# followed by the XXH3-64 of that message's bytes; at most 1,024 bytes together. The payload is an
# item table (a flat Cap'n Proto message: AttendItems, AttendReplyItems, AppendItems, and so on by
# `kind`) of `itemTableBytes` bytes, followed by the tensors of the items in the order of the table;
# table and tensors are each padded with zeros to a multiple of 64 bytes. `checksum`
# is XXH3-64 over the whole payload. A message without items has no payload.
#
# Numbers are little-endian. Hashes have the seed 0. Tensors are dense, the last axis is contiguous.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("sounder::proto");

const protocolVersion :UInt16 = 3;
# Both sides must speak the same version; a mismatch is refused with a message that names both.

enum Kind {
  none @0;
  attend @1;       # worker to node; answered by attendReply with the same ticket
  attendReply @2;
  append @3;       # worker to node; answered by appendReply once every item was applied or refused
  appendReply @4;
  ping @5;         # either side; answered by pong with the same ticket. No payload.
  pong @6;
  fetch @7;        # worker to node; answered by fetchReply with the same ticket
  fetchReply @8;
}

enum DType { f32 @0; f16 @1; bf16 @2; }

enum Attention {
  exact @0;      # every row of the range
  lshTables @1;  # sampled by the session's LSH tables (the session must have been opened with them)
  sketch @2;     # sampled by the session's sketches (likewise)
}

enum RowFormat {
  asAppended @0;
  int8 @1;       # int8 rows with centred keys, per-row scales, kept by the session beside the
                 # unquantised rows, which stay for exact
}

struct DataHeader {
  version @0 :UInt16;
  kind @1 :Kind;
  tenant @2 :UInt32;
  ticket @3 :UInt64;         # chosen by the asking side, unique per connection; echoed in answers
  traceId @4 :UInt64;        # 0: not traced
  deadlineMicros @5 :UInt32; # time the asking side will still wait, as of sending; 0: none
  itemCount @6 :UInt32;
  itemTableBytes @7 :UInt32;
  payloadBytes @8 :UInt32;   # whole payload, item table included
  checksum @9 :UInt64;
  statusCode @10 :UInt16;    # answers: absl::StatusCode of the whole request; items have their own
  statusMessage @11 :Text;   # answers: at most 512 bytes
  timings @12 :Timings;      # answers to attend
  retryAfterMicros @13 :UInt32;  # answers: advice with RESOURCE_EXHAUSTED; 0: none
}

struct Timings {
  # Stages of one request on the node, in microseconds.
  queue @0 :UInt32;    # from arrival to the first row attended
  wait @1 :UInt32;     # of that: waiting for rows or for an index
  compute @2 :UInt32;  # from then to the last row attended
  merge @3 :UInt32;
}

struct SessionRef {
  idHigh @0 :UInt64;
  idLow @1 :UInt64;
  epoch @2 :UInt64;      # the worker's hold on the session; a node with another one refuses
}

struct AttendItem {
  # One block of queries of one session, layer and kv-head range. Tensors, in this order:
  #   queries     [queryCount, kvHeadCount * group, headDim] of queryDtype
  #   signatures  [queryCount, kvHeadCount * group, signatureWords] u64, none if signatureWords = 0
  #   lseHints    [queryCount, kvHeadCount * group] f32, absent unless hasLseHints: the natural log
  #               of the sum of e^logit over the session's sampled positions, as last known. Finite;
  #               one far below every logit (-1e30) says nothing
  #   headHints   [kvHeadCount, 2] f32, absent unless hasHeadHints. First: the mean over the
  #               session's sampled rows of the size of a row, its largest share of any query's
  #               attention, as last known; in [0, 1], 0: unknown; with lseHints a node's budget
  #               follows its part of the session's mass. Second, in [0, 1]: above 0, the head is
  #               known to attend to so many rows that they are drawn alike, this share of them
  # Hints are for sketch; other kinds of attention take no notice of them.
  session @0 :SessionRef;
  sequence @1 :UInt64;        # session operations the worker had issued before this request
  step @2 :UInt64;            # decode step, for logs and traces
  layer @3 :UInt32;
  kvHeadBegin @4 :UInt32;
  kvHeadCount @5 :UInt32;
  group @6 :UInt32;           # query heads per kv head
  queryCount @7 :UInt32;      # T
  headDim @8 :UInt32;
  queryDtype @9 :DType;
  rangeBegin @10 :Int64;      # positions wanted: exactly [rangeBegin, rangeEnd)
  rangeEnd @11 :Int64;
  layoutPosition @12 :Int64;  # P: only seal marks at or before it divide rows into segments, and of
                              # those within a block of sealRows that is complete none
  causalFrom @13 :Int64 = -1; # position of the first query of the block; query t sees positions
                              # up to causalFrom + t. -1: no bound inside the range
  scale @14 :Float32;         # logits are scale * q.k
  attention @15 :Attention;
  sampleKey @16 :UInt64;      # seeds every random number of the answer
  rowsBudget @17 :Float32;    # wanted share of the visible rows, 0: the sampler's own
  rowsCap @18 :UInt64;        # most rows of a segment per kv head, 0: none
  signatureWords @19 :UInt32;
  hasLseHints @20 :Bool;
  wantErrorTerms @21 :Bool;
  rowFormat @22 :RowFormat;   # of the rows that the sampled part reads: the session's
  hasHeadHints @23 :Bool;
}

struct AttendItems { items @0 :List(AttendItem); }

struct AttendReplyItem {
  # Tensors, absent when statusCode is not 0:
  #   outputs     [queryCount, queryHeads, headDim] f32, normalised over the attended rows
  #   lse         [queryCount, queryHeads] f32, natural log; -inf where no row was attended
  #   errorTerms  [queryCount, queryHeads, 3] f32, absent unless hasErrorTerms: two terms of the
  #               variance of the output, and the estimated sum of the squared shares of the sampled
  #               rows in the query's attention (as far as this answer covers it)
  #   headMass    [massHeads] f32: per kv head, sum of the sizes of the rows in reach of sampling
  #               (see headHints); meaningful where lseHints were sent
  statusCode @0 :UInt16;
  statusMessage @1 :Text;
  queryCount @2 :UInt32;
  queryHeads @3 :UInt32;
  headDim @4 :UInt32;
  coveredBegin @5 :Int64;   # the positions attended or sampled from: the wanted range
  coveredEnd @6 :Int64;
  rowsVisible @7 :UInt64;   # (query, query head, row) triples in reach
  rowsRead @8 :UInt64;      # of those, triples whose key was read for that query head
  rowsLoaded @9 :UInt64;    # distinct rows read, summed over kv heads and queries
  rowsExact @10 :UInt64;    # of rowsRead, those attended exactly (tail, short segments, exact mode)
  hasErrorTerms @11 :Bool;
  massHeads @12 :UInt32;    # kv heads of the item if it was sampled by sketch, otherwise 0
}

struct AttendReplyItems { items @0 :List(AttendReplyItem); }

struct AppendItem {
  # Rows of one session and layer at consecutive positions. Tensors, in this order:
  #   keys    [kvHeadCount, rowCount, headDim] of dtype (the session's)
  #   values  [kvHeadCount, rowCount, headDim] of dtype
  #   tokens  [rowCount] i32, absent unless hasTokens
  session @0 :SessionRef;
  sequence @1 :UInt64;      # 1, 2, 3, ... per session and node; applied in this order, once
  layer @2 :UInt32;
  kvHeadBegin @3 :UInt32;
  kvHeadCount @4 :UInt32;
  firstPosition @5 :Int64;
  rowCount @6 :UInt32;
  headDim @7 :UInt32;
  dtype @8 :DType;
  hasTokens @9 :Bool;       # token ids ride with one layer of a position
  sealAfter @10 :Bool;      # the position after the last row is a seal mark (prefill ends here),
                            # until the block of sealRows it lies in is complete
}

struct AppendItems { items @0 :List(AppendItem); }

struct AppendReplyItem {
  statusCode @0 :UInt16;
  statusMessage @1 :Text;
  appliedSequence @2 :UInt64;  # the session's last applied operation
  creditBytes @3 :UInt32;      # appends of the session that may be in flight to this node from now
                               # on (whatever is, one message may always be sent); 0: none given
}

struct AppendReplyItems { items @0 :List(AppendReplyItem); }

struct FetchItem {
  # Rows of one session and layer, read back as they were appended, and token ids.
  session @0 :SessionRef;
  sequence @1 :UInt64;      # session operations the worker had issued before this request
  layer @2 :UInt32;
  kvHeadBegin @3 :UInt32;
  kvHeadCount @4 :UInt32;   # 0: no rows, token ids alone
  rangeBegin @5 :Int64;     # positions wanted: exactly [rangeBegin, rangeEnd)
  rangeEnd @6 :Int64;
  headDim @7 :UInt32;       # the session's
  dtype @8 :DType;          # the session's
  wantTokens @9 :Bool;
}

struct FetchItems { items @0 :List(FetchItem); }

struct FetchReplyItem {
  # Tensors, absent when statusCode is not 0:
  #   keys    [kvHeadCount, rowCount, headDim] of dtype
  #   values  [kvHeadCount, rowCount, headDim] of dtype
  #   tokens  [rowCount] i32, absent unless hasTokens
  statusCode @0 :UInt16;
  statusMessage @1 :Text;
  kvHeadCount @2 :UInt32;
  rowCount @3 :UInt32;
  headDim @4 :UInt32;
  dtype @5 :DType;
  hasTokens @6 :Bool;
}

struct FetchReplyItems { items @0 :List(FetchReplyItem); }
