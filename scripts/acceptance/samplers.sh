# The acceptance lines of samplers and kernels: the smallest error for the fewest nanoseconds.
# Sourced by scripts/acceptance.sh, which says what line, figure, ratio and the others do.
# shellcheck shell=bash

line statistics "ctest -R bench_generator" "the generator's families are what they say"
check_statistics() { tests bench_generator; }

line bench "./run bench" "the benchmarks run, in full and at the size that counts"

# bench_within KEY LEAST MOST: a figure of the bench line within bounds.
bench_within() {
  local value
  value=$(bench_number "$1")
  figure "$(ratio "$value" 1) ($2 .. $3)"
  bench_counts
  at_least "$value" "$2"
  at_most "$value" "$3"
}

line lsh_peaked "./run bench" "comparable data: error of lsh (10,150), peaked"
check_lsh_peaked() { bench_within lsh_10_150_error_peaked 0.27 0.33; }
line lsh_flat "./run bench" "comparable data: error of lsh (10,150), flat"
check_lsh_flat() { bench_within lsh_10_150_error_flat 0.11 0.16; }

line exact "./run bench" "exact attention / sequential read"
check_exact() {
  local own
  own=$(ratio "$(bench_number exact_over_segment_read)" 1)
  bench_ratio exact_us 1.35 "; over its own pages' read $own"
}

line sketch_time "./run bench" "sketch (128 bits, 1 % of rows, int8) / sequential read"
check_sketch_time() {
  local own
  own=$(ratio "$(bench_number sketch_128_1pct_int8_us)" "$(bench_number segment_read_us)")
  bench_ratio sketch_128_1pct_int8_us 0.1538 "; stretch 0.111; over its own pages' read $own"
}

line sketch_peaked "./run bench" "sketch (128 bits, 1 %, int8): error, peaked"
check_sketch_peaked() { bench_within sketch_128_1pct_int8_error_peaked 0 0.09; }
line sketch_flat "./run bench" "sketch (128 bits, 1 %, int8): error, flat"
check_sketch_flat() { bench_within sketch_128_1pct_int8_error_flat 0 0.13; }

line million "./run bench" "n = 1,048,576: sketch / sequential read, at an error of at most .1"
check_million() {
  local value error
  value=$(ratio "$(bench_number sketch_128_int8_n1m_us)" "$(bench_number seq_read_n1m_us)")
  error=$(bench_number sketch_128_int8_n1m_error)
  figure "${value:-no figure} (<= 0.125), error $(ratio "$error" 1) (<= 0.1)"
  bench_counts
  at_most "$value" 0.125
  at_most "$error" 0.1
}

# frontier FAMILY: at one error, the time of sketches over that of the best LSH of 10 bits.
frontier() {
  local value
  value=$(bench_number "frontier_$1_sketch_over_lsh")
  figure "$(ratio "$value" 1) (<= 0.5), at an error of $(bench_number "frontier_$1_at_error")"
  bench_counts
  at_most "$value" 0.5
}
line frontier_peaked "./run bench" "time at equal error, sketch / best lsh, peaked"
check_frontier_peaked() { frontier peaked; }
line frontier_mid "./run bench" "time at equal error, sketch / best lsh, mid"
check_frontier_mid() { frontier mid; }
line frontier_sharp "./run bench" "time at equal error, sketch / best lsh, sharp"
check_frontier_sharp() { frontier sharp; }

line index_bytes "./run bench" "index of sketches of 128 bits, bytes per token and kv head"
check_index_bytes() { bench_within sketch_128_1pct_int8_index_bytes_per_token 0 18; }
line ingest "./run bench" "indexing a token, sketch and int8 copy, us per kv head"
check_ingest() { bench_within ingest_sketch_128_int8_us_per_token 0 0.25; }

line tuning "./run bench" "start-up tuning: step without / with it; time it takes"
check_tuning() {
  local name text=
  for name in exact lsh_10_150 sketch_128_1pct_int8; do
    text+="$name $(ratio "$(bench_number "tuning_off_over_on_$name")" 1), "
  done
  figure "$text$(ratio "$(bench_number tuning_s)" 1) s (<= 1)"
  bench_counts
  at_most "$(bench_number tuning_s)" 1
}
line tuning_same "ctest -R sampler_schedule" "the same rows and bits under any schedule"
check_tuning_same() { tests 'kv_node_sampler_schedule|kv_node_tuning'; }

line threads "./run bench" "two threads on one session / two processes"
check_threads() { bench_within two_thread_over_two_process 0.9 9; }
line balance "./run bench" "work of the busier thread / mean"
check_balance() { bench_within thread_balance 1 1.05; }

line calibration "ctest -R kv_node_sampler" "unbiased over segments, nodes, hints; mutants caught"
check_calibration() { tests 'kv_node_sampler|kv_node_server'; }

line instructions "./run bench-instructions" "instructions per row within 3 % of the baseline"
check_instructions() {
  ./run bench-instructions | tee "$results/instructions.output"
  figure "$(grep -cE ' %$' "$results/instructions.output") kernels"
}

line quality "./run quality" "the test model under every sampler, 1,000 held-out prompts a task"
check_quality() {
  ./run quality
  cp build/release/quality.json "$results/quality.json"
  figure "$(json_number "$results/quality.json" prompts) prompts a task"
  at_least "$(json_number "$results/quality.json" prompts)" 1000
}

# bound KEY: the end of a paired interval (95 %, two-sided) that quality left.
bound() { json_number "$results/quality.json" "$1"; }
# loss KEY MOST
loss() {
  figure "$(ratio "$(bound "$1")" 1) (<= $2)"
  at_most "$(bound "$1")" "$2"
}
line recall_2 "./run quality" "sketch at 2 %: loss to full attention on recall, upper bound"
check_recall_2() { loss sketch_2pct_recall_below_exact_upper 0.03; }
line words_2 "./run quality" "sketch at 2 %: loss to oracle sampling on words, upper bound"
check_words_2() { loss sketch_2pct_words_below_oracle_upper 0.03; }
line words_5 "./run quality" "sketch at 5 %: loss to full attention on words, upper bound"
check_words_5() { loss sketch_5pct_words_below_exact_upper 0.05; }
line over_lsh "./run quality" "sketch at 2 %: gain over MagicPIG per head on recall, lower bound"
check_over_lsh() {
  figure "$(ratio "$(bound sketch_2pct_recall_above_lsh_lower)" 1) (>= 0.15)"
  at_least "$(bound sketch_2pct_recall_above_lsh_lower)" 0.15
}
line topk "./run quality" "top-k fails at counting: loss to oracle sampling on words, lower bound"
check_topk() {
  figure "$(ratio "$(bound topk_2pct_words_below_oracle_lower)" 1) (> 0)"
  at_least "$(bound topk_2pct_words_below_oracle_lower)" 0.001
}
