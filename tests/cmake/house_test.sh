#!/usr/bin/env bash
# cmake/house.cmake stops the configuration at a wrong edge, and only there.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0

# configure TEXT: a project without languages of these lines, whose libraries are empty.
configure() {
  cat >"$folder/CMakeLists.txt" <<TEXT
cmake_minimum_required(VERSION 3.25)
project(toy NONE)
include($root/cmake/house.cmake)
$1
TEXT
  rm -rf "$folder/build"
  cmake -G Ninja -S "$folder" -B "$folder/build" >"$folder/log" 2>&1
}

accepted() {
  configure "$1" && return
  echo "not accepted: $1"
  cat "$folder/log"
  failures=$((failures + 1))
}

# refused MESSAGE TEXT: for this reason (line ends in it do not matter).
refused() {
  local said
  if configure "$2"; then
    echo "accepted: $2"
  else
    said=$(tr -s ' \n' ' ' <"$folder/log")
    grep -qF "$1" <<<"$said" && return
    echo "refused for another reason than '$1': $2"
    cat "$folder/log"
  fi
  failures=$((failures + 1))
}

accepted 'sounder_library(NAME common_base)
  sounder_library(NAME common_memory DEPS common_base LIBS absl::status gomp yaml-cpp)
  sounder_library(NAME kv_node_kernels DEPS common_memory)
  sounder_library(NAME gpu_worker_kv DEPS common_base gpu_worker_ops)'
accepted 'sounder_library(NAME cli_eval DEPS cli_table kv_node_sampler)'

refused 'common_base may not depend on common_memory' \
  'sounder_library(NAME common_base DEPS common_memory)'
refused 'common_base may not depend on common_base' \
  'sounder_library(NAME common_base DEPS common_base)'
refused 'common_wire may not depend on kv_node_kernels' \
  'sounder_library(NAME common_wire DEPS kv_node_kernels)'
refused 'gpu_worker_kv may not depend on kv_node_session' \
  'sounder_library(NAME gpu_worker_kv DEPS kv_node_session)'
refused 'cli_eval may not depend on kv_node_session' \
  'sounder_library(NAME cli_eval DEPS kv_node_session)'
refused 'common_attic is not a folder of the house' 'sounder_library(NAME common_attic)'
refused 'bench_generator is not a folder of the house' \
  'sounder_library(NAME cli_eval DEPS bench_generator)'
refused 'kv_node_main may not depend on gpu_worker_ops' \
  'sounder_binary(NAME sounder_node PLACE kv_node_main SRCS main.cc DEPS gpu_worker_ops)'
# A library of the house among LIBS would be linked unchecked, in whatever direction.
refused 'common_memory is no outside library' \
  'sounder_library(NAME common_base LIBS absl::status common_memory)'
refused 'common_base is no outside library' 'sounder_library(NAME common_memory LIBS common_base)'
refused 'bench_generator is no outside library' \
  'sounder_library(NAME cli_eval LIBS bench_generator)'
refused 'gpu_worker_ops is no outside library' \
  'sounder_binary(NAME sounder_node PLACE kv_node_main SRCS main.cc LIBS gpu_worker_ops)'

[ $failures = 0 ]
