#!/usr/bin/env bash
# Builds the client library's example on a bare Debian 12, from what `cmake --install` leaves and
# the packages of the group `client`, and runs it there against a node outside. Needs root. Ends
# with figures, "key value" a line; exit status 0 only if the example's answers were right.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "${1:-}" = on-bare ]; then  # NODE: what is to be done there
  before=$(dpkg-query -W | wc -l)
  scripts/install_packages.sh client
  after=$(dpkg-query -W | wc -l)
  begin=$SECONDS
  cmake -S /added/share/doc/sounder/examples/client -B /tmp/example -DCMAKE_PREFIX_PATH=/added
  cmake --build /tmp/example
  echo "build_seconds $((SECONDS - begin))"
  echo "packages_added $((after - before))"
  exec /tmp/example/client_example "$2"
fi

scripts/install_packages.sh
scripts/build.sh release sounder_client sounder_node sounder_worker sounderctl
scratch=$(mktemp -d)
node=
clean() {
  [ -z "$node" ] || kill "$node" 2>/dev/null || true
  rm -rf "$scratch"
}
trap clean EXIT
cmake --install build/release --prefix "$scratch/prefix" --component client
exec {ready}< <(exec build/release/bin/sounder_node \
  --control 127.0.0.1:0 --data 127.0.0.1:0 --http 127.0.0.1:0)
node=$!
read -r -t 20 line <&"$ready" || { echo "client_example.sh: the node did not start" >&2; exit 1; }
address=$(sed -nE 's/^ready control=([^ ]+) .*/\1/p' <<<"$line")
SOUNDER_BARE_ADD=$scratch/prefix scripts/on_bare_debian.sh scripts/client_example.sh on-bare \
  "$address" | tee "$scratch/said"
for name in session fork; do
  grep -q "^$name: attended to 1000 rows there" "$scratch/said"
done
grep -E '^(build_seconds|packages_added) ' "$scratch/said"
echo "library_bytes $(stat -L -c %s "$scratch"/prefix/lib*/libsounder_client.so)"
echo "example_lines $(wc -l <docs/examples/client/client_example.cc)"
echo "client_example ok"
