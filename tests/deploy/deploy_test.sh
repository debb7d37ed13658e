#!/usr/bin/env bash
# The files under deploy/ are what the programs that read them expect.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
promtool=build/tools/usr/bin/promtool
if [ ! -x $promtool ]; then
  echo "Skipped: $promtool is not there (./run test)"
  exit 77
fi
$promtool check config deploy/prometheus.yml
# The checker does find faults.
broken=$(mktemp)
trap 'rm -f "$broken"' EXIT
sed 's/scrape_interval/scrape_intervall/' deploy/prometheus.yml >"$broken"
if $promtool check config "$broken" >/dev/null 2>&1; then
  echo "promtool took a wrong key"
  exit 1
fi
