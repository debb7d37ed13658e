#!/usr/bin/env bash
# All C++ sources are formatted (./run format does it). Skipped without clang-format 14: other
# versions format differently.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
formatter=$(command -v clang-format-14 || command -v clang-format || true)
version=$([ -z "$formatter" ] || "$formatter" --version)
if ! grep -q 'version 14\.' <<<"$version"; then
  echo "Skipped: needs clang-format 14, found ${version:-none}"
  exit 77
fi
exec scripts/format.sh --check
