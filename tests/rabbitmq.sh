#!/usr/bin/env bash
# Puts a RabbitMQ into a folder.
what=RabbitMQ package=rabbitmq-server size="35 MB"
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/debian.sh"

if compgen -G '/usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins/rabbitmq_stream-*' >/dev/null; then
  exit 0
fi

# Erlang whole, even where the machine has a part of it; of the rest only what is missing.
names() {
  local install=(install --simulate --no-install-recommends "$package")
  {
    "${apt[@]}" -o Dir::State::status=/dev/null "${install[@]}" | awk '$1 == "Inst" && $2 ~ /^(erlang-|rabbitmq-server)/ {print $2}' &&
      "${apt[@]}" "${install[@]}" | awk '$1 == "Inst" {print $2}'
  } | sort -u
}

fetch
begin
unpack
# Debian's own `erl` insists on /usr/lib/erlang.
for name in erl:erlexec epmd:epmd; do
  cat >"$made/bin/${name%:*}" <<'SCRIPT'
#!/bin/sh
root=$(dirname "$(dirname "$(readlink -f "$0")")")
export ROOTDIR="$root/usr/lib/erlang" EMU=beam PROGNAME=erl
BINDIR=$(echo "$ROOTDIR"/erts-*/bin)
LD_LIBRARY_PATH=$(echo "$root"/usr/lib/*-linux-gnu*)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export BINDIR LD_LIBRARY_PATH
SCRIPT
  # shellcheck disable=SC2016 # for the script that is being written
  echo 'exec "$BINDIR/'"${name#*:}"'" "$@"' >>"$made/bin/${name%:*}"
  chmod +x "$made/bin/${name%:*}"
done
finish
