#!/usr/bin/env bash
# Writes docs/errors.md anew from the table of tests/errors.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -eq 0 ] || { sed -n 2p "$0" >&2; exit 2; }

scripts/build.sh release errors_page >&2
page=$(mktemp)
trap 'rm -f "$page"' EXIT
build/release/tests/errors_page >"$page"
cp "$page" docs/errors.md
