#!/usr/bin/env bash
# Puts a headless Chromium into a folder, from the distribution's signed packages. It needs no root and changes nothing
# else: the libraries that the machine lacks come beside it.
set -euo pipefail
folder=$1
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

# Tests that need it skip themselves, unless the caller insists.
give_up() {
  echo "Chromium: $1; the tests that need it are skipped. To have them: install chromium" >&2
  if [[ -n ${CI:-} || ${AZAION_REQUIRE_CHROMIUM:-} == 1 ]]; then
    exit 1
  fi
  exit 0
}

if command -v chromium >/dev/null || command -v chromium-headless-shell >/dev/null; then
  exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
  give_up "this is no Debian, so it cannot be fetched here"
fi

apt=(apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20)

fetch() {
  local names
  names=$("${apt[@]}" install --simulate --no-install-recommends chromium-headless-shell | awk '$1 == "Inst" {print $2}') || return
  mkdir -p "$temporary/packages"
  # shellcheck disable=SC2086 # one name per word
  (cd "$temporary/packages" && "${apt[@]}" download $names)
}

echo "fetching Chromium for the tests (75 MB)"
if ! fetch 2>"$temporary/errors"; then
  # The machine's package lists are empty or too old: read newer ones, into a folder of our own.
  mkdir -p "$temporary/lists/partial" "$temporary/cache/archives/partial"
  apt+=(-o Dir::State::lists="$temporary/lists" -o Dir::Cache="$temporary/cache")
  if ! { "${apt[@]}" update && fetch; } 2>>"$temporary/errors"; then
    give_up "its packages cannot be fetched ($(grep -m 1 '^E:' "$temporary/errors" || echo 'no reason given'))"
  fi
fi

# Beside its place, so that it comes whole or not at all.
made=$folder.partial
rm -rf "$made" "$folder"
mkdir -p "$made"
for package in "$temporary"/packages/*.deb; do
  dpkg --extract "$package" "$made"
done
mkdir -p "$made/bin"
cat >"$made/bin/chromium" <<'SCRIPT'
#!/bin/sh
root=$(dirname "$(dirname "$(readlink -f "$0")")")
# Some libraries lie one folder deeper.
LD_LIBRARY_PATH=$(echo "$root"/usr/lib/*-linux-gnu* "$root"/usr/lib/*-linux-gnu*/pulseaudio | tr ' ' :)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
exec "$root/usr/lib/chromium/chromium-headless-shell" "$@"
SCRIPT
chmod +x "$made/bin/chromium"
mv "$made" "$folder"
