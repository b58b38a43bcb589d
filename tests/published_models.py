"""An installation that publishes: keys, models made of noise, the worker and the consumer as processes."""

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from azaion import files, models
from azaion.layout import AttemptFolder
from tests.installations import Installation


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a worker ended."""

    code: int
    result: dict[str, Any]
    log: str

    @property
    def message(self) -> str:
        return str(self.result["message"])


class Publisher:
    """What is published from an installation whose daemon need not run.

    Args:
        server: the installation.
        variables: settings of publishing; what is secret among them stands in `.env` alone.
    """

    def __init__(self, server: Installation, **variables: str) -> None:
        self.server = server
        self.layout = server.layout
        self.consumer = server.folder / "consumer"
        self.consumer.mkdir()
        secret = {"AZAION_API_PASSWORD", "AZAION_API_SALT", "AZAION_API_HARDWARE"}
        server.variables |= {name: value for name, value in variables.items() if name not in secret}
        self.env_file = server.folder / ".env"
        self.env_file.write_text("".join(f"{name}={variables[name]}\n" for name in variables if name in secret))
        self.env_file.chmod(0o640)
        self._attempts = 0
        phrase = server.folder / "phrase"
        phrase.write_text("a key string of the system before this one\n")
        for command in (["config", "render"], ["keys", "generate"], ["keys", "generate", "--legacy", str(phrase)]):
            done = server.ctl(*command)
            assert done.returncode == 0, done.stderr

    def model(self, key: str, size: int = 100_000) -> tuple[str, bytes]:
        """Register a model and put it to use; returns its name and its weights."""
        weights = random.Random(key).randbytes(size)
        path = self.server.folder / f"{key}.pt"
        path.write_bytes(weights)
        model = models.register(
            self.layout, key=key, attempt=1, weights=path, card={}, files={}, today=datetime.now(UTC).date()
        )
        models.promote(self.layout, model.name)
        return model.name, weights

    def order(self, model: str | None = None, uid: str = "job", **parameters: Any) -> AttemptFolder:
        """Write the spec of an attempt, as the daemon does."""
        self._attempts += 1
        job = self.layout.job(7, uid)
        folder = job.attempt(self._attempts)
        folder.path.mkdir(parents=True)
        spec = {
            "protocol": 1,
            "job": 7,
            "uid": uid,
            "attempt": self._attempts,
            "nonce": f"nonce-{self._attempts}",
            "kind": "publish",
            "config": str(self.layout.config),
            "run": str(job.run),
            "publish": {"model": model, **parameters},
        }
        files.write_json(folder.spec, spec)
        return folder

    def launch(self, folder: AttemptFolder, failpoints: str = "") -> "subprocess.Popen[bytes]":
        """Start the worker on an attempt."""
        env = {
            "PATH": os.environ["PATH"],
            "AZAION_FAILPOINTS": failpoints,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        with folder.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "workers.publish", str(folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=self.server.folder,
            )

    def publish(self, model: str | None = None, failpoints: str = "", **parameters: Any) -> Ending:
        """Run the worker to its end."""
        folder = self.order(model, **parameters)
        code = self.launch(folder, failpoints).wait(timeout=60)
        result = files.read_json(folder.result) if folder.result.exists() else {}
        return Ending(code=code, result=result, log=folder.log.read_text())

    def fetch(self, *arguments: str, failpoints: str = "") -> bytes:
        """What a consumer gets; whatever it had before is gone, so that it fetches indeed."""
        for path in self.consumer.glob("azaion*"):
            path.unlink()
        done = self.server.ctl(
            "fetch", "--json", "--output", str(self.consumer), *arguments, AZAION_FAILPOINTS=failpoints
        )
        assert done.returncode == 0, done.stderr
        return Path(json.loads(done.stdout)["path"]).read_bytes()


def stands_still(pid: int) -> bool:
    """Whether a process has stopped at a failpoint."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
