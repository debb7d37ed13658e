# The Debian 12 packages this project needs, by purpose. Sourced by scripts/install_packages.sh.
# shellcheck shell=bash disable=SC2034

# To build everything and to run it.
packages_build=(
  g++ cmake ninja-build ccache pkg-config git ca-certificates
  libucx-dev libabsl-dev libcapnp-dev capnproto prometheus-cpp-dev libhwy-dev
  libdnnl-dev ocl-icd-opencl-dev  # its CMake package asks for OpenCL
  libcli11-dev libspdlog-dev libyaml-cpp-dev libcpp-httplib-dev nlohmann-json3-dev libxxhash-dev
  liburing-dev librocksdb-dev libssl-dev libgtest-dev libgmock-dev libbenchmark-dev
)

# To build a program with the installed client library and to run it.
packages_client=(
  g++ cmake make libucx0 libabsl20220623 libcapnp-0.9.2 libhwy1 libspdlog1.10 libxxhash0
)

# For ./run format and the test that everything is formatted.
packages_format=(clang-format)

# For ./run bench-instructions.
packages_instructions=(valgrind)

# For ./run fuzz. llvm-14: lines in the reports.
packages_fuzz=(clang-14 libclang-rt-14-dev llvm-14)

# For scripts/on_bare_debian.sh.
packages_bare=(debootstrap)

# To build kernels for 64-bit Arm and run their tests (.ci/run), and what is unpacked for it.
packages_aarch64=(g++-aarch64-linux-gnu qemu-user)
packages_aarch64_unpacked=(libabsl-dev libabsl20220623 libhwy-dev libhwy1 libgtest-dev libgmock-dev)

# Unpacked under build/tools for tests, never installed: package -> a program it brings.
declare -A packages_unpacked=([prometheus]=usr/bin/promtool)
