#!/usr/bin/env bash
# Puts promtool into a folder: of Prometheus' package only this one program.
what=promtool package=prometheus size="20 MB"
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/debian.sh"

if command -v promtool >/dev/null; then
  exit 0
fi

names() {
  echo "$package"
}

fetch
begin
dpkg --fsys-tarfile "$temporary"/packages/prometheus_*.deb | tar --extract --directory "$made/bin" --strip-components 3 ./usr/bin/promtool
finish
