"""Servers of the tests end with them, however the tests end."""

import subprocess
from pathlib import Path
from typing import Final

_WATCH: Final = """
while read -r line; do pids=$line; done
[ -z "$pids" ] || kill -KILL $pids
for _ in 1 2 3 4 5 6 7 8 9; do rm -rf "$1" 2>/dev/null && break; sleep 0.2; done
"""


class Guard:
    """A process that outlives a killed test run just long enough to kill its servers and remove their folder."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "sh", folder], stdin=subprocess.PIPE, start_new_session=True
        )

    def tell(self, *running: subprocess.Popen[bytes]) -> None:
        """Whom it would have to kill."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(str(process.pid) for process in running).encode() + b"\n")
        self._process.stdin.flush()

    def release(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
