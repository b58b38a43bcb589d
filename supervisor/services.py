"""Long-running children of the daemon: kept alive, restarted with backoff, stopped with grace."""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog

from supervisor.processes import expendable, finished

#: A child that lived this long is healthy again: its next death is its first.
HEALTHY_S: Final = 60.0
#: sysexits.h: what a child counts as having ended with that could not even be started.
EX_OSERR: Final = 71
#: A file of the configuration may only just be written anew. Whoever refuses again does so at once.
REFUSED_S: Final = 60.0
_PROVEN_S: Final = 10.0
#: The first death is answered at once; from the second on the pause doubles up to the cap.
BACKOFF_S: Final = 1.0
BACKOFF_CAP_S: Final = 60.0
#: So many deaths in a row are no accident any more: a person should look.
FAILING: Final = 5

_log = structlog.get_logger("azaion.services")


class ServiceState(StrEnum):
    """Where a service is."""

    STOPPED = "stopped"
    RUNNING = "running"
    WAITING = "waiting"  # for its backoff to end
    STOPPING = "stopping"
    REFUSED = "refused"  # it says that its configuration is wrong: tried again only now and then


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """A service to keep alive.

    Attributes:
        argv: what to run. Its standard input is a pipe that ends when the daemon dies.
        log: where its output goes.
        grace_s: how long it may take to end after SIGTERM.
        fatal: exit codes that a restart can hardly mend.
    """

    name: str
    argv: Sequence[str]
    log: Path
    environment: tuple[str, ...] = ()
    grace_s: float = 30.0
    fatal: frozenset[int] = frozenset({78})


class Service:
    """One child, kept alive for as long as `run` does."""

    def __init__(self, spec: ServiceSpec, changed: Callable[[str, str], None]) -> None:
        self._spec = spec
        self._changed = changed
        self.state = ServiceState.STOPPED
        self.pid: int | None = None
        self.restarts = 0
        self.since = time.time()

    async def run(self) -> None:
        """Start the child again and again; on cancellation stop it with grace."""
        deaths = 0
        while True:
            began = time.monotonic()
            try:
                code = await self._once()
            except OSError as error:
                _log.error("cannot start", service=self._spec.name, error=str(error))
                code = EX_OSERR
            deaths = 1 if time.monotonic() - began > HEALTHY_S else deaths + 1
            if code in self._spec.fatal:
                if self.state is not ServiceState.REFUSED:
                    self._become(ServiceState.REFUSED, f"ended with {code}; see {self._spec.log}")
                await asyncio.sleep(REFUSED_S)
                continue
            if deaths == FAILING:
                self._tell(
                    "failing", f"has ended {deaths} times in a row, the last time with {code}; see {self._spec.log}"
                )
            pause = 0.0 if deaths == 1 else min(BACKOFF_S * 2.0 ** min(deaths - 2, 16), BACKOFF_CAP_S)
            self._become(ServiceState.WAITING, f"ended with {code}; again in {pause:g} s")
            await asyncio.sleep(pause)
            self.restarts += 1

    async def _once(self) -> int:
        """Run the child until it ends; returns its exit code."""
        reading, writing = os.pipe()
        try:
            with os.fdopen(reading, "rb"), self._spec.log.open("ab") as log:
                process = subprocess.Popen(  # noqa: ASYNC220 - vfork and exec: a millisecond
                    self._spec.argv,
                    stdin=reading,
                    stdout=log,
                    stderr=log,
                    env={name: os.environ[name] for name in self._spec.environment if name in os.environ},
                )
            self.pid = process.pid
            expendable(process.pid)
            try:
                if self.state is ServiceState.REFUSED:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_PROVEN_S):
                            return await finished(process)
                self._become(ServiceState.RUNNING, f"pid {process.pid}")
                return await finished(process)
            except asyncio.CancelledError:
                await self._stop(process)
                raise
        finally:
            self.pid = None
            os.close(writing)

    async def _stop(self, process: subprocess.Popen[bytes]) -> None:
        self._become(ServiceState.STOPPING, "")
        process.terminate()
        try:
            async with asyncio.timeout(self._spec.grace_s):
                await finished(process)
        except TimeoutError:
            process.kill()
            await finished(process)
        self._become(ServiceState.STOPPED, "")

    def _become(self, state: ServiceState, text: str) -> None:
        self.state = state
        self.since = time.time()
        self._tell(str(state), text)

    def _tell(self, what: str, text: str) -> None:
        _log.info(what, service=self._spec.name, detail=text)
        self._changed(f"service-{what}", f"{self._spec.name}: {text}" if text else self._spec.name)
