# The acceptance lines of the SSD tier: sessions larger than memory, durable ones, and what the disk
# may do to them. Sourced by scripts/acceptance.sh, which says what line, figure and the others do.
# shellcheck shell=bash

# value KEY: of what the line's command printed, one "KEY VALUE" a line; the last of a key counts.
value() { awk -v key="$1" '$1 == key { v = $2 } END { print v }' "$results/$current.output"; }
# cases TEST FILTER: builds a test program and runs the cases that match, long ones included.
cases() {
  build "$1" sounder_node
  "build/release/tests/$1" --gtest_filter="$2" --gtest_also_run_disabled_tests |
    tee -a "$results/$current.output"
}
# passed N: that many cases ran, all of them well, none skipped.
passed() {
  [ "$(grep -c '^\[       OK \]' "$results/$current.output")" = "$1" ]
  ! grep -qE '^\[  (FAILED|SKIPPED) ' "$results/$current.output"
}

line bigger "e2e_tiers: AMillionTokens" "1,048,576 tokens in 25 % of their bytes: bits, reads, RSS"
check_bigger() {
  cases e2e_tiers_test '*AMillionTokens*'
  figure "$(value read_of_sampled)x sampled, $(value read_of_all_rows) of all; ms" \
    "$(value hot_ms)/$(value warm_ms)/$(value cold_start_ms)/$(value read_everything_ms);" \
    "RSS $(value decode_peak_resident_of_memory), all read $(value peak_resident_of_memory)"
  passed 1
  at_most "$(value different_answers)" 0
  at_most "$(value read_of_sampled)" 4
  at_most "$(value read_of_all_rows)" .1
  at_least "$(value everything_of_warm)" 5
  at_most "$(value decode_peak_resident_of_memory)" 1.1
}

line crash_kill "e2e_durable_sessions: HundredKills" \
  "100 x kill -9 under load: what was durable is there"
check_crash_kill() {
  cases e2e_durable_sessions_test '*HundredKills'
  figure "$(value restored_sessions) sessions, $(value restored_rows) rows back," \
    "$(value acknowledged) acknowledged, exact to $(value exact_distance)"
  passed 1
  at_least "$(value rounds)" 100
  at_least "$(value restored_sessions)" 100
  at_least "$(value acknowledged)" 100
  at_most "$(value exact_distance)" 1e-6
}

line crash_power "kv_node_session_restart_test" \
  "losses of power and unsynced data: a session as it was"
check_crash_power() {
  cases kv_node_session_restart_test '*'
  figure "$(value losses_of_power) losses, $(grep -c '^\[       OK \]' \
    "$results/$current.output") cases"
  passed 16
  at_least "$(value losses_of_power)" 100
}

line disk_full "e2e_tiers: DiskFull" "a full disk: refused, hot sessions go on, then space again"
check_disk_full() {
  cases e2e_tiers_test '*DiskFull*'
  figure "refused $(value refused_appends), attends meanwhile $(value attends_while_full)"
  passed 1
  at_least "$(value refused_appends)" 1
}

line thousand "e2e_durable_sessions: AThousand" \
  "1,000 sessions x 10 segments attend in 10 s of a start"
check_thousand() {
  cases e2e_durable_sessions_test '*AThousand*'
  figure "ready $(value ready_seconds) s, all attending $(value all_attending_seconds) s"
  passed 1
  at_least "$(value segments)" 10000
  at_most "$(value all_attending_seconds)" 10
}

line soak "e2e_overcommit: TenMinutes" "10 minutes of 4x over-commit: RSS, stalls of a hot session"
check_soak() {
  cases e2e_overcommit_test '*TenMinutes*'
  figure "RSS $(value peak_resident_of_memory); slow: $(value slow_attends_during_writes) during" \
    "writes ($(value slow_share_during_writes); else $(value slow_share_otherwise))"
  passed 1
  at_least "$(value soak_seconds)" 600
  at_most "$(value peak_resident_of_memory)" 1.1
  # Attends of the hot session slower than ten times their median: during writes not more often than
  # otherwise, but for half as many again and one in a hundred.
  at_least "$(value slow_share_otherwise)" 0
  at_most "$(value slow_share_during_writes)" \
    "$(awk -v share="$(value slow_share_otherwise)" 'BEGIN { print 1.5 * share + .01 }')"
}

line soak_sanitized "e2e_overcommit: TenMinutes, in both sanitizer builds" \
  "the same under ASan and UBSan, and under TSan: clean"
check_soak_sanitized() {
  local preset
  : >"$results/$current.output"
  for preset in asan-ubsan tsan; do
    scripts/build.sh "$preset" e2e_overcommit_test sounder_node
    UCX_MEM_MMAP_HOOK_MODE=none \
      TSAN_OPTIONS="suppressions=tests/sanitizers/tsan.supp:second_deadlock_stack=1" \
      "build/$preset/tests/e2e_overcommit_test" --gtest_filter='*TenMinutes*' \
      --gtest_also_run_disabled_tests | tee -a "$results/$current.output"
  done
  figure "$(awk '$1 == "hot_attends" || $1 == "cold_attends" || $1 == "sessions_written" {
    printf "%s%s %s", separator, $1, $2; separator = ", " }' "$results/$current.output")"
  passed 2
}

line disk_overload "node_overload 3 6 stored" \
  "at 3x what the disk reads: goodput >= .9 of the peak, refusals at once"
check_disk_overload() {
  build node_overload
  build/release/bin/node_overload 3 6 stored | tee "$results/$current.output"
  figure "$(value goodput_at_3x_of_peak) of peak, refused in $(value load3_refused_p99_us) us" \
    "(p99), late $(value load3_late) of $(value load3_asked)"
  at_least "$(value goodput_at_3x_of_peak)" .9
  at_most "$(value load3_refused_p99_us)" "$(($(value deadline_us) / 4))"
  at_least "$(value load3_refused)" 1
  at_least "$(value refusals_counted_by_node)" "$(value load3_refused)"
  at_most "$(value load3_failed)" 0
}

line fuzz "./run fuzz segment records" \
  "readers of segments and records, 1,000,000 runs: no findings"
check_fuzz() {
  local code=0
  ./run fuzz --runs 1000000 segment records | tee "$results/$current.output" || code=$?
  figure "$(value segment) and $(value records) runs"
  at_least "$(value segment)" 1000000
  at_least "$(value records)" 1000000
  return $code
}

line results "store_bench" "write amplification and space after delete, beside a plain file"
check_results() {
  build store_bench
  build/release/bin/store_bench --folder build | tee "$results/$current.output"
  figure "written / payload: log $(value log_uring_write_amplification), tables" \
    "$(value sst_xxh3_write_amplification); disk / live after deleting half: log" \
    "$(value log_uring_space_after_delete_over_live)"
  at_most "$(value log_uring_write_amplification)" 1.05
  at_most "$(value log_uring_space_after_delete_over_live)" 1.05
  grep -qF '## What rows are kept in on disk' bench/RESULTS.md
}

line demo "scripts/demo.sh" "a session 4x larger than memory, from SSD: the same tokens"
check_demo() {
  build sounder_node sounder_worker two_tasks_prompts demo_report demo_scale
  scripts/demo.sh --prompts 4 --positions 8192 --output "$results/demo" |
    tee "$results/$current.output"
  figure "$(grep -F 'same tokens' "$results/$current.output")"
  grep -qE '^tokens from SSD: the same' "$results/$current.output"
}
