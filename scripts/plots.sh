#!/usr/bin/env bash
# Draws the plots of bench/plots: accuracy of the test model from build/release/quality.json, and
# the error of samplers against rows, bytes and time on each family of synthetic keys.
#   scripts/plots.sh [--n N] [--queries N] [--seeds N] [FAMILY...]
#                                         default: 65536, 16, 4; peaked flat mid sharp diffuse
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

n=65536 queries=16 seeds=4
families=()
while [ $# -gt 0 ]; do
  case $1 in
    --n) n=$2 && shift ;;
    --queries) queries=$2 && shift ;;
    --seeds) seeds=$2 && shift ;;
    -*) sed -n 2,5p "$0" >&2; exit 2 ;;
    *) families+=("$1") ;;
  esac
  shift
done
[ ${#families[@]} -gt 0 ] || families=(peaked flat mid sharp diffuse)

bin=build/release/bin
mkdir -p bench/plots
if [ -f build/release/quality.json ]; then
  "$bin/quality_bench" --from build/release/quality.json --plot bench/plots/quality.svg
else
  echo "plots: no build/release/quality.json, so none of it: ./run quality writes it" >&2
fi
data=$(mktemp --suffix=.safetensors)
trap 'rm -f "$data"' EXIT
for family in "${families[@]}"; do
  echo "$family: n = $n, d = 128, 4 query heads, $queries queries, $seeds seeds"
  "$bin/qkv_generator" --family "$family" --n "$n" --queries "$queries" --output "$data"
  "$bin/sounderctl" eval --qkv "$data" --sampler sketch,lsh,uniform,quest,topk,oracle,exact \
    --bits 64,128,10 --rows .002,.005,.01,.02,.05 --tables 50,75,110,150 \
    --row-format appended,int8 --seeds "$seeds" --plot "bench/plots/eval_$family.svg"
done
