#!/usr/bin/env bash
# Puts a RabbitMQ of the tests' own into a folder, from the distribution's signed packages. It needs no root and changes
# nothing else: installing the package would start a broker that listens on every interface.
set -euo pipefail
folder=$1
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

# Tests that need it skip themselves, unless the caller insists.
give_up() {
  echo "RabbitMQ: $1; the tests that need it are skipped. To have them: install rabbitmq-server 3.9 or newer" >&2
  if [[ -n ${CI:-} || ${AZAION_REQUIRE_RABBITMQ:-} == 1 ]]; then
    exit 1
  fi
  exit 0
}

if compgen -G '/usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins/rabbitmq_stream-*' >/dev/null; then
  exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
  give_up "this is no Debian, so it cannot be fetched here"
fi

apt=(apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20)
install=(install --simulate --no-install-recommends rabbitmq-server)

fetch() {
  local names
  # Erlang whole, even where the machine has a part of it; of the rest only what is missing.
  names=$({
    "${apt[@]}" -o Dir::State::status=/dev/null "${install[@]}" | awk '$1 == "Inst" && $2 ~ /^(erlang-|rabbitmq-server)/ {print $2}' &&
      "${apt[@]}" "${install[@]}" | awk '$1 == "Inst" {print $2}'
  } | sort -u) || return
  mkdir -p "$temporary/packages"
  # shellcheck disable=SC2086 # one name per word
  (cd "$temporary/packages" && "${apt[@]}" download $names)
}

echo "fetching RabbitMQ for the tests (35 MB)"
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
# Debian's own `erl` insists on /usr/lib/erlang.
mkdir "$made/bin"
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
mv "$made" "$folder"
