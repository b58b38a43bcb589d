#!/usr/bin/env bash
# Puts a headless Chromium into a folder, with the libraries that the machine lacks beside it.
what=Chromium package=chromium-headless-shell size="75 MB"
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/debian.sh"

if command -v chromium >/dev/null || command -v chromium-headless-shell >/dev/null; then
  exit 0
fi

fetch
begin
unpack
cat >"$made/bin/chromium" <<'SCRIPT'
#!/bin/sh
root=$(dirname "$(dirname "$(readlink -f "$0")")")
# Some libraries lie one folder deeper.
LD_LIBRARY_PATH=$(echo "$root"/usr/lib/*-linux-gnu* "$root"/usr/lib/*-linux-gnu*/pulseaudio | tr ' ' :)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
exec "$root/usr/lib/chromium/chromium-headless-shell" "$@"
SCRIPT
chmod +x "$made/bin/chromium"
finish
