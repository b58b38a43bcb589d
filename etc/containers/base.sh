#!/usr/bin/env bash
# Makes a stand-in for the official Python image out of Debian's packages, where no registry of images can be reached:
#   sudo bash etc/containers/base.sh localhost/python:bookworm && make images PYTHON_IMAGE=localhost/python:bookworm
# Needs root, debootstrap and buildah.
set -euo pipefail
name=${1:?the name of the image}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=python3-venv,ca-certificates bookworm "$root" >"$root.log" 2>&1 ||
  { tail -n 5 "$root.log" >&2 && exit 1; }
rm -rf "$root.log" "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
container=$(buildah from scratch)
buildah add --quiet "$container" "$root" /
buildah commit --quiet "$container" "$name"
buildah rm "$container" >/dev/null
