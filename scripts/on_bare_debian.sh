#!/usr/bin/env bash
# Runs a command of the committed project on a bare Debian 12: a root made by debootstrap with
# nothing but git and certificates, as on a machine that never saw the project. Needs root.
#   scripts/on_bare_debian.sh COMMAND [ARGUMENT...]     e.g. scripts/on_bare_debian.sh ./run demo
# Exit status: the command's. The bare root is made once, in $SOUNDER_BARE (/var/tmp/sounder-bare).
# A folder named by $SOUNDER_BARE_ADD is there as /added.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -ge 1 ] || { sed -n 2,6p "$0" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "on_bare_debian.sh: needs root" >&2; exit 1; }

store=${SOUNDER_BARE:-/var/tmp/sounder-bare}
base=$store/base
sources=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true)
mirror=$(sed -nE 's/^(deb|URIs:) *(\[[^]]*\] *)?(https?:[^ ]+).*/\3/p' <<<"$sources" | head -n 1)
[ -n "$mirror" ] || { echo "on_bare_debian.sh: this machine names no package source" >&2; exit 1; }

if [ ! -e "$base/.ready" ]; then
  command -v debootstrap >/dev/null || scripts/install_packages.sh bare
  rm -rf "$base"
  mkdir -p "$store"
  echo "making a bare Debian 12 in $base"
  debootstrap --variant=minbase --include=git,ca-certificates bookworm "$base" "$mirror" \
    >"$store/debootstrap.log" 2>&1 || { tail -n 5 "$store/debootstrap.log" >&2; exit 1; }
  printf 'deb %s bookworm main\ndeb %s bookworm-updates main\n' "$mirror" "$mirror" \
    >"$base/etc/apt/sources.list"
  grep -hs Acquire::http /etc/apt/apt.conf.d/* >"$base/etc/apt/apt.conf.d/99proxy" || true
  cp -L /etc/resolv.conf "$base/etc/" 2>/dev/null || true
  touch "$base/.ready"
fi

root=$(mktemp -d "$store/run.XXXXXX")
clean() {
  local folder
  for folder in dev sys proc; do umount -l "$root/$folder" 2>/dev/null || true; done
  if grep -qF " $root/" /proc/mounts; then
    echo "on_bare_debian.sh: $root is still mounted somewhere; not removed" >&2
    return
  fi
  rm -rf --one-file-system "$root"
}
trap clean EXIT
cp -a "$base/." "$root/"
for folder in proc sys dev; do
  mount --rbind "/$folder" "$root/$folder"
  mount --make-rslave "$root/$folder"
done
git clone -q --no-local . "$root/project"
[ -z "${SOUNDER_BARE_ADD:-}" ] || cp -a "$SOUNDER_BARE_ADD" "$root/added"
proxies=$(env | grep -iE '^(https?|no)_proxy=|^SSL_CERT_FILE=' || true)
mapfile -t proxies <<<"$proxies"
code=0
env -i ${proxies[0]:+"${proxies[@]}"} HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
  LANG=C.UTF-8 chroot "$root" bash -c 'cd /project && exec "$@"' _ "$@" || code=$?
exit $code
