"""A server of its own: a real systemd as process 1 of private namespaces, with the product's units installed.

It needs root and a systemd that is installed; it need not run this machine. What is limited is limited by the control
groups that the machine has: version 1 or 2.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from azaion.layout import AttemptFolder, Layout
from supervisor.control.client import Client, ClientError
from tests.waiting import until

CODE: Final = Path(__file__).parents[2]
_GROUPS: Final = Path("/sys/fs/cgroup")
_ENVIRONMENT: Final = {
    "PATH": "/opt/azaion/current/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_COLORS": "0",
}
ENDED: Final = ("succeeded", "failed", "cancelled")
SETTINGS: Final = {
    "AZAION_ROOT_DIR": "/azaion",
    "AZAION_DATA_DIR": "data",
    "AZAION_DATA_SEED_DIR": "data-seed",
    "AZAION_DATA_DELETED_DIR": "data_deleted",
    "AZAION_SOURCE": "spool",
    "AZAION_LAUNCHER": "systemd",
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
}


def lacking() -> str:
    """What this machine lacks for a server of its own, in words; empty if nothing."""
    if os.geteuid() != 0:
        return "needs root (namespaces, mounts): sudo -E make test"
    missing = [name for name in ("unshare", "nsenter", "setpriv", "systemd-sysusers", "ip") if not shutil.which(name)]
    if missing or not Path("/lib/systemd/systemd").exists():
        return f"needs systemd and util-linux: {', '.join(missing) or '/lib/systemd/systemd'} is absent"
    if not Path("/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service").exists():
        return "needs polkit: apt-get install polkitd"
    controllers = _GROUPS / "cgroup.subtree_control"
    if controllers.exists() and not {"memory", "cpu"} <= set(controllers.read_text(encoding="ascii").split()):
        return f"needs control groups with limits: {controllers} lacks memory and cpu"
    spaces = ["unshare", "--mount", "--pid", "--fork", "--cgroup", "true"]
    tried = subprocess.run(spaces, capture_output=True, check=False)
    return "" if tried.returncode == 0 else f"needs namespaces: {tried.stderr.decode().strip()}"


class Machine:
    """One server. It is booted, killed as by a power cut, and booted again; its disks stay.

    Attributes:
        client: calls of its daemon.
        bare: whether nothing is installed on it; then the tests' environment and code lie in ``/opt``.
        base: the root of another system, which it has in the place of this machine's, and then nothing of ours.
    """

    def __init__(self, folder: Path, *, bare: bool = False, base: Path | None = None) -> None:
        self.folder = folder
        self.bare = bare or base is not None
        self.base = base
        self.root = folder / "root"
        self.root.mkdir()
        # What protects the kernel's tunables shows the kernel's own boot id again, which knows nothing of our boots.
        for unit in ("azaion.service", "azaion-train@.service", "azaion-publish@.service"):
            (folder / "drop-ins" / f"{unit}.d").mkdir(parents=True)
            (folder / "drop-ins" / f"{unit}.d" / "boot.conf").write_text(
                "[Service]\nBindReadOnlyPaths=/run/boot_id:/proc/sys/kernel/random/boot_id\n", encoding="utf-8"
            )
        (self.root / "classes.json").write_text('[{"Id": 0, "Name": "disc"}, {"Id": 1, "Name": "square"}]')
        (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in SETTINGS.items()), encoding="utf-8")
        self.layout = Layout(root=self.root, state=folder / "state", spool=folder, socket=folder)
        self._outside: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._groups: list[Path] = []

    @property
    def client(self) -> Client:
        return Client(self.path("/run/azaion/control.sock"))

    def path(self, inside: str) -> Path:
        """A file of the server's, as this process sees it."""
        return Path(f"/proc/{self._pid}/root", inside.removeprefix("/"))

    # On and off.

    def boot(self) -> None:
        """Switch it on, and wait until its daemon serves."""
        (self.folder / "console.log").write_bytes(b"")
        hierarchy = "unified" if (_GROUPS / "cgroup.controllers").exists() else "mixed"
        self._groups = list(_make_groups(f"azaion-test-{self.folder.name}"))
        enter = 'groups=$1; shift; for each in $groups; do echo $$ >"$each/cgroup.procs"; done; exec "$@"'
        boot = ["bash", str(CODE / "tests/systemd/boot.sh"), str(self.folder), hierarchy, sys.prefix, str(CODE)]
        boot += ["bare"] if self.bare else []
        boot += [str(self.base)] if self.base is not None else []
        spaces = ["--mount", "--pid", "--fork", "--kill-child=KILL", "--uts", "--ipc", "--net", "--cgroup"]
        with (self.folder / "console.log").open("ab") as console:
            self._outside = subprocess.Popen(
                [*("bash", "-c", enter, "-", " ".join(map(str, self._groups))), "unshare", *spaces, *boot],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self._pid = until(self._first, "there is a process 1", 10)
        for group in self._groups:
            # Else systemd would see a stranger in its root.
            (group.parent / "cgroup.procs").write_text(str(self._outside.pid), encoding="ascii")
        until(self._up, "systemd is up and the daemon serves", 60)

    def _first(self) -> int:
        assert self._outside is not None
        assert self._outside.poll() is None, self.console()
        number = self._outside.pid
        with suppress(FileNotFoundError, ValueError, IndexError):
            child = int(Path(f"/proc/{number}/task/{number}/children").read_text(encoding="ascii").split()[0])
            status = Path(f"/proc/{child}/status").read_text(encoding="utf-8")
            inside = next(line for line in status.splitlines() if line.startswith("NSpid")).split()[-1]
            ours, its = Path("/proc/self/ns/cgroup").readlink(), Path(f"/proc/{child}/ns/cgroup").readlink()
            return child if inside == "1" and ours != its else 0
        return 0

    def _up(self) -> bool:
        assert self._outside is not None
        assert self._outside.poll() is None, self.console()
        done = self.run("systemctl", "is-system-running", check=False).stdout.strip() in {"running", "degraded"}
        return done and (self.bare or self.show("ActiveState") == "active")

    def cut_power(self) -> None:
        """Switch it off from one moment to the next; its disks stay."""
        if self._outside is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._outside.wait()
        self._outside = None
        self._remove_groups()

    def shut_down(self) -> None:
        """Switch it off as a person would: systemd stops everything first."""
        assert self._outside is not None
        self.run("systemctl", "--no-block", "poweroff", check=False)
        self._outside.wait(timeout=120)
        self._outside = None
        self._remove_groups()

    def _remove_groups(self) -> None:
        def gone() -> bool:
            for group in self._groups:
                for each in sorted(group.rglob("**/"), reverse=True):
                    with suppress(OSError):
                        each.rmdir()
            return not any(group.exists() for group in self._groups)

        until(gone, "nothing is left in its control groups")

    # In it.

    def run(
        self, *argv: str, check: bool = True, user: str = "root", limit_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        enter = ["nsenter", "-t", str(self._pid), "-m", "-u", "-i", "-n", "-C", "-p", "-r", "-w"]
        become = [] if user == "root" else ["runuser", "-u", user, "--"]
        done = subprocess.run(
            [*enter, "env", "-i", *(f"{name}={value}" for name, value in _ENVIRONMENT.items()), *become, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{argv}: {done.stdout}{done.stderr}"
        return done

    def systemctl(self, *arguments: str) -> str:
        return self.run("systemctl", *arguments).stdout

    def show(self, what: str, unit: str = "azaion.service") -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--property", what, "--value", unit).stdout.strip()

    def journal(self, unit: str = "azaion.service") -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit, check=False).stdout

    def console(self) -> str:
        return (self.folder / "console.log").read_text(encoding="utf-8", errors="replace")

    # Its daemon.

    def drop_in(self, unit: str, text: str) -> None:
        """Change a unit until the next boot."""
        folder = self.path(f"/run/systemd/system/{unit}.d")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test.conf").write_text(text, encoding="utf-8")
        self.systemctl("daemon-reload")

    def settle(self) -> None:
        """Have the daemon run as its unit says, whatever was done to it."""
        if self.path("/run/systemd/system/azaion.service.d").exists():
            shutil.rmtree(self.path("/run/systemd/system/azaion.service.d"))
            self.systemctl("daemon-reload")
            self.systemctl("stop", "azaion.service")
        # How often it was started counts from here again.
        self.systemctl("reset-failed")
        self.systemctl("start", "azaion.socket", "azaion.service")
        for job in self.client.get("/v1/jobs"):
            if job["state"] not in ENDED:
                self.client.post(f"/v1/jobs/{job['id']}/cancel", query={"now": 1})
                self.wait(job["id"])

    @property
    def _unified(self) -> str:
        """Where version 2 is: a folder of its own beside version 1, or all there is."""
        return "unified" if self.path("/sys/fs/cgroup/unified").exists() else ""

    def group(self, controller: str, unit: str) -> str:
        """The control group of a unit in the hierarchy of a controller, as it is called inside; "" is systemd's own."""
        lines = self.run("cat", f"/proc/{self.show('MainPID', unit)}/cgroup").stdout.splitlines()
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                return f"/sys/fs/cgroup/{controllers or self._unified}{path}"
        return f"/sys/fs/cgroup{lines[-1].split(':', 2)[2]}"

    def limit(self, controller: str, unit: str) -> float:
        """What the kernel holds a unit to: bytes of memory, or processors."""
        group = self.path(self.group(controller, unit))
        old, new = {
            "memory": ("memory.limit_in_bytes", "memory.max"),
            "cpu": ("cpu.cfs_quota_us", "cpu.max"),
        }[controller]
        told = (group / (old if (group / old).exists() else new)).read_text(encoding="ascii").split()
        return float(told[0]) if controller == "memory" else float(told[0]) / 100_000

    def submit(self, script: str, **more: Any) -> int:
        """File a shell script as a command job without a device."""
        body = {"kind": "command", "argv": ["sh", "-c", script], "cwd": "/var/lib/azaion", "env": {}, "devices": 0}
        number: int = self.client.post("/v1/jobs", body | more)["id"]
        return number

    def job(self, number: int) -> dict[str, Any]:
        record: dict[str, Any] = self.client.get(f"/v1/jobs/{number}")
        return record

    def wait(self, number: int, *states: str, limit_s: float = 60.0) -> dict[str, Any]:
        """Wait until a job is in one of these states (in a terminal one by default)."""
        wanted = states or ENDED

        def look() -> dict[str, Any] | None:
            with suppress(ClientError):
                record = self.job(number)
                return record if record["state"] in wanted else None
            return None

        try:
            found = until(look, f"job {number} is {' or '.join(wanted)}", limit_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.journal()}") from None
        assert found is not None
        return found

    def attempt(self, number: int, attempt: int = 1) -> AttemptFolder:
        (folder,) = self.layout.jobs.glob(f"{number}-*")
        return AttemptFolder(path=folder / str(attempt))

    def unit(self, number: int, attempt: int = 1) -> str:
        """The unit of an attempt of a job."""
        folder = self.attempt(number, attempt).path
        return f"azaion-train@{folder.parent.name}-{folder.name}.service"

    def processes(self, number: int) -> dict[str, Any]:
        """The shim and the leader of a job's first attempt: PIDs and start times."""
        state = json.loads(self.attempt(number).state.read_bytes())
        return {who: state[who] for who in ("shim", "child")}


def _make_groups(name: str) -> Iterator[Path]:
    """One control group in each hierarchy of the machine's, for the server to have as its root."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        mount = _GROUPS / (controllers.removeprefix("name=") or "unified")
        if not controllers and not mount.exists():
            # Version 2 alone: only at the root of what we see can a group be made that has controllers.
            mount, path = _GROUPS, "/"
        parent = mount / path.strip("/")
        if not (parent / "cgroup.procs").exists():
            continue
        group = parent / name
        group.mkdir(exist_ok=True)
        if controllers == "cpuset":
            for setting in ("cpuset.cpus", "cpuset.mems"):
                (group / setting).write_text((parent / setting).read_text(encoding="ascii"), encoding="ascii")
        yield group


@contextmanager
def machine(*, bare: bool = False, base: Path | None = None) -> Iterator[Machine]:
    """A server that is switched on, and taken away afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="az-"))
    made = Machine(folder, bare=bare, base=base)
    try:
        made.boot()
        yield made
    finally:
        made.cut_power()
        shutil.rmtree(folder, ignore_errors=True)
