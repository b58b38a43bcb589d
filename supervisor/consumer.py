"""The annotation consumer: its process, what it says of itself, and what people decide for it."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from azaion import files
from azaion.annotations import offset as offsets
from azaion.annotations.errors import AnnotationError
from azaion.config import Config, Source
from supervisor.errors import SupervisorError
from supervisor.services import Service, ServiceSpec

#: How often it is looked whether the consumer has something new to say.
WATCH_S: Final = 1.0
#: Stands for the state of its process where another azaiond on the same data has the consumer.
ELSEWHERE: Final = "elsewhere"
#: So long a decision's effect is waited for.
_DECIDED_S: Final = 20.0
_LOOK_S: Final = 0.05
_ENVIRONMENT: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "CREDENTIALS_DIRECTORY",
    "RABBITMQ_PASSWORD",
    "AZAION_FAILPOINTS",
)


class ConsumerError(SupervisorError):
    """What was asked of the consumer cannot be done now."""


class ConsumerRoom:
    """The one consumer.

    Args:
        settings: the configuration.
        note: takes an event, its kind and its text, and as ``actor`` who has asked for it.
    """

    def __init__(self, settings: Config, note: Callable[..., None]) -> None:
        self._layout = settings.layout
        self.elsewhere = settings.daemon.source is Source.NONE
        self._note = note
        self._told: tuple[str, str] | None = None
        self._quarantined = 0
        self.service = Service(
            ServiceSpec(
                name="consumer",
                argv=[
                    sys.executable,
                    "-P",
                    "-m",
                    "workers.consumer",
                    "--parent-pipe",
                    "--config",
                    str(self._layout.config),
                ],
                log=self._layout.consumer_log,
                environment=_ENVIRONMENT,
            ),
            note,
        )

    async def run(self) -> None:
        """Keep the consumer alive, and make events of what it says; on cancellation stop it with grace."""
        if self.elsewhere:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.service.run())
            tasks.create_task(self._watch())

    def status(self) -> dict[str, Any]:
        """What the consumer says of itself, and how its process is."""
        if self.elsewhere:
            return {"service": ELSEWHERE, "pid": None, "restarts": 0, "offset": self.offset()}
        try:
            told = files.read_json(self._layout.consumer_status)
        except (OSError, files.FileError):
            told = {}
        if told.get("pid") != self.service.pid:
            # A predecessor's words; where it was still counts.
            told = {name: told[name] for name in ("source", "incarnation", "offset", "quarantined") if name in told}
        return {
            **told,
            "service": str(self.service.state),
            "pid": self.service.pid,
            "restarts": self.service.restarts,
        }

    def offset(self) -> int | None:
        """The offset on disk; None if there is none, or none that can be read."""
        try:
            position = offsets.read(self._layout.offset)
        except (OSError, AnnotationError):
            return None
        return None if position is None else position.offset

    async def resume(self, choice: str | int, by: str) -> dict[str, Any]:
        """Have a blocked consumer go on; returns its status afterwards.

        Args:
            choice: ``first``, ``stored``, ``next`` or an offset.
            by: who decided.

        Raises:
            ConsumerError: the consumer is not blocked, or cannot go on from there.
        """
        status = self.status()
        if not status.get("undecided"):
            state = status.get("state", status["service"])
            raise ConsumerError(f"the consumer waits for no decision: it is {state}")
        position = None if status["incarnation"] is None else [status["incarnation"], status["offset"]]
        request = {"from": choice, "position": position, "by": by, "time": time.time()}
        await asyncio.to_thread(files.write_json, self._layout.consumer_request, request)
        self._note("consumer-resume", f"{by}: from {choice}, was at {status['offset']}", actor=by)
        try:
            async with asyncio.timeout(_DECIDED_S):
                while _modified(self._layout.consumer_request) is not None:  # noqa: ASYNC110 - another process removes it
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise ConsumerError(
                f"the consumer has not taken the decision up within {_DECIDED_S:g} s; it will as soon as it can"
            ) from None
        after = self.status()
        if after.get("undecided") and after.get("refused") != status.get("refused"):
            raise ConsumerError(f"the consumer is still blocked: {after['last_error']}")
        return after

    def _alert(self, quarantined: int) -> None:
        """An event when there is something in quarantine for the first time, and whenever it is ten times as much."""
        grown = len(str(quarantined)) if quarantined else 0
        if grown > self._quarantined:
            self._note("quarantined", f"{quarantined} messages are in quarantine; look: azaionctl quarantine list")
        self._quarantined = grown

    async def _watch(self) -> None:
        seen = None
        while True:
            if (now := _modified(self._layout.consumer_status)) != seen:
                seen = now
                self._tell(self.status())
            await asyncio.sleep(WATCH_S)

    def _tell(self, status: dict[str, Any]) -> None:
        if "state" not in status:
            return
        state, error = str(status["state"]), str(status.get("last_error") or "")
        # What it tells again and again of the same trouble is one event.
        told = (state, error if state == "blocked" else "")
        self._alert(int(status.get("quarantined") or 0))
        if told != self._told:
            self._told = told
            self._note(f"consumer-{state}", error or f"offset {status.get('offset')}")


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
