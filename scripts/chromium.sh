#!/usr/bin/env bash
# Installs Debian's Chromium for the tests that look at pages (tests/chromium.py), unless one is there. Needs root.
set -euo pipefail

for name in chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$name" >/dev/null && exit
done
[ "$(id -u)" = 0 ] || { echo "chromium: none is installed, and to install Debian's package takes root" >&2; exit 1; }
echo "chromium: installing Debian's package" >&2
export DEBIAN_FRONTEND=noninteractive
log="$(mktemp)"
install_it() { apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >>"$log" 2>&1; }
# The lists of packages may be absent or out of date.
install_it || { apt-get update -qq >>"$log" 2>&1 && install_it; } || { tail -n 20 "$log" >&2; exit 1; }
rm -f "$log"
