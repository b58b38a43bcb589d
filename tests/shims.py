"""Folders of attempts, and shims started on them."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from azaion.layout import AttemptFolder
from supervisor.jobs.launchers import shim_path

#: Another one each time, so that nothing that an earlier run of the tests has left is taken for ours.
NONCE = secrets.token_hex(16)


def attempt(path: Path, argv: list[str], **more: Any) -> AttemptFolder:
    """A folder that is ready to be started."""
    path.mkdir(parents=True, exist_ok=True)
    folder = AttemptFolder(path=path)
    environment = {"PATH": os.environ["PATH"]}
    spec = {"protocol": 1, "nonce": NONCE, "argv": argv, "cwd": str(path), "env": environment, **more}
    folder.spec.write_text(json.dumps(spec), encoding="utf-8")
    return folder


def start(folder: AttemptFolder, failpoints: str = "") -> subprocess.Popen[bytes]:
    """A shim as a child of the test, so that the test sees its exit code."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", shim_path(), folder.path],
        env={"PATH": os.environ["PATH"], "AZAION_FAILPOINTS": failpoints},
    )


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_bytes())
    return value
