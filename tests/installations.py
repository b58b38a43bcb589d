"""A whole installation in a folder: configuration, daemon, command line; killed and started as a test likes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from azaion.config import VARIABLES
from azaion.layout import AttemptFolder, Layout
from supervisor import processes
from supervisor.control.client import Client, ClientError, UnreachableError
from supervisor.processes import Identity
from tests.waiting import until

CLASSES = '[{"Id": 0, "Name": "square"}, {"Id": 1, "Name": "disc"}]'


class Installation:
    """One server: its root, its state, its daemon."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.root = folder / "azaion"
        self.root.mkdir(exist_ok=True)
        self.layout = Layout(
            root=self.root,
            state=folder / "var",
            spool=folder / "var" / "spool",
            socket=folder / "var" / "control.sock",
        )
        self.layout.classes.write_text(CLASSES, encoding="utf-8")
        self.variables = {
            "AZAION_ROOT_DIR": str(self.root),
            "AZAION_DATA_DIR": "data",
            "AZAION_DATA_SEED_DIR": "data-seed",
            "AZAION_DATA_DELETED_DIR": "data_deleted",
            "AZAION_STATE_DIR": str(self.layout.state),
            "AZAION_SOCKET": str(self.layout.socket),
            "AZAION_SOURCE": "spool",
            "AZAION_PUBLISH_TARGET": "none",
            "AZAION_GPUS": "none",
            # A machine that is busy with tests is no reason not to start.
            "AZAION_FREE_RAM_MB": "64",
            "AZAION_FREE_DISK_MB": "64",
            "TRAINING_MODEL": "yolo26t.yaml",
            "TRAINING_EPOCHS": "3",
            "TRAINING_BATCH_SIZE": "4",
            "TRAINING_IMGSZ": "96",
            "TRAINING_SAVE_PERIOD": "1",
            "TRAINING_WORKERS": "0",
            "EXPORT_ONNX_IMGSZ": "96",
            **variables,
        }
        self.code = Path(__file__).parents[1]
        self.client = Client(self.layout.socket)
        self.daemon: subprocess.Popen[bytes] | None = None
        #: What the daemon alone gets.
        self.preloaded: dict[str, str] = {}

    def environment(self, **more: str) -> dict[str, str]:
        """Nothing of the tester's own settings reaches the installation."""
        ours = {variable.name for variable in VARIABLES}
        clean = {name: value for name, value in os.environ.items() if name not in ours}
        return clean | self.variables | more

    def launch(self, failpoints: str = "") -> subprocess.Popen[bytes]:
        """Start the daemon and do not wait for it."""
        with (self.folder / "azaiond.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "supervisor.daemon"],
                cwd=self.folder,
                env=self.environment(AZAION_FAILPOINTS=failpoints, PYTHONPATH=str(self.code), **self.preloaded),
                stderr=log,
                start_new_session=True,
            )
        return self.daemon

    def start(self, failpoints: str = "") -> Identity:
        """Start the daemon and wait until it answers."""
        daemon = self.launch(failpoints)
        until(lambda: self.answers() or daemon.poll() is not None, "the daemon answers")
        assert daemon.poll() is None, (self.folder / "azaiond.log").read_text(encoding="utf-8")
        who = processes.identify(daemon.pid)
        assert who is not None
        return who

    def answers(self) -> bool:
        try:
            self.client.get("/v1/jobs", {"limit": 0})
        except UnreachableError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL the daemon, as the kernel or a stranger would."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def stop(self) -> int:
        """SIGTERM the daemon; returns its exit code."""
        assert self.daemon is not None
        self.daemon.terminate()
        return self.daemon.wait(timeout=40)

    def ctl(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return subprocess.run(
            [sys.executable, "-m", "supervisor.ctl", *arguments],
            cwd=self.folder,
            env=self.environment(PYTHONPATH=str(self.code), **more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """Run a command that must succeed, and read what it prints."""
        done = self.ctl("--json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def submit(self, script: str, **more: Any) -> int:
        """File a shell script as a command job without a device."""
        body = {"kind": "command", "argv": ["sh", "-c", script], "cwd": str(self.folder), "env": {}, "devices": 0}
        number: int = self.client.post("/v1/jobs", body | more)["id"]
        return number

    def job(self, number: int) -> dict[str, Any]:
        record: dict[str, Any] = self.client.get(f"/v1/jobs/{number}")
        return record

    def wait(self, number: int, *states: str, limit_s: float = 60.0) -> dict[str, Any]:
        """Wait until a job is in one of these states (in a terminal one by default)."""
        wanted = states or ("succeeded", "failed", "cancelled")

        def look() -> dict[str, Any] | None:
            try:
                record = self.job(number)
            except ClientError:
                return None
            return record if record["state"] in wanted else None

        found = until(look, f"job {number} is {' or '.join(wanted)}", limit_s)
        assert found is not None
        return found

    def attempt(self, number: int, attempt: int = 1) -> AttemptFolder:
        (folder,) = self.layout.jobs.glob(f"{number}-*")
        return AttemptFolder(path=folder / str(attempt))

    def lose_power(self, number: int) -> dict[str, Any]:
        """Kill the daemon, the newest attempt's shim and all that it started; returns what the shim knew."""
        self.kill()
        folder = self.attempt(number, len(list(self.attempt(number).path.parent.glob("[0-9]*"))))
        state: dict[str, Any] = json.loads(folder.state.read_bytes())
        os.kill(state["shim"]["pid"], signal.SIGKILL)
        self._sweep(state["nonce"])
        return state

    def _sweep(self, nonce: str) -> None:
        while left := processes.carriers(nonce):
            for process in left:
                processes.send(process, signal.SIGKILL)

    def close(self) -> None:
        """End the daemon and everything that its attempts have left."""
        if self.daemon is not None and self.daemon.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        for spec in (*self.layout.jobs.glob("*/*/spec.json"), *self.layout.services.glob("*/*/spec.json")):
            self._sweep(json.loads(spec.read_bytes())["nonce"])


@contextmanager
def installation(**variables: str) -> Iterator[Installation]:
    """An installation in a folder with a short name (a socket's path is limited), removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="az-"))
    made = Installation(folder, **variables)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)
