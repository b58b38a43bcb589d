#!/usr/bin/env bash
# Puts task-spooler and Slurm (from the distribution's signed packages), gflow (the package runqd), gq, supervisord and
# circus into a folder, for `python -m benchmarks.queues` and `python -m benchmarks.peers`. It needs no root and changes nothing else.
set -euo pipefail
python=$1 folder=$2
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
mkdir -p "$folder"
if command -v apt-get >/dev/null && (cd "$temporary" && apt-get -qq -o APT::Sandbox::User=root download task-spooler); then
  dpkg-deb -x "$temporary"/task-spooler_*.deb "$folder/task-spooler"
else
  echo "task-spooler cannot be fetched here, so it is left out" >&2
fi
# With the libraries that a small installation lacks; it is never installed, since its packages would start it.
if command -v apt-get >/dev/null && (cd "$temporary" && apt-get -qq -o APT::Sandbox::User=root download \
  slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libmunge2 libhwloc15 libnuma1 liblua5.1-0 libjson-c5 \
  libdbus-1-3 libreadline8 liblz4-1); then
  for package in "$temporary"/{slurm,munge,lib}*.deb; do dpkg-deb -x "$package" "$folder/slurm"; done
else
  echo "Slurm cannot be fetched here, so it is left out" >&2
fi
if "$python" -m venv "$folder/gflow" && "$folder/gflow/bin/pip" install --quiet --only-binary :all: runqd==0.4.18; then
  command -v tmux >/dev/null || echo "gflow needs tmux, and there is none, so it is left out" >&2
else
  rm -rf "$folder/gflow"
  echo "gflow cannot be fetched here, so it is left out" >&2
fi
for each in supervisor==4.3.0 circus==0.19.0 gq-local==0.3.0; do
  name=${each%%[=-]*}
  if ! { "$python" -m venv "$folder/$name" && "$folder/$name/bin/pip" install --quiet "$each" "setuptools<81"; }; then
    rm -rf "${folder:?}/$name"
    echo "$name cannot be fetched here, so it is left out" >&2
  fi
done
