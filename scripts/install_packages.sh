#!/usr/bin/env bash
# Installs the Debian packages of the groups named (build client format instructions fuzz bare
# aarch64; default: build), only those that are missing. Safe to call every time: with nothing to do
# it takes a fraction of a second. Works as root, or as a user with sudo.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/packages.sh
source "$here/packages.sh"

[ $# -gt 0 ] || set -- build
wanted=()
for group in "$@"; do
  list="packages_$group[@]"
  case $group in
    build | client | format | instructions | fuzz | bare | aarch64) wanted+=("${!list}") ;;
    *)
      echo "install_packages.sh: no package group '$group' (build, client, format, instructions," \
           "fuzz, bare, aarch64)" >&2
      exit 2
      ;;
  esac
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "packages: this is not a Debian system, so nothing is installed; needed are the" \
       "equivalents of: ${wanted[*]}"
  exit 0
fi

installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null |
            sed -n 's/^installed //p' || true)
missing=()
for package in "${wanted[@]}"; do
  grep -qxF "$package" <<<"$installed" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "packages: all ${#wanted[@]} are installed"
  exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install_packages.sh: ${#missing[@]} packages are missing and there is no sudo." \
         "As root:" >&2
    echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "packages: installing ${#missing[@]} of ${#wanted[@]}: ${missing[*]}"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=500)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}"
echo "packages: all ${#wanted[@]} are installed"
