#!/usr/bin/env bash
# Builds a preset and runs all its tests; lists what was skipped and why, and tests over 20 s.
#   scripts/run_tests.sh PRESET [CTEST ARGUMENT...]      e.g. scripts/run_tests.sh tsan -R http
# The last line is "N passed, N failed, N skipped", by CTest's count; build/PRESET/test_counts
# holds the three numbers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -ge 1 ] || { sed -n 3,5p "$0" >&2; exit 2; }
preset=$1
shift
build=build/$preset
report=$build/tests.xml

scripts/build.sh "$preset"
rm -f "$report" "$build/test_counts"
status=0
ctest --test-dir "$build" --output-on-failure -j "$(nproc)" --test-output-size-passed 4000000 \
  --output-junit "$PWD/$report" "$@" || status=$?
[ -s "$report" ] || { echo "run_tests.sh: ctest left no report" >&2; exit 1; }

# Reads CTest's report: "count passed|failed|skipped" for each test, and "skip WHAT: WHY" for each
# test CTest skipped and each case inside a test program that skipped itself (GTEST_SKIP prints
# "file:line: Skipped", the reason below it, then "[  SKIPPED ] Suite.Case (0 ms)"). A test that
# did not run for any other reason than its own wish counts as failed. "slow TEST (N s)": took long.
digest=$(awk '
  function plain(text) {
    gsub(/&lt;/, "<", text); gsub(/&gt;/, ">", text); gsub(/&quot;/, "\"", text)
    gsub(/&apos;/, "\047", text); gsub(/&amp;/, "\\&", text)
    return text
  }
  /<testcase / {
    match($0, /name="[^"]*"/); test = substr($0, RSTART + 6, RLENGTH - 7)
    match($0, / time="[^"]*"/); seconds = substr($0, RSTART + 7, RLENGTH - 8) + 0
    if (seconds > 20) printf "slow %s (%.0f s)\n", test, seconds
    match($0, /status="[^"]*"/); state = substr($0, RSTART + 8, RLENGTH - 9)
    reason = ""; reason_next = 0; own_wish = 0
    if (state == "run") print "count passed"
    if (state == "fail") print "count failed"
    if (state == "disabled") { print "count skipped"; print "skip " test ": disabled" }
  }
  /<skipped message="SKIP_/ { own_wish = 1 }
  reason_next { reason = reason (reason == "" ? "" : " ") $0; reason_next = 0 }
  /: Skipped$/ { reason = ""; reason_next = 1 }
  state == "notrun" && /^(\t*<system-out>)?Skipped: / {
    reason = $0; sub(/^.*Skipped: /, "", reason); sub(/<\/system-out>.*/, "", reason)
  }
  /^\[  SKIPPED \] .*\([0-9]+ ms\)/ {
    print "skip " test ": " $4 ": " (reason == "" ? "no reason given" : plain(reason)); reason = ""
  }
  /<\/testcase>/ && state == "notrun" {
    print own_wish ? "count skipped" : "count failed"
    if (own_wish) print "skip " test ": " (reason == "" ? "no reason given" : plain(reason))
    else print "skip " test ": COULD NOT RUN (counted as failed)"
  }
' "$report")
if grep -q '^skip ' <<<"$digest"; then
  echo "skipped:"
  sed -n 's/^skip /  /p' <<<"$digest"
else
  echo "skipped: nothing"
fi

slow=$(sed -n 's/^slow //p' <<<"$digest" | paste -sd, | sed 's/,/, /g')
echo "slow: ${slow:-nothing over 20 s}"

count() { grep -cxF "count $1" <<<"$digest" || true; }
passed=$(count passed) failed=$(count failed) skipped=$(count skipped)
echo "$passed $failed $skipped" >"$build/test_counts"
if [ $((passed + failed + skipped)) -eq 0 ] && [ $# -eq 0 ]; then
  echo "run_tests.sh: $build has no tests" >&2
  exit 1
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit $status
