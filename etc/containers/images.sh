#!/usr/bin/env bash
# Builds, scans and pushes the images with the engine that is there: docker, podman or buildah.
#
# IMAGES, BUILD_TARGET, TAG, DOCKER_REGISTRY (empty: only here), PYTHON_IMAGE (the base; by digest, to pin it),
# BUILD_CACHE=1 (docker: layers are kept in DOCKER_REGISTRY), ENGINE, BUILD_OPTIONS.
set -euo pipefail
cd "$(dirname "$0")/../.."
reports=${REPORTS:-build/reports}
tag=${TAG:-$(git rev-parse HEAD)}

# The client alone builds nothing.
engine() {
  local each
  for each in ${ENGINE:-docker podman buildah}; do
    if [[ $each == buildah ]] && command -v buildah >/dev/null || "$each" info >/dev/null 2>&1; then
      echo "$each"
      return
    fi
  done
  echo "images: no engine answers: start Docker, or install podman or buildah" >&2
  return 1
}

name() { # IMAGE [TAG]
  echo "${DOCKER_REGISTRY:+$DOCKER_REGISTRY/}azaion/$1:${2:-$tag}"
}

build() { # IMAGE
  local target=$BUILD_TARGET command=("$engine" build) options=()
  # The annotation queue has no need of a GPU.
  [[ $1 == annotation-queue && $target == h100 ]] && target=production
  [[ $engine == buildah ]] && command=(buildah build --layers --format docker)
  [[ $engine == podman ]] && options+=(--format docker)
  [[ -n ${PYTHON_IMAGE:-} ]] && options+=(--build-arg "PYTHON_IMAGE=$PYTHON_IMAGE")
  if [[ $engine == docker && ${BUILD_CACHE:-} == 1 ]]; then
    command=(docker buildx build --load)
    options+=(--cache-from "type=registry,ref=$(name "$1" cache)")
    options+=(--cache-to "type=registry,mode=max,ref=$(name "$1" cache)")
  fi
  # shellcheck disable=SC2206 # options of the caller's, one a word
  options+=(${BUILD_OPTIONS:-})
  "${command[@]}" --file "etc/containers/$1.Dockerfile" --target "$target" --tag "$(name "$1")" \
    --build-arg "REVISION=$(git rev-parse HEAD)" "${options[@]}" .
}

scan() { # IMAGE
  # The picture of all goes to the security tab; what is critical or high, and can be mended, stops the build.
  trivy image --quiet --format sarif --output "$reports/trivy-$1.sarif" "$(name "$1")"
  trivy image --quiet --format cyclonedx --output "$reports/image-$1.cdx.json" "$(name "$1")"
  trivy image --quiet --severity CRITICAL,HIGH --ignore-unfixed --exit-code 1 "$(name "$1")"
}

push() { # IMAGE
  : "${DOCKER_REGISTRY:?where the images go}"
  "$engine" push "$(name "$1")"
}

mkdir -p "$reports"
engine=$(engine)
if [[ $1 == scan ]] && ! command -v trivy >/dev/null; then
  # By tag: its digest must be looked up where the image is had.
  trivy() {
    docker run --rm --volume /var/run/docker.sock:/var/run/docker.sock --volume "$PWD/$reports:/$reports" \
      --volume azaion-trivy:/root/.cache --workdir / aquasec/trivy:0.74.0 "$@"
  }
fi
for image in ${IMAGES:-training annotation-queue}; do
  echo "== $1 $(name "$image")"
  "$1" "$image"
done
