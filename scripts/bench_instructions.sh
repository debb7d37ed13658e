#!/usr/bin/env bash
# Counts the instructions of the kernels with callgrind and compares them with
# bench/instructions/baseline.json (bench/DESIGN.md says why and how).
#   scripts/bench_instructions.sh [KERNEL...]    all kernels, or only these
#   scripts/bench_instructions.sh --update       all, and makes what comes out the baseline
# The counts go to build/release/instructions.json. Exit status 1: something takes more than the
# baseline allows.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=build/release
baseline=bench/instructions/baseline.json
counts=$build/instructions.json
update=
if [ "${1:-}" = --update ]; then
  [ $# -eq 1 ] || { echo "bench_instructions.sh: --update takes no kernels" >&2; exit 2; }
  update=1
  shift
fi

# A build configured before valgrind was installed does not know the program.
if [ -f $build/build.ninja ] && ! grep -q '^build bench_instructions: ' $build/build.ninja; then
  cmake --preset release >build/configure-release.log
fi
scripts/build.sh release bench_instructions

dumps=$build/instructions
rm -rf $dumps $counts
mkdir -p $dumps
echo "counting (valgrind, a minute)"
# Not counted is what malloc and free do inside a kernel: it depends on everything allocated before,
# and differs from run to run.
uncounted=()
for function in malloc calloc realloc '_mid_memalign*' free; do
  uncounted+=(--toggle-collect="$function")
done
env -i "$(command -v valgrind)" --tool=callgrind --instr-atstart=no "${uncounted[@]}" \
  --collect-atstart=yes --callgrind-out-file=$dumps/out $build/bin/bench_instructions "$@" \
  >$dumps/log 2>&1 || { cat $dumps/log >&2; exit 3; }

report() {
  $build/bin/bench_instructions --dumps $dumps --output $counts --baseline $baseline "$@"
}
code=0
report "$@" || code=$?
if [ -n "$update" ]; then
  cp $counts $baseline
  echo "the baseline is now what was counted; commit it with the change that explains it"
  exit 0
fi
if [ $code -eq 1 ]; then
  echo "not what the baseline allows; if it is worth it: ./run bench-instructions --update"
fi
exit $code
