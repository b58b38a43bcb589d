#!/usr/bin/env bash
# Puts age, the command, into a folder: of its package only the program.
what=age package=age size="1 MB"
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/debian.sh"

if command -v age >/dev/null; then
  exit 0
fi

names() {
  echo "$package"
}

fetch
begin
dpkg --fsys-tarfile "$temporary"/packages/age_*.deb | tar --extract --directory "$made/bin" --strip-components 3 ./usr/bin/age
finish
