#!/usr/bin/env bash
# Unpacks the programs that only tests use (promtool and prometheus) under build/tools, without
# installing them, so that no service is ever set up. Where they cannot be had (no network, no
# apt) it says so and succeeds: the tests that need them skip with a reason.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/packages.sh
source "$root/scripts/packages.sh"
tools=$root/build/tools

missing=()
for package in "${!packages_unpacked[@]}"; do
  [ -x "$tools/${packages_unpacked[$package]}" ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "test tools: all ${#packages_unpacked[@]} are under build/tools"
  exit 0
fi

for package in "${missing[@]}"; do
  echo "test tools: unpacking $package under build/tools"
  mkdir -p "$tools/download"
  fetch() { (cd "$tools/download" && apt-get -q -o APT::Sandbox::User=root download "$package"); }
  refresh() {
    if [ "$(id -u)" -eq 0 ]; then apt-get -q -o DPkg::Lock::Timeout=500 update
    else sudo -n apt-get -q -o DPkg::Lock::Timeout=500 update; fi
  }
  if { fetch || { refresh && fetch; }; } >"$tools/download/$package.log" 2>&1 &&
     dpkg -x "$tools"/download/"$package"_*.deb "$tools"; then
    rm -f "$tools"/download/"$package"_*.deb
  else
    echo "test tools: $package cannot be fetched; tests that need it will be skipped" \
         "(build/tools/download/$package.log)"
  fi
done
