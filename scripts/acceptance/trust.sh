# The acceptance lines of a service to trust: faults, hostile input, flow control, sessions that
# branch. Sourced by scripts/acceptance.sh, which says what line, figure, ratio and the others do.
# shellcheck shell=bash

# value KEY: of what the line's command printed, one "KEY VALUE" a line; the last of a key counts.
value() { awk -v key="$1" '$1 == key { v = $2 } END { print v }' "$results/$current.output"; }

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
