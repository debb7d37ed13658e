# The acceptance lines of a service to trust: faults, hostile input, flow control, sessions that
# branch. Sourced by scripts/acceptance.sh, which says what line, figure, ratio and the others do.
# shellcheck shell=bash

line overload "node_overload" "at 3x load: goodput >= .9 of the peak, refusals at once, bounds"
check_overload() {
  build node_overload
  build/release/bin/node_overload | tee "$results/overload.output"
  value() { awk -v key="$1" '$1 == key { print $2 }' "$results/overload.output"; }
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
