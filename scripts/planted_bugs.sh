#!/usr/bin/env bash
# Plants each bug of tests/planted in a copy of the source under build/planted, and runs the fault
# schedules there: they must fail, and pass without. `--check`: only that every bug can still be
# planted. Prints "planted NAME: caught|NOT CAUGHT, what the test said"; exits 1 unless all were.
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
test=gpu_worker_kv_fault_schedules_test
mkdir -p "$copy/build"
# fresh: the source as it is, with the time of now, so that what was planted before is built anew.
fresh() {
  find "$copy" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
  tar -c --exclude=./build --exclude=./.git . | tar -x -m -C "$copy"
}
# schedules NAME: builds and runs them; exits as they do.
schedules() {
  "$copy/scripts/build.sh" release "$test" >"$copy/build/build.log" 2>&1 ||
    { tail -n 20 "$copy/build/build.log" >&2; exit 1; }
  "$copy/build/release/tests/$test" --gtest_filter='*SixHundred' >"$copy/build/$1.log" 2>&1
}

fresh
schedules nothing || { echo "the schedules fail without a planted bug" >&2; exit 1; }
status=0
for patch in tests/planted/*.patch; do
  name=$(basename "$patch" .patch)
  fresh
  patch --force --silent -d "$copy" -p1 <"$patch"
  if schedules "$name"; then
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
