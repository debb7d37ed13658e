#!/usr/bin/env bash
# Configures one preset and builds the targets named (default: everything) with all cores.
#   scripts/build.sh PRESET [TARGET...] [--optional TARGET...]
# Targets after --optional are built where they exist.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -ge 1 ] || { sed -n 2,4p "$0" >&2; exit 2; }
preset=$1
shift
build=build/$preset

# Configured once; ninja itself configures again when a CMake file changed.
log=build/configure-$preset.log
if [ ! -f "$build/build.ninja" ]; then
  echo "configuring $build"
  mkdir -p build
  if ! cmake --preset "$preset" >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
  fi
fi

targets=()
optional=0
known=
for argument in "$@"; do
  if [ "$argument" = --optional ]; then
    optional=1
    known=$(ninja -C "$build" -t targets all 2>/dev/null | sed -n 's/: phony$//p')
  elif [ "$optional" = 0 ] || grep -qxF "$argument" <<<"$known"; then
    targets+=("$argument")
  fi
done
echo "building $build: ${targets[*]:-everything}"
NINJA_STATUS='[%f/%t %es] ' ninja -C "$build" -j "$(nproc)" "${targets[@]}"
