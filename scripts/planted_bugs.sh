#!/usr/bin/env bash
# Plants each bug of tests/planted in a copy of the source under build/planted, and runs the fault
# schedules there: they must fail. `--check`: only that every bug can still be planted.
# Prints "planted NAME: caught|NOT CAUGHT, what the test said"; exits 1 unless all were caught.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

if [ "${1-}" = --check ]; then
  for patch in tests/planted/*.patch; do
    patch --dry-run --force --silent -p1 <"$patch" || { echo "$patch does not apply" >&2; exit 1; }
    echo "$patch applies"
  done
  exit 0
fi

copy=$root/build/planted
mkdir -p "$copy/build"
status=0
for patch in tests/planted/*.patch; do
  name=$(basename "$patch" .patch)
  find "$copy" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
  tar -c --exclude=./build --exclude=./.git . | tar -x -C "$copy"
  patch --force --silent -d "$copy" -p1 <"$patch"
  test=gpu_worker_kv_fault_schedules_test
  "$copy/scripts/build.sh" release "$test" >"$copy/build/build.log" 2>&1 ||
    { tail -n 20 "$copy/build/build.log" >&2; exit 1; }
  if "$copy/build/release/tests/$test" \
      --gtest_filter='*SixHundred' >"$copy/build/$name.log" 2>&1; then
    echo "planted $name: NOT CAUGHT"
    status=1
  else
    # A crash would be no finding of the test.
    said=$(sed -n 's/^ *Which is: "\(seed .*\)"$/\1/p' "$copy/build/$name.log" | head -n 1)
    [ -n "$said" ] || { said="it crashed"; status=1; }
    echo "planted $name: caught, $said"
  fi
done
exit $status
