#!/usr/bin/env bash
# The demo: two KV nodes and a worker on this machine, talking over UCX.
#   (a) a small trained model answers long prompts of two tasks, exactly and with attention sampled
#       on the nodes, by LSH tables and by sketches;
#   (b) a long synthetic session, appended and attended through the worker's KV client;
#   (c) a session four times as large as its node's memory, decoded from the node's SSD.
#   scripts/demo.sh [--prompts N] [--positions N]     prompts per task, positions of part (b)
#                   [--output DIR]                    default: build/demo; (c) keeps its store there
# Leaves no process behind. Output of the nodes and of every run stays in DIR, which is emptied.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

prompts=64 positions=131072 out=build/demo
while [ $# -gt 0 ]; do
  case $1 in
    --prompts) prompts=$2 ;;
    --positions) positions=$2 ;;
    --output) out=$2 ;;
    *) sed -n 2,9p "$0" >&2; exit 2 ;;
  esac
  shift 2
done

bin=build/release/bin
model=tests/models/two_tasks
rm -rf "$out"
mkdir -p "$out"

# Everything this shell has started in the background ends, at once if a second signal asks for it.
stop_all() {
  local running
  trap - EXIT
  trap 'kill -KILL $(jobs -p) 2>/dev/null || true' INT TERM HUP
  running=$(jobs -p)
  # shellcheck disable=SC2086  # one word each
  [ -z "$running" ] || kill $running 2>/dev/null || true
  while [ -n "$(jobs -pr)" ]; do wait || true; done
}
trap stop_all EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# start_node NAME ARGUMENT...: waits for its line, `ready`, and appends its control address to
# `nodes`.
nodes=
ready=
start_node() {
  local log=$out/$1 address
  shift
  mkfifo "$log.ready"
  "$bin/sounder_node" --control 127.0.0.1:0 --data 127.0.0.1:0 --http 127.0.0.1:0 "$@" \
    >"$log.ready" 2>"$log.log" &
  if ! read -r -t 30 ready <"$log.ready"; then
    echo "demo: a node did not start:" >&2
    cat "$log.log" >&2
    exit 1
  fi
  address=${ready#*control=}
  nodes=${nodes:+$nodes,}${address%% *}
  echo "  $ready"
}

# metric READY_LINE NAME: of the node that said it is ready so.
metric() {
  local address=${1#*http=}
  address=${address%% *}
  exec 3<>"/dev/tcp/${address%:*}/${address##*:}"
  printf 'GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n' >&3
  awk -v name="$2" '$1 == name { print $2 }' <&3
  exec 3>&-
}

# run COMMAND...: in the background and waited for, so that a signal is acted on at once. Not for
# pipelines: there it would run in a shell that stop_all knows nothing of.
run() {
  "$@" &
  wait $! || { echo "demo: failed: $*" >&2; exit 1; }
}

threads=$((($(nproc) + 1) / 2))
echo "starting two KV nodes with $threads thread(s) each"
start_node node-a --threads "$threads" --memory 4GiB
start_node node-b --threads "$threads" --memory 4GiB

echo
echo "(a) a trained model, $prompts prompts of 2,048 tokens for each of two tasks; the last 96"
echo "    tokens before the question are filler, so the 64-token window alone cannot answer"
for task in recall words; do
  run "$bin/two_tasks_prompts" --task "$task" --count "$prompts" --length 2048 --tail 96 \
    --seed 20260 --model "$model" >"$out/$task.jsonl"
done
cat "$out/recall.jsonl" "$out/words.jsonl" >"$out/prompts.jsonl"

# generate NAME ARGUMENT...
generate() {
  local name=$1 begin=$SECONDS
  shift
  run "$bin/sounder_worker" generate --model "$model" --nodes "$nodes" --dtype bf16 \
    --prompts "$out/prompts.jsonl" --output "$out/$name.jsonl" \
    --summary "$out/$name.summary.json" --log-level warning --progress "$@"
  echo "  $name: $((SECONDS - begin)) s"
}
generate exact --attention exact
generate lsh_10_150 --attention lsh --bits 10 --tables 150 --audit-every 1
generate lsh_8_75 --attention lsh --bits 8 --tables 75 --audit-every 1
generate sketch_2 --attention sketch --rows 0.02 --audit-every 1
generate sketch_5 --attention sketch --rows 0.05 --row-format int8 --audit-every 1

echo
"$bin/demo_report" --prompts "$out/recall.jsonl" --prompts "$out/words.jsonl" "$out" \
  exact lsh_10_150 lsh_8_75 sketch_2 sketch_5 | tee "$out/model.txt"
echo "lsh_K_L: L tables of K bits. sketch_P: P% of the rows, by sketches of 128 bits; sketch_5 from"
echo "a copy in 8 bits. rows read: per query head, of the rows on the nodes. exact share: positions"
echo "attended exactly (sinks, window). error: mean |o - o*| / |o*| of the attention outputs, each"
echo "also computed exactly. KiB/step: attention requests and answers per decoded token. MiB total:"
echo "those and the rows sent to the nodes. Both are without the traffic of computing exactly"
echo "beside sampling."
echo "Answers with a * are wrong."

echo
echo "(b) scale: one synthetic session of $positions positions (generated data, no model)"
run "$bin/demo_scale" --nodes "$nodes" --positions "$positions" >"$out/scale.txt"
cat "$out/scale.txt"
echo "error: mean |o - o*| / |o*|. B/token: per token and kv head, on the nodes, index and rows"
echo "(with the copy in 8 bits that sketches sample from)."

echo
echo "(c) a prompt of 17,000 tokens, 16.6 MB of rows, on a node with 4 MiB of memory and an SSD"
echo "    (the model was trained on shorter ones; what counts is that the tokens are the same)"
run "$bin/two_tasks_prompts" --task words --count 1 --length 17000 --tail 96 --seed 20260 \
  --model "$model" >"$out/long.jsonl"
in_memory=${nodes%%,*} nodes=
start_node node-c --threads "$threads" --memory 4MiB --store "$out/store"

# long NAME NODE: how the prompt is answered.
long() {
  run "$bin/sounder_worker" generate --model "$model" --nodes "$2" --dtype f32 \
    --attention sketch --rows .05 --seal-rows 256 --min-indexed-rows 256 --deadline 20s \
    --prefill-deadline 20s --prompts "$out/long.jsonl" --output "$out/$1.jsonl" \
    --log-level warning
  sed -E 's/.*("text":.*"tokens":[^]]*\]).*/\1/' "$out/$1.jsonl" >"$out/$1.tokens"
  echo "  $1: $(cat "$out/$1.tokens")"
}
long all_in_memory "$in_memory"
long from_ssd "$nodes"
read_bytes=$(metric "$ready" sounder_store_read_bytes_total)
echo "  written to the SSD: $(metric "$ready" sounder_store_written_bytes_total) bytes, read by" \
  "attends: $read_bytes"
cmp "$out/all_in_memory.tokens" "$out/from_ssd.tokens"
[ "$read_bytes" != 0 ] || { echo "demo: nothing was read from the SSD" >&2; exit 1; }
echo "tokens from SSD: the same tokens as with everything in memory"

stop_all
rm -rf "$out/store"
echo
echo "demo: ok"
