# What the parts of scripts/acceptance have in common. Sourced by scripts/acceptance.sh before them.
# shellcheck shell=bash

# build TARGET...: with the packages it takes.
build() {
  scripts/install_packages.sh
  scripts/build.sh release "$@"
}

# The check of a part's line `bench`; other lines read the figures it leaves.
check_bench() {
  ./run bench
  cp build/release/bench.json "$results/bench.json"
  figure "$(grep -o '":' "$results/bench.json" | wc -l) figures, $(bench_number pairs) pairs"
  bench_counts
}

# The figures of the bench line, of this commit.
bench_number() { json_number "$results/bench.json" "$1"; }

# Whether they are those of the whole suite at n = 65,536, d = 128, 4 query heads per kv head.
bench_counts() {
  [ "$(bench_number n)" = 65536 ]
  [ "$(bench_number d)" = 128 ]
  [ "$(bench_number group)" = 4 ]
  at_least "$(bench_number pairs)" 100
  grep -qE '"quick": ?false' "$results/bench.json"
}

# bench_ratio KEY BOUND [TEXT]: KEY over the sequential read of the same rows.
bench_ratio() {
  local value
  value=$(ratio "$(bench_number "$1")" "$(bench_number seq_read_us)")
  figure "${value:-no figure} (<= $2)${3:-}"
  bench_counts
  at_most "$value" "$2"
}

# tests PATTERN: runs the tests whose names match; the figure is how many passed.
tests() {
  local code=0
  build
  ctest --test-dir build/release --output-on-failure --no-tests=error -R "$1" |
    tee "$results/$current.output" || code=$?
  figure "$(sed -nE 's/^([0-9]+% tests passed, .*)/\1/p' "$results/$current.output")"
  return $code
}
