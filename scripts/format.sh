#!/usr/bin/env bash
# Formats all C++ and CUDA sources in place (.clang-format). --check changes nothing and fails on
# the first file that is not formatted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mode=(-i)
[ "${1:-}" != --check ] || mode=(--dry-run --Werror)
formatter=$(command -v clang-format-14 || command -v clang-format) ||
  { echo "format.sh: clang-format is not installed" >&2; exit 1; }
find . \( -path ./build -o -path ./.git \) -prune -o -type f \
  \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 -r -P "$(nproc)" -n 16 "$formatter" "${mode[@]}"
