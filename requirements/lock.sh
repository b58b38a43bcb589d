#!/usr/bin/env bash
# Makes the locks anew. What only a CUDA build of torch draws in stays out: torch brings it along on a GPU machine.
set -euo pipefail
uv=$1
cd "$(dirname "$0")/.."
compile=("$uv" pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url)
without=(--no-emit-package torch --no-emit-package torchvision)
while read -r name; do
  without+=(--no-emit-package "$name")
done < <("${compile[@]}" --extra dev pyproject.toml | grep -oE '^(nvidia|cuda|triton)[a-z0-9-]*' | grep -vx nvidia-ml-py | sort -u)
lock() { # NAME EXTRA...
  "${compile[@]}" --generate-hashes "${without[@]}" "${@:2}" pyproject.toml -o "requirements/$1.lock"
}
lock train --extra train --extra publish
# A part of the one before, in the same versions: what was tested together runs apart.
lock annotation-queue --constraint requirements/train.lock
lock dev --extra dev
"${compile[@]}" --generate-hashes requirements/build.in -o requirements/build.lock
"${compile[@]}" --generate-hashes requirements/tools.in -o requirements/tools.lock
"${compile[@]}" --generate-hashes requirements/guided.in -o requirements/guided.lock
