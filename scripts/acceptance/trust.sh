# The acceptance lines of a service to trust: faults, hostile input, flow control, sessions that
# branch. Sourced by scripts/acceptance.sh, which says what line, figure, ratio and the others do.
# shellcheck shell=bash

# value KEY: of what the line's command printed, one "KEY VALUE" a line; the last of a key counts.
value() { awk -v key="$1" '$1 == key { v = $2 } END { print v }' "$results/$current.output"; }

# cases TEST FILTER [ARGUMENT...]: builds a test program and runs the cases that match.
cases() {
  local test=$1 filter=$2
  shift 2
  build "$test" sounder_node sounder_worker sounderctl
  "build/release/tests/$test" --gtest_filter="$filter" "$@" |
    tee -a "$results/$current.output"
}
# said TEXT: the lines of the output that hold it.
said() { grep -F "$1" "$results/$current.output"; }
# passed N: that many cases ran, all of them well, none skipped.
passed() {
  [ "$(grep -c '^\[       OK \]' "$results/$current.output")" = "$1" ]
  ! grep -qE '^\[  (FAILED|SKIPPED) ' "$results/$current.output"
}

line faults_loopback "gpu_worker_kv_fault_schedules_test" \
  "10,000 fault schedules, virtual time: in time, same bits"
check_faults_loopback() {
  cases gpu_worker_kv_fault_schedules_test '*TenThousand' --gtest_also_run_disabled_tests
  figure "$(value attends_equal_bit_for_bit) attends same, $(value failed_and_tried_again) of" \
    "$(value requests) failed in time"
  passed 1
  at_least "$(value schedules)" 10000
  at_least "$(value failed_and_tried_again)" 10000
  at_least "$(value misuses_refused)" 1000
}

line faults_processes "e2e_fault_schedules_test" "200 over real processes: in time, same bits"
check_faults_processes() {
  cases e2e_fault_schedules_test '*TwoHundred' --gtest_also_run_disabled_tests
  figure "$(value attends_equal_bit_for_bit) attends same, $(value failed_and_tried_again) of" \
    "$(value requests) failed; $(value nodes_killed) kills, $(value nodes_stopped) stops"
  passed 1
  at_least "$(value schedules)" 200
  at_least "$(value nodes_killed)" 20
  at_least "$(value nodes_stopped)" 20
}

line planted "scripts/planted_bugs.sh" "planted bugs are caught by the fault schedules"
check_planted() {
  local code=0
  scripts/planted_bugs.sh | tee "$results/planted.output" || code=$?
  figure "$(grep -c ': caught, ' "$results/planted.output") of" \
    "$(grep -c '^planted ' "$results/planted.output") caught"
  at_least "$(grep -c ': caught, ' "$results/planted.output")" 3
  return $code
}

line tsan "run_tests.sh tsan -R fault_schedules" "the fault run on threads: no race"
check_tsan() {
  scripts/install_packages.sh
  scripts/run_tests.sh tsan -R 'gpu_worker_kv_fault_schedules' | tee "$results/tsan.output"
  figure "$(tail -n 1 "$results/tsan.output")"
  grep -qE '^1 passed, 0 failed, 0 skipped$' "$results/tsan.output"
  grep -qF '[       OK ] FaultSchedulesTest.OnThreads' build/tsan/tests.xml
}

line killed "e2e_node_dies, e2e_liveness" "SIGKILL, SIGSTOP, restart, half-open: others unharmed"
check_killed() {
  cases e2e_node_dies_test '*'
  cases e2e_liveness_test '*'
  figure "$(grep -c '^\[       OK \]' "$results/killed.output") cases," \
    "$(grep -c '^bystander_failed 0$' "$results/killed.output") bystanders without a failure"
  passed 15
  ! grep -qE '^bystander_failed [1-9]' "$results/killed.output"
  [ "$(grep -c '^bystander_failed 0$' "$results/killed.output")" = 2 ]
}

line hostile "e2e_hostile_test" "scanners, 2,000 connections, slow-loris: others unharmed"
check_hostile() {
  cases e2e_hostile_test '*'
  figure "$(grep -c '^\[       OK \]' "$results/hostile.output") cases," \
    "$(awk '$1 == "bystander_requests" { n += $2 } END { print n }' "$results/hostile.output")" \
    "requests of others, $(awk '$1 == "bystander_failed" { n += $2 } END { print n }' \
      "$results/hostile.output") failed"
  passed 4
  [ "$(grep -c '^bystander_failed 0$' "$results/hostile.output")" = 4 ]
}

line overload "node_overload" "at 3x load: goodput >= .9 of the peak, refusals at once, bounds"
check_overload() {
  build node_overload
  build/release/bin/node_overload | tee "$results/overload.output"
  figure "$(value goodput_at_3x_of_peak) of peak, refused in $(value load3_refused_p99_us) us (p99)"
  at_least "$(value goodput_at_3x_of_peak)" .9
  at_most "$(value load3_refused_p99_us)" "$(($(value deadline_us) / 4))"
  at_least "$(value load3_refused)" 1
  at_least "$(value refusals_counted_by_node)" "$(value load3_refused)"
  at_most "$(value load3_failed)" 0
  at_most "$(value most_admitted)" "$(value most_admitted_bound)"
  at_most "$(value most_message_bytes)" "$(value message_bytes_bound)"
  at_most "$(value most_memory_bytes)" "$(value memory_bytes_bound)"
}

line histories "gpu_worker_kv_branch_histories_test" \
  "500 histories of truncates and forks equal one from scratch"
check_histories() {
  cases gpu_worker_kv_branch_histories_test '*'
  figure "$(said 'random histories' | sed 's/.*: //')"
  passed 3
}

line forks "kv_node_session: BranchMemoryTest" "16 forks of 65,536 tokens: < 1 % bytes, all freed"
check_forks() {
  cases kv_node_session_test 'BranchMemoryTest.SixteenForks*'
  figure "$(said '16 forks' | sed -E 's/.*position ([0-9]+): ([0-9.]+ %).*/at \1: \2/' |
    paste -sd ' ')"
  passed 1
}

line adopt "e2e_branching, e2e_chat, engine" "a second worker goes on: the same tokens"
check_adopt() {
  cases e2e_branching_test '*AnotherWorker*'
  cases e2e_chat_test '*AnotherWorker*'
  cases gpu_worker_engine_turns_test 'AdoptTest.*'
  figure "$(grep -c '^\[       OK \]' "$results/adopt.output") cases"
  passed 9
}

line turns "gpu_worker_engine_same_tokens_test" "three turns: same tokens as one-shot prefill"
check_turns() {
  cases gpu_worker_engine_same_tokens_test '*ThreeTurns*'
  figure "$(said 'three-turn' | sed 's/three-turn conversations, //; s/ answers the.*//' |
    paste -sd ' ')"
  passed 2
}

line prefill "engine: PrefillBlocksTest" "512 over 65,536: each row read once per block"
check_prefill() {
  cases gpu_worker_engine_test '*RowsAreReadOncePerBlock'
  figure "$(said '512 new tokens' | sed -E 's/.*blocks of ([0-9]+): ([0-9]+) .*= /\1: \2 of /' |
    paste -sd ' ')"
  passed 1
}

line fuzz "./run fuzz" "every parser 1,000,000 runs, a node 250,000: no findings"
check_fuzz() {
  local code=0
  ./run fuzz --runs 1000000 | tee "$results/fuzz.output" || code=$?
  # Of the table: targets, runs of all, and lines that found something or ran too little.
  local targets runs wrong
  read -r targets runs wrong < <(awk '
    !table { table = $1 == "target" && $2 == "runs"; next }
    $1 == "canary" { canary = /as planted$/; next }
    { ++targets; runs += $2; wrong += $2 < ($1 == "node" ? 250000 : 1000000) || $5 != "0" }
    END { print targets + 0, runs + 0, wrong + !canary }' "$results/fuzz.output")
  figure "$targets targets, $runs runs, $wrong wrong"
  [ "$targets" = "$(find tests/fuzz -name '*_fuzz.cc' ! -name 'canary_*' | wc -l)" ]
  [ "$wrong" = 0 ]
  return $code
}

line client_example "scripts/client_example.sh" "client example on bare Debian: right, <= 80 lines"
check_client_example() {
  scripts/client_example.sh | tee "$results/client_example.output"
  figure "$(value example_lines) lines, $(value packages_added) packages added," \
    "built in $(value build_seconds) s, $(value library_bytes) bytes"
  at_most "$(value example_lines)" 80
  at_least "$(value library_bytes)" 1
  [ "$(value client_example)" = ok ]
}

line leaks "gpu_worker_kv_leaks_test, e2e_leaks_test" \
  "20 x 1,000 cycles leave nothing: ASan, release, a node"
check_leaks() {
  local full='*DISABLED_TwentyBlocks*' run
  lives() { # NAME PROGRAM: its figures, in a file of that name
    "$2" --gtest_also_run_disabled_tests --gtest_filter="$full" | tee "$results/leaks.$1"
  }
  of() { awk -v key="$2" '$1 == key { print $2 }' "$results/leaks.$1"; }
  build gpu_worker_kv_leaks_test e2e_leaks_test sounder_node
  scripts/build.sh asan-ubsan gpu_worker_kv_leaks_test
  lives asan build/asan-ubsan/tests/gpu_worker_kv_leaks_test
  lives release build/release/tests/gpu_worker_kv_leaks_test
  lives process build/release/tests/e2e_leaks_test
  figure "B more: $(of asan most_allocated_bytes_more) allocated," \
    "$(of release most_resident_bytes_more), $(of process most_resident_bytes_more) resident"
  for run in asan release process; do
    at_least "$(of $run blocks)" 20
    at_least "$(of $run cycles_per_block)" 1000
    at_most "$(of $run most_accounted_bytes_left)" 0
  done
  at_most "$(of asan most_allocated_bytes_more)" $((1 << 20))
  for run in release process; do
    at_most "$(of $run most_resident_bytes_more)" "$(of $run resident_bytes_tolerance)"
  done
}

line errors "errors_test" "every error is reached as a user does, and stands in docs/errors.md"
check_errors() {
  build errors_page
  tests '^errors_test$'
  build/release/tests/errors_page | cmp - docs/errors.md
  figure "$(grep -o '`<br>`\|^| `' docs/errors.md | wc -l) messages in docs/errors.md"
}
