#!/usr/bin/env bash
# Deploys to a server by the command that a person there would type. It proves the new release, and takes it back itself if
# it fails (docs/deployment.md); so does `--rollback` on demand.
#
# DEPLOY_HOST (user@host), RELEASE (a commit), WAY (units | containers), ROLLBACK (1: go back to the one before).
set -euo pipefail
cd "$(dirname "$0")/../.."
host=${DEPLOY_HOST:?user@host of the server}
ssh=(ssh -o BatchMode=yes -o StrictHostKeyChecking=yes "$host")
case ${WAY:-units} in
  units) way=() ;;
  containers) way=(--containers) ;;
  *)
    echo "deploy: WAY=$WAY is neither units nor containers" >&2
    exit 2
    ;;
esac
if [[ ${ROLLBACK:-} == 1 || ${ROLLBACK:-} == true ]]; then
  exec "${ssh[@]}" sudo -n azaionctl deploy "${way[@]}" --rollback
fi
commit=$(git rev-parse --verify "${RELEASE:?a commit}^{commit}")
if [[ ${#way[@]} -gt 0 ]]; then
  exec "${ssh[@]}" sudo -n azaionctl deploy "${way[@]}" "$commit"
fi
# The source goes with the call, so that the server needs no access to the repository. What follows is for its shell.
# shellcheck disable=SC2016
unpack='folder=$(mktemp -d) && trap "rm -rf \"$folder\"" EXIT && mkdir "$folder/$0" && tar --extract --directory "$folder/$0"'
git archive "$commit" azaion supervisor workers etc requirements .env.example pyproject.toml README.md LICENSE |
  "${ssh[@]}" "bash -c '$unpack && sudo -n azaionctl deploy \"\$folder/\$0\"' $commit"
