#!/usr/bin/env bash
# Unpacks the libraries that kernels and their tests need, built for 64-bit Arm, under
# build/tools/aarch64: packages of this Debian's own sources, nothing installed, the machine's list
# of architectures left as it is. Exits 1 where they cannot be had.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/packages.sh
source "$root/scripts/packages.sh"
tools=$root/build/tools/aarch64

if [ "$(cat "$tools/.unpacked" 2>/dev/null)" = "${packages_aarch64_unpacked[*]}" ]; then
  echo "aarch64: all ${#packages_aarch64_unpacked[@]} packages are under build/tools/aarch64"
  exit 0
fi
rm -rf "$tools"
mkdir -p "$tools/apt/lists/partial" "$tools/apt/cache/archives/partial" "$tools/download"
apt=(apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64
     -o "Dir::State::Lists=$tools/apt/lists" -o "Dir::Cache=$tools/apt/cache"
     -o APT::Sandbox::User=root)
echo "aarch64: unpacking ${packages_aarch64_unpacked[*]} under build/tools/aarch64"
if ! (cd "$tools/download" && "${apt[@]}" update && "${apt[@]}" download \
      "${packages_aarch64_unpacked[@]}") >"$tools/apt.log" 2>&1; then
  tail -n 5 "$tools/apt.log" >&2
  exit 1
fi
for package in "$tools"/download/*.deb; do dpkg -x "$package" "$tools"; done
rm -rf "$tools/download" "$tools/apt"
echo "${packages_aarch64_unpacked[*]}" >"$tools/.unpacked"
