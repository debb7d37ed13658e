#!/usr/bin/env bash
# Checks the acceptance lines of a part of the project and prints one table.
#   scripts/acceptance.sh [PART] [--again] [--list] [LINE...]
# PART: a file of scripts/acceptance (default: main). Lines named are run alone. Results are kept
# under build/acceptance/COMMIT/PART: a line that passed at this commit is not run again unless
# --again is given or the working tree has changes. Exits 0 only if every line of the part passes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

part=main again=0 list=0
wanted=()
if [ $# -gt 0 ] && [ -f "scripts/acceptance/$1.sh" ]; then
  part=$1
  shift
fi
for argument in "$@"; do
  case $argument in
    --again) again=1 ;;
    --list) list=1 ;;
    -*) sed -n 3p "$0" >&2; exit 2 ;;
    *) wanted+=("$argument") ;;
  esac
done

# What a part's file uses.
#
# line ID COMMAND TEXT: declares a line. The part's file defines the function check_ID, which runs
# COMMAND (or reads what an earlier line left behind), says the measured figure through `figure`,
# and returns 0 if the line holds. Its output is kept in a log.
ids=() commands=() texts=()
line() { ids+=("$1") commands+=("$2") texts+=("$3"); }
figure() { echo "$*" >"$results/$current.figure"; }
# at_most VALUE BOUND, at_least VALUE BOUND: comparisons of decimal numbers; an empty VALUE fails.
at_most() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && a + 0 <= b + 0) }'; }
at_least() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && a + 0 >= b + 0) }'; }
# ratio A B: A / B to three places; nothing where either is missing.
ratio() {
  awk -v a="$1" -v b="$2" 'BEGIN { if (a != "" && b != "" && b + 0 != 0) printf "%.3f", a / b }'
}
# json_number FILE KEY: the number at a key of a flat JSON file; nothing where it has none.
json_number() {
  tr '{},' '\n\n\n' <"$1" |
    sed -nE "s/^[[:space:]]*\"$2\"[[:space:]]*:[[:space:]]*(-?[0-9][0-9.eE+-]*)[[:space:]]*$/\1/p" |
    head -n 1
}

# shellcheck source=scripts/acceptance_checks.sh
source scripts/acceptance_checks.sh
# shellcheck source=scripts/acceptance/main.sh
source "scripts/acceptance/$part.sh"

commit=$(git rev-parse --short=12 HEAD)
clean=1
[ -z "$(git status --porcelain)" ] || clean=0
results=$PWD/build/acceptance/$commit$([ $clean = 1 ] || echo -changed)/$part
mkdir -p "$results"

if [ $list = 1 ]; then
  for i in "${!ids[@]}"; do printf '%-24s %s\n' "${ids[$i]}" "${texts[$i]}"; done
  exit 0
fi
for id in "${wanted[@]}"; do
  printf '%s\n' "${ids[@]}" | grep -qxF -- "$id" ||
    { echo "acceptance.sh: $part has no line '$id' (--list shows them)" >&2; exit 2; }
done

chosen() { [ ${#wanted[@]} -eq 0 ] || printf '%s\n' "${wanted[@]}" | grep -qxF -- "$1"; }
verdict_of() { cat "$results/$1.result" 2>/dev/null || echo "not run"; }

for i in "${!ids[@]}"; do
  current=${ids[$i]}
  chosen "$current" || continue
  if [ $again = 0 ] && [ $clean = 1 ] && [ "$(verdict_of "$current")" = pass ]; then continue; fi
  rm -f "$results/$current".*
  echo "-- $current: ${texts[$i]}" >&2
  begin=$SECONDS verdict=pass
  # In a shell of its own, so that a check may change directories and stop at its first error
  # (bash ignores -e in the operands of ||, so the status is taken in a step of its own).
  set +e
  (set -euo pipefail; "check_$current") >"$results/$current.log" 2>&1
  code=$?
  set -e
  [ $code -eq 0 ] || verdict=FAIL
  echo "$verdict" >"$results/$current.result"
  echo "-- $current: $verdict in $((SECONDS - begin)) s" >&2
  [ $verdict = pass ] || tail -n 15 "$results/$current.log" >&2
done

echo
echo "acceptance of part $part at $commit$([ $clean = 1 ] || echo ' with changes')"
status=0
printf '%-62s | %-36s | %-49s | %s\n' line command figure verdict
for i in "${!ids[@]}"; do
  id=${ids[$i]}
  verdict=$(verdict_of "$id")
  [ "$verdict" = pass ] || status=1
  printf '%-62s | %-36s | %-49s | %s\n' "${texts[$i]}" "${commands[$i]}" \
    "$(cat "$results/$id.figure" 2>/dev/null || echo -)" "$verdict"
done
echo "logs: ${results#"$PWD"/}"
exit $status
