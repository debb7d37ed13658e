# The acceptance lines of the main job: decode over KV nodes with sampled attention.
# Sourced by scripts/acceptance.sh, which says what line, figure, ratio and the others do.
# shellcheck shell=bash

line test "./run test" "all tests pass"
check_test() {
  local code=0
  ./run test | tee "$results/test.output" || code=$?
  figure "$(tail -n 1 "$results/test.output")"
  return $code
}

line demo "./run demo" "the demo, once built, ends in demo: ok within 480 s"
check_demo() {
  local code=0 begin seconds
  build  # not part of the time
  begin=$SECONDS
  ./run demo | tee "$results/demo.output" || code=$?
  seconds=$((SECONDS - begin))
  figure "$seconds s (<= 480)"
  [ $code -eq 0 ]
  grep -qx 'demo: ok' "$results/demo.output"
  at_most $seconds 480
}

line demo_interrupted "ctest -R e2e_demo" "Ctrl-C in (a) and in (b) leaves no process behind"
check_demo_interrupted() {
  e2e demo '^\[       OK \] .*Interrupted'
  figure "$(grep -c . "$results/demo.lines") moments"
}

line bare_demo "scripts/on_bare_debian.sh ./run demo" "the demo on a bare Debian 12"
check_bare_demo() {
  local code=0 begin=$SECONDS
  scripts/on_bare_debian.sh ./run demo | tee "$results/bare_demo.output" || code=$?
  figure "$((SECONDS - begin)) s, packages and build included"
  [ $code -eq 0 ] && grep -qx 'demo: ok' "$results/bare_demo.output"
}

line bare_test "scripts/on_bare_debian.sh ./run test" "the tests on a bare Debian 12"
check_bare_test() {
  local code=0
  scripts/on_bare_debian.sh ./run test | tee "$results/bare_test.output" || code=$?
  figure "$(tail -n 1 "$results/bare_test.output")"
  return $code
}

# How long until the first node serves: nothing is installed or built any more.
line demo_again "./run demo" "the demo's second run starts within 10 s"
check_demo_again() {
  local code=0 begin started
  begin=$(date +%s.%N)
  ./run demo | while IFS= read -r text; do echo "$(date +%s.%N) $text"; done |
    tee "$results/$current.output" || code=$?
  started=$(awk -v begin="$begin" '/ ready control=/ { printf "%.1f", $1 - begin; exit }' \
    "$results/$current.output")
  figure "${started:-never} s (<= 10)"
  [ $code -eq 0 ]
  at_most "$started" 10
}

line bench "./run bench" "the benchmarks run, in full and at the size that counts"

line bench_exact "./run bench" "exact attention / sequential read of K and V"
check_bench_exact() { bench_ratio exact_us 2.6; }

line bench_lsh "./run bench" "lsh (10,150) / sequential read, at 3.2 +- .3 % of the rows"
check_bench_lsh() {
  local rows
  rows=$(bench_number lsh_10_150_rows_fraction)
  bench_ratio lsh_10_150_us 0.6 ", rows $(ratio "$rows" 1)"
  at_least "$rows" 0.029
  at_most "$rows" 0.035
}

line bench_ingest "./run bench" "indexing one token for lsh (10,150)"
check_bench_ingest() {
  local value
  value=$(ratio "$(bench_number ingest_lsh_us_per_token)" 1)
  figure "${value:-no figure} us (<= 2.5)"
  bench_counts
  at_most "$value" 2.5
}

# right FILE ANSWERS: how many of the prompts of FILE were answered as expected.
right() {
  local expected id
  local -i count=0
  while IFS= read -r text; do
    id=$(sed -nE 's/.*"id":"([^"]*)".*/\1/p' <<<"$text")
    expected=$(sed -nE 's/.*"expected":"([^"]*)".*/\1/p' <<<"$text")
    if grep -F "\"id\":\"$id\"" "$2" | grep -qF "\"text\":\"$expected\""; then count+=1; fi
  done <"$1"
  echo "$count"
}

# accuracy TASK BOUND: full attention on 512 held-out prompts.
accuracy() {
  local prompts=$results/$1.jsonl answers=$results/$1.answers.jsonl count share
  build two_tasks_prompts sounder_worker
  build/release/bin/two_tasks_prompts --task "$1" --count 512 --length 2048 --tail 96 --seed 2001 \
    --model tests/models/two_tasks >"$prompts"
  build/release/bin/sounder_worker generate --model tests/models/two_tasks \
    --attention exact-local --dtype f32 --prompts "$prompts" --output "$answers"
  count=$(right "$prompts" "$answers")
  share=$(ratio "$count" 512)
  figure "$count/512 = $share (>= $2)"
  at_least "$share" "$2"
}

line model_recall "sounder_worker generate" "test model, recall, n = 2,048, full attention"
check_model_recall() { accuracy recall 0.95; }

line model_words "sounder_worker generate" "test model, most frequent word, n = 2,048"
check_model_words() { accuracy words 0.90; }

line golden "ctest -R gpu_worker_model" "logits agree with transformers' to 1e-4"
check_golden() { tests gpu_worker_model; }

line exact_in_process "ctest -R gpu_worker_engine" "exact is exact, in one process"
check_exact_in_process() { tests gpu_worker_engine; }

line coverage "ctest -R coverage" "every position is counted exactly once"
check_coverage() { tests coverage; }

line determinism_in_process "ctest -R determinism" "same sample and tokens, everywhere"
check_determinism_in_process() { tests determinism; }

line magicpig "ctest -R kv_node_sampler" "lsh is MagicPIG: unbiased, mutants caught, finite"
check_magicpig() { tests kv_node_sampler; }

line eval "ctest -R cli_eval" "sounderctl eval against an independent reference"
check_eval() { tests cli_eval; }

# sanitizer PRESET: builds and runs the tests labelled for it.
sanitizer() {
  local code=0
  scripts/run_tests.sh "$1" | tee "$results/$current.output" || code=$?
  figure "$(tail -n 1 "$results/$current.output")"
  return $code
}

line asan "scripts/run_tests.sh asan-ubsan" "ASan and UBSan are clean"
check_asan() { sanitizer asan-ubsan; }

line tsan "scripts/run_tests.sh tsan" "TSan is clean over the concurrent tests"
check_tsan() { sanitizer tsan; }

# e2e PROGRAM PATTERN: runs a test program of tests/e2e; its lines with PATTERN are what it
# measured.
e2e() {
  local code=0
  build "e2e_$1_test"
  ctest --test-dir build/release --no-tests=error -R "^e2e_$1_test\$" -V |
    tee "$results/e2e_$1.output" || code=$?
  sed 's/^[0-9]*: //' "$results/e2e_$1.output" | grep -E "$2" >"$results/$1.lines" || code=1
  return $code
}

line exact_is_exact "ctest -R e2e_exact_is_exact" \
  "exact attention on 1, 2, 3 nodes equals local attention"
check_exact_is_exact() {
  e2e exact_is_exact '^exact: '
  # "exact: tcp f32 MODEL, LAYOUT: 7.9e-07 of max|logit| (<= 1e-04)"
  worst() { grep " $1 " "$results/exact_is_exact.lines" | sed -E 's/.*: ([0-9.e+-]+) of .*/\1/' |
    sort -g | tail -n 1; }
  figure "f32 $(worst f32), bf16 $(worst bf16)"
  at_most "$(worst f32)" 1e-4
  at_most "$(worst bf16)" 2e-3
  grep -q ': tcp ' "$results/exact_is_exact.lines"
  grep -q ': shm ' "$results/exact_is_exact.lines"
}

line determinism "ctest -R e2e_determinism" \
  "same tokens and samples: runs, threads, nodes, SIMD levels"
check_determinism() {
  local lines=$results/determinism.both compared same ties differ
  e2e determinism '^determinism: '
  e2e determinism_simd '^determinism: '
  cat "$results/determinism.lines" "$results/determinism_simd.lines" >"$lines"
  # "WHAT: the same", "WHAT: the same rows, ..." or, in capitals, DIFFERENT and OTHER rows;
  # "3 of 96 steps have their two best logits within 1e-04"; "LEVELS: 1 of 24 answers differ; ...".
  compared=$(grep -cE ': (the same|DIFFERENT|OTHER)' "$lines")
  same=$(grep -cE ': the same' "$lines")
  ties=$(sed -nE 's/^determinism: ([0-9]+) of [0-9]+ steps.*/\1/p' "$lines")
  differ=$(sed -nE 's/.*: ([0-9]+) of [0-9]+ answers differ.*/\1/p' "$lines" |
    awk '{ sum += $1 } END { print sum }')
  figure "$same of $compared the same; $differ answers differ, $ties near ties"
  [ "$compared" -gt 0 ]
  [ "$same" -eq "$compared" ]
  [ "$differ" -eq 0 ] || [ "$ties" -gt 0 ]  # that they differ at near ties only is the test's word
}

line node_dies "ctest -R e2e_node_dies" "a node dies in mid-decode: error in time, others go on"
check_node_dies() {
  local worst
  e2e node_dies '^node dies: '
  worst=$(sed -E 's/.* after ([0-9.]+) s: .*/\1/' "$results/node_dies.lines" | sort -g | tail -n 1)
  figure "at most $worst s (<= 2; deadline 1.5)"
  at_most "$worst" 2
}

line errors "ctest -R 'e2e_(programs|requests)'" \
  "wrong flags, ports, models, requests: clear errors"
check_errors() {
  e2e programs '^\[  PASSED  \]'
  e2e requests '^\[  PASSED  \]'
  figure "$(cat "$results/programs.lines" "$results/requests.lines" |
    awk '{ tests += $4 } END { print tests }') tests"
}

# ci BOUND: .ci/run in a fresh clone, within so many minutes. Both lines use one compiler cache,
# which is theirs alone.
ci() {
  local clone=$results/ci code=0 begin minutes
  rm -rf "$clone"
  git clone -q --no-local . "$clone"
  begin=$SECONDS
  (cd "$clone" && CCACHE_DIR=$results/ccache bash .ci/run) | tee "$results/$current.output" ||
    code=$?
  minutes=$(awk -v s=$((SECONDS - begin)) 'BEGIN { printf "%.1f", s / 60 }')
  figure "$minutes min (<= $1): $(tail -n 1 "$results/$current.output")"
  rm -rf "$clone"
  [ $code -eq 0 ]
  at_most "$minutes" "$1"
}

line ci_cold "bash .ci/run" "what a change must pass, with an empty compiler cache"
check_ci_cold() {
  rm -rf "$results/ccache"
  ci 60
}

line ci_warm "bash .ci/run" "the same once more, with the cache that ci_cold filled"
check_ci_warm() {
  [ -d "$results/ccache" ] || { figure "ci_cold comes first"; return 1; }
  ci 25
}
