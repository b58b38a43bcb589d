#!/usr/bin/env bash
# Puts an OpenStack Swift into a virtual environment of its own, the folder $1: its dependencies are no business of ours.
# shellcheck shell=bash
set -euo pipefail
folder=$1

# Tests that need it skip themselves, unless the caller insists.
give_up() {
  echo "Swift: $1; the tests that need it are skipped" >&2
  if [[ -n ${CI:-} || ${AZAION_REQUIRE_SWIFT:-} == 1 ]]; then
    exit 1
  fi
  exit 0
}

echo "fetching Swift for the tests (20 MB)"
made=$folder.partial
rm -rf "$made" "$folder"
trap 'rm -rf "$made"' EXIT
"$(dirname "$folder")/bin/python" -m venv "$made"
if ! reason=$("$made/bin/python" -m pip --quiet --disable-pip-version-check install swift==2.38.3 pyeclib==1.8.0 2>&1); then
  give_up "it cannot be installed (${reason##*$'\n'})"
fi
# Its programs know the folder that they were installed in.
sed -i "1s#$(realpath "$made")#$(realpath -m "$folder")#" "$made"/bin/swift-*
mv "$made" "$folder"
