#!/usr/bin/env bash
# Looks at all that a deployment relies on, without a server, an engine or a network; BUILD=1 builds the images, too.
# Each look says that it is well, or what is wrong; what cannot be looked at here is said, too. Ends with 1 if anything is wrong.
# shellcheck disable=SC2329 # `look` calls what is not called by name
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
python=${PYTHON:-.venv/bin/python}
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
failed=0

look() { # WHAT COMMAND...
  local what=$1
  shift
  if "$@" >"$made/said" 2>&1; then
    echo "ok       $what"
  else
    echo "WRONG    $what"
    sed 's/^/         /' "$made/said"
    failed=1
  fi
}

pass_over() { # WHAT WHY
  echo "skipped  $1: $2"
}

configuration() { # FILE
  mkdir -p "$made/root" "$made/server"
  install -m 600 "$1" "$made/server/.env"
  sed -i -e "s#^AZAION_ROOT_DIR=.*#AZAION_ROOT_DIR=$made/root#" -e "s#^AZAION_STATE_DIR=.*#AZAION_STATE_DIR=$made/state#" "$made/server/.env"
  local code=$PWD
  (cd "$made/server" && AZAION_DECLARATIONS=$code/etc/azaion.yaml.example PYTHONPATH=$code "$code/$python" -P -m supervisor.ctl config check)
}

units() {
  # The release that they start need not be installed here.
  ! systemd-analyze verify --man=no etc/systemd/*.service etc/systemd/*.socket etc/systemd/*.slice 2>&1 |
    grep -v -e 'Command /opt/azaion/.* is not executable' -e '^$'
}

workflows() {
  check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml &&
    zizmor --offline --no-progress --persona regular .github/workflows
}

look "settings: .env.example" configuration .env.example
[[ -e .env ]] && look "settings: .env" "$python" -m supervisor.ctl config check
look "compose files" check-jsonschema --builtin-schema vendor.compose-spec docker-compose*.yml
look "Dockerfiles" hadolint etc/containers/*.Dockerfile
look "names in compose files and workflows" "$python" -m pytest -q -p no:cacheprovider tests/unit/test_containers.py tests/unit/test_workflows.py
look "schema of the database" "$python" -m pytest -q -p no:cacheprovider tests/unit/test_schema.py
look "documents" "$python" -m pytest -q -p no:cacheprovider tests/unit/test_docs.py
look "environment against the lock" "$python" -m pip --disable-pip-version-check check
mapfile -t scripts < <(git ls-files --cached --others --exclude-standard '*.sh' .ci)
look "shell scripts" shellcheck --exclude=SC2154 --external-sources "${scripts[@]}"
look "workflows" workflows
if command -v systemd-analyze >/dev/null; then
  look "units" units
else
  pass_over "units" "there is no systemd here"
fi
if docker compose version >/dev/null 2>&1; then
  look "compose, by Docker itself" docker compose -f docker-compose.test.yml config --quiet
else
  pass_over "compose, by Docker itself" "docker compose is not here"
fi
if [[ ${BUILD:-} == 1 ]]; then
  look "images" bash etc/containers/images.sh build
else
  pass_over "images" "make validate BUILD=1 builds them"
fi
exit $failed
