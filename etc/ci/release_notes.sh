#!/usr/bin/env bash
# Prints the section of CHANGELOG.md about a version, `v` or not; without one, about what is not released yet.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=${1:-Unreleased}
version=${version#v}
notes=$(awk -v wanted="## [$version]" 'index($0, "## [") == 1 { shown = index($0, wanted) == 1; next } shown' CHANGELOG.md)
if [[ -z ${notes//[[:space:]]/} ]]; then
  echo "release-notes: CHANGELOG.md has no section [$version]; write it, then try again" >&2
  exit 1
fi
printf '%s\n' "$notes" | sed -e '/./,$!d'
