# Sourced by the scripts that put a program of the tests' own into the folder $1, from the distribution's signed
# packages. That needs no root and changes nothing else: to install them would start servers that listen everywhere.
#
# Before it is sourced: what (the program's name), package (what has it), size (what is fetched).
# shellcheck shell=bash
set -euo pipefail
folder=$1
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

# Tests that need it skip themselves, unless the caller insists.
give_up() {
  local insist="AZAION_REQUIRE_${what^^}"
  echo "$what: $1; the tests that need it are skipped. To have them: install $package" >&2
  if [[ -n ${CI:-} || ${!insist:-} == 1 ]]; then
    exit 1
  fi
  exit 0
}

apt=(apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20)

# The packages that are needed, one name a line: by default all that the machine lacks.
names() {
  "${apt[@]}" install --simulate --no-install-recommends "$package" | awk '$1 == "Inst" {print $2}'
}

download() {
  local wanted
  wanted=$(names) || return
  mkdir -p "$temporary/packages"
  # shellcheck disable=SC2086 # one name per word
  (cd "$temporary/packages" && "${apt[@]}" download $wanted)
}

# Fetch the packages into "$temporary/packages".
fetch() {
  if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    give_up "this is no Debian, so it cannot be fetched here"
  fi
  echo "fetching $what for the tests ($size)"
  if ! download 2>"$temporary/errors"; then
    # The machine's package lists are empty or too old: read newer ones, into a folder of our own.
    mkdir -p "$temporary/lists/partial" "$temporary/cache/archives/partial"
    apt+=(-o Dir::State::lists="$temporary/lists" -o Dir::Cache="$temporary/cache")
    if ! { "${apt[@]}" update && download; } 2>>"$temporary/errors"; then
      give_up "its packages cannot be fetched ($(grep -m 1 '^E:' "$temporary/errors" || echo 'no reason given'))"
    fi
  fi
}

# Begin the folder beside its place, so that it comes whole or not at all.
begin() {
  made=$folder.partial
  rm -rf "$made" "$folder"
  mkdir -p "$made/bin"
}

# Unpack what was fetched into the folder.
unpack() {
  local each
  for each in "$temporary"/packages/*.deb; do
    dpkg --extract "$each" "$made"
  done
}

# The folder is whole.
finish() {
  mv "$made" "$folder"
}
