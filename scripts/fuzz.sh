#!/usr/bin/env bash
# Builds the fuzz targets of tests/fuzz and runs them under libFuzzer, as many at a time as there
# are cores; prints a table. tests/fuzz/DESIGN.md explains.
#   scripts/fuzz.sh [--runs N] [TARGET...]     1000000 runs, every target (scripts/fuzz.sh texts)
# The target `node`, a whole node, takes milliseconds a run, and a quarter of the runs.
# The canary, which has a bug, is always among them, and must be found. What else is found (inputs
# that end the process, take more than 10 s or 2 GiB) stays in build/fuzz/findings/TARGET with a
# log. Exit status 1: something was found, or the canary was not. Ctrl-C ends it with the table of
# what was run. One input again: build/fuzz/fuzz/TARGET_fuzz FILE.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
usage() { sed -n 2,9p "$0" | cut -c3-; }
build=build/fuzz
runs=1000000
canary_runs=5000000  # it is found after some thousands

targets=()
while [ $# -gt 0 ]; do
  case $1 in
    --runs) runs=${2:?--runs N}; shift 2 ;;
    --runs=*) runs=${1#*=}; shift ;;
    -h | --help) usage; exit 0 ;;
    -*) echo "fuzz.sh: unknown flag $1" >&2; usage >&2; exit 2 ;;
    *) targets+=("${1%_fuzz}"); shift ;;
  esac
done
[[ $runs =~ ^[1-9][0-9]*$ ]] || { echo "fuzz.sh: --runs $runs is no number" >&2; exit 2; }
if [ ${#targets[@]} -eq 0 ]; then
  for file in tests/fuzz/*_fuzz.cc; do
    file=${file##*/}
    targets+=("${file%_fuzz.cc}")
  done
fi
for target in "${targets[@]}"; do
  [ -f "tests/fuzz/${target}_fuzz.cc" ] || { echo "fuzz.sh: no target $target" >&2; exit 2; }
done
mapfile -t targets < <(printf '%s\n' canary "${targets[@]}" | awk '!seen[$0]++')

scripts/build.sh fuzz "${targets[@]/%/_fuzz}"

export ASAN_OPTIONS=${ASAN_OPTIONS:-quarantine_size_mb=16}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}

# start TARGET: in the background, on a small stack (mutations.h says why).
start() {
  local findings=$build/findings/$1 corpus=$build/corpus/$1 most=$runs length=4096 stack=1024
  rm -rf "$findings" "$corpus"
  mkdir -p "$findings" "$corpus"
  local seeds=()
  [ ! -d "tests/fuzz/corpus/$1" ] || seeds=("tests/fuzz/corpus/$1")
  [ "$1" != canary ] || most=$canary_runs
  [ "$1" != node ] || most=$(((runs + 3) / 4))
  # Past what is read of a request; and common/http/DESIGN.md.
  [ "$1" != http ] || length=20000 stack=8192
  (
    ulimit -s $stack
    exec "$build/fuzz/$1_fuzz" -seed=1 -runs="$most" -max_len=$length -timeout=10 \
      -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$findings/" \
      "$corpus" "${seeds[@]}"
  ) >"$findings/log" 2>&1 &
  target_of[$!]=$1
}

found=0
# report TARGET EXIT_STATUS: its line of the table.
report() {
  local findings=$build/findings/$1 log=$build/findings/$1/log count verdict
  stat() { sed -n "s/^stat::$1: *//p" "$log"; }
  count=$(find "$findings" -type f ! -name log ! -name 'slow-unit-*' | wc -l)
  verdict=$count
  if [ "$1" = canary ]; then
    if [ "$count" -gt 0 ]; then
      verdict="$count, as planted"
    elif [ -z "$interrupted" ]; then
      verdict='0: THE PLANTED BUG WAS NOT FOUND'
      found=1
    fi
  elif [ "$count" -gt 0 ]; then
    verdict="$count: $findings"
    found=1
  elif [ "$2" -ne 0 ] && [ -z "$interrupted" ]; then
    verdict="FAILED: $log"
    found=1
  fi
  printf '%-14s %9s %8s %9s  %s\n' "$1" "$(stat number_of_executed_units)" \
    "$(stat average_exec_per_sec)" \
    "$(grep -oE 'cov: [0-9]+' "$log" | tail -1 | cut -c6-)" "$verdict"
}

declare -A target_of=()
interrupted=
stop() {
  interrupted=1
  kill -INT "${!target_of[@]}" 2>/dev/null || true
}
trap stop INT TERM
# Waits for a target to end and reports it.
reap() {
  local pid='' status=0
  wait -n -p pid "${!target_of[@]}" || status=$?
  [ -n "${pid:-}" ] || return 0  # a signal ended the waiting
  report "${target_of[$pid]}" $status
  unset "target_of[$pid]"
}

printf '%-14s %9s %8s %9s  %s\n' target runs exec/s coverage findings
for target in "${targets[@]}"; do
  while [ ${#target_of[@]} -ge "$(nproc)" ]; do reap; done
  [ -z "$interrupted" ] || break
  start "$target"
done
while [ ${#target_of[@]} -gt 0 ]; do reap; done
[ -z "$interrupted" ] || { echo "interrupted"; exit 130; }
exit $found
