#!/usr/bin/env bash
# Asks for known vulnerabilities in every lock. Each is audited by itself, so that it is seen which part is concerned.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
failed=0
audit() { # NAME OPTION...
  echo "== $1"
  pip-audit --strict --disable-pip --progress-spinner off --desc off "${@:2}" || failed=1
}
for lock in train annotation-queue build dev tools; do
  audit "$lock" --require-hashes --requirement "requirements/$lock.lock"
done
# Its builds are chosen by the index, so it has no hashes.
audit torch --no-deps --requirement requirements/torch.txt
exit $failed
