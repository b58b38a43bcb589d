#!/usr/bin/env bash
# Puts promtool into a folder, from the distribution's signed package. Installing that would start a Prometheus.
set -euo pipefail
folder=$1
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

# Tests that need it skip themselves, unless the caller insists.
give_up() {
  echo "promtool: $1; the tests that need it are skipped. To have them: install prometheus" >&2
  if [[ -n ${CI:-} || ${AZAION_REQUIRE_PROMTOOL:-} == 1 ]]; then
    exit 1
  fi
  exit 0
}

if command -v promtool >/dev/null; then
  exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
  give_up "this is no Debian, so it cannot be fetched here"
fi

apt=(apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20)

fetch() {
  (cd "$temporary" && "${apt[@]}" download prometheus)
}

echo "fetching promtool for the tests (20 MB)"
if ! fetch 2>"$temporary/errors"; then
  # The machine's package lists are empty or too old: read newer ones, into a folder of our own.
  mkdir -p "$temporary/lists/partial" "$temporary/cache/archives/partial"
  apt+=(-o Dir::State::lists="$temporary/lists" -o Dir::Cache="$temporary/cache")
  if ! { "${apt[@]}" update && fetch; } 2>>"$temporary/errors"; then
    give_up "its package cannot be fetched ($(grep -m 1 '^E:' "$temporary/errors" || echo 'no reason given'))"
  fi
fi

# Beside its place, so that it comes whole or not at all. Of the package only the one program is kept.
made=$folder.partial
rm -rf "$made" "$folder"
mkdir -p "$made"
dpkg --fsys-tarfile "$temporary"/prometheus_*.deb | tar --extract --directory "$made" --strip-components 3 ./usr/bin/promtool
mv "$made" "$folder"
