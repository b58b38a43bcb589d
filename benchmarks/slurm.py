"""Slurm on this machine alone, out of a folder: munged, slurmctld and slurmd, as the distribution builds them.

The configuration is that of its documentation, with what one node without cgroups of its own needs. Nothing of it is
installed, and nothing is left of it.
"""

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from benchmarks.queues import Queue
from tests.waiting import until

_CONFIGURATION: Final = """\
ClusterName=benchmark
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# Beside one another, as with the others, however few processors there are.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 RealMemory=1000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:64
"""


class Slurm(Queue):
    """slurmctld with one node."""

    name = "Slurm"

    def __init__(self, folder: Path, unpacked: Path) -> None:
        self.folder = folder
        self._host = socket.gethostname().partition(".")[0]
        self._programs, self._servers = unpacked / "usr" / "bin", unpacked / "usr" / "sbin"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        (libraries,) = unpacked.glob("usr/lib/*/slurm-wlm")
        self._search = f"{libraries.parent}:{libraries}:{unpacked / 'lib' / libraries.parent.name}"
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        controller, node = _free_port(), _free_port()
        (folder / "slurm.conf").write_text(
            _CONFIGURATION.format(
                host=self._host,
                controller=controller,
                node=node,
                user=getpass.getuser(),
                folder=folder,
                plugins=libraries,
            ),
            encoding="utf-8",
        )
        places = [f"--{what}-file={folder}/munge.{what}" for what in ("pid", "log", "seed")]
        self._start(
            "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}", *places
        )
        until((folder / "munge.socket").exists, "munged listens")
        self._begin()

    def launch(self) -> None:
        """Start both daemons, also again after their death."""
        self._start("slurmctld-wlm", "-D")
        stepd = str(self._servers / "slurmstepd-wlm")
        self._start("slurmd-wlm", "-D", "-d", stepd, "-N", self._host)
        until(lambda: "is UP" in self._told("scontrol", "ping"), "slurmctld answers")

    def begin_anew(self) -> None:
        """Forget all jobs: who finds one that it has forgotten drains the node, and gives its number to another."""
        self.kill()
        self._kill_steps()
        for name in ("state", "spool"):
            shutil.rmtree(self.folder / name)
        self._begin()

    def _begin(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        self.launch()
        until(lambda: " idle " in self._told("sinfo", "--noheader"), "the node is there")

    def kill(self) -> None:
        """SIGKILL both."""
        for name in ("slurmctld-wlm", "slurmd-wlm"):
            self._daemons[name].kill()
            self._daemons[name].wait()

    def end(self) -> None:
        """End it, and what it runs."""
        with suppress(subprocess.SubprocessError):
            self._told("scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}")
        for daemon in reversed(self._daemons.values()):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(20)
        self._kill_steps()

    @property
    def pid(self) -> int:
        return self._daemons["slurmctld-wlm"].pid

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": f"{self.folder}/slurm.conf", "LD_LIBRARY_PATH": self._search}

    def submit(self, argv: list[str], *, behind: bool = False) -> list[str]:
        del behind
        return [str(self._programs / "sbatch"), "--parsable", "--output=none", f"--wrap={shlex.join(argv)}"]

    def status(self) -> list[str]:
        return [str(self._programs / "squeue")]

    def show(self, job: str) -> list[str]:
        """The command that tells all of a job."""
        return [str(self._programs / "scontrol"), "show", "job", "--oneliner", job]

    def block(self) -> None:
        raise NotImplementedError

    def _kill_steps(self) -> None:
        # A step that cannot tell the others of its end tries for minutes.
        for pid in self._steps():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _steps(self) -> Iterator[int]:
        """The processes that hold its jobs."""
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                ours = f"SLURM_CONF={self.folder}/slurm.conf".encode() in (command.parent / "environ").read_bytes()
                if ours and command.read_bytes().startswith(b"slurmstepd"):
                    yield int(command.parent.name)

    def _start(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.out").open("ab") as out:
            self._daemons[program] = subprocess.Popen(
                [str(self._servers / program), *arguments],
                env=self.environment,
                stdout=out,
                stderr=out,
                cwd=self.folder,
            )

    def _told(self, program: str, *arguments: str) -> str:
        argv = [str(self._programs / program), *arguments]
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout


def unpacked(folder: Path) -> Path | None:
    """Where it has been unpacked, if it has."""
    return folder if shutil.which("slurmctld-wlm", path=str(folder / "usr" / "sbin")) else None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
