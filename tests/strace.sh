#!/usr/bin/env bash
# Puts strace into a folder, with the libraries that the machine lacks, which only it is to see.
what=strace package=strace size="2 MB"
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/debian.sh"

if command -v strace >/dev/null; then
  exit 0
fi

fetch
begin
unpack
cat >"$made/bin/strace" <<'END'
#!/bin/bash
here=$(dirname "$(dirname "$(realpath "$0")")")
libraries=("$here"/usr/lib/*-linux-gnu)
LD_LIBRARY_PATH=${libraries[0]} exec "$here/usr/bin/strace" -E LD_LIBRARY_PATH "$@"
END
chmod 755 "$made/bin/strace"
finish
