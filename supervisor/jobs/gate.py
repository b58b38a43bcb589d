"""Where the preflight meets the machine: looks before each start, and minds how long jobs have lacked something."""

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import structlog

from azaion.layout import Layout, RunFolder
from supervisor import resources
from supervisor.gpus import Probe
from supervisor.jobs.model import Job, Kind
from supervisor.jobs.preflight import PATIENCE_S, Floors, Preflight
from supervisor.jobs.scheduler import CPU, Plan
from supervisor.resources import Inputs
from supervisor.units.way import Clear, Way, cleared

#: How often the machine is looked at again while a job lacks something.
AGAIN_S: Final = 10.0
#: How old what NVML has told may be when a job starts on it.
_FRESH_S: Final = 5.0
#: For so long a run counts with the memory that it has asked for, as it does not have it yet.
SETTLE_S: Final = 60.0
#: How often the images are counted where a dataset copies them.
_COUNT_S: Final = 600.0
#: So many jobs are told of at once.
_TOLD: Final = 20

_log = structlog.get_logger("azaion.jobs")


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Something that has kept jobs from starting for long.

    Attributes:
        since: the wall-clock time from which on.
        job: the one that waits; None if none may start.
    """

    since: float
    text: str
    job: int | None = None


class Gate:
    """Looks at the machine for the runner, and remembers since when jobs have lacked something.

    Args:
        layout: where everything lies.
        floors: what must be free at the least.
        probe: asks NVML.
        note: records an event: its type, its text, its job.
        clock: the monotonic clock.
        way: those who use the GPUs while no job does: what they have of them is there for a job.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        floors: Floors,
        probe: Probe,
        note: Callable[[str, str, int | None], None],
        clock: Callable[[], float] = time.monotonic,
        way: Way | None = None,
    ) -> None:
        self.floors = floors
        self.probe = probe
        self._layout = layout
        self._note = note
        self._clock = clock
        self._way = Clear() if way is None else way
        self._moved_at = 0.0
        self._since: dict[int, float] = {}
        self._told: set[int] = set()
        self._paused: Alert | None = None
        self._copied = 0
        self._counted_at = -math.inf

    @property
    def paused(self) -> bool:
        """Whether nothing at all may start."""
        return self._paused is not None

    async def count(self) -> None:
        """Count what forming a dataset would copy, now and then. Where it can link, nothing is counted."""
        if resources.links_nothing(self._layout) and self._clock() - self._counted_at >= _COUNT_S:
            self._copied = await asyncio.to_thread(resources.images_bytes, self._layout)
            self._counted_at = self._clock()

    def look(
        self,
        queued: Sequence[Job],
        *,
        owners: Mapping[str, int] = MappingProxyType({}),
        promised: int = 0,
        busy: bool = False,
    ) -> Preflight:
        """The machine as it is now, with what NVML has told last. Reads /proc and asks the filesystems, nothing else.

        Args:
            queued: jobs that wait.
            owners: nonce to the job whose attempt it is, of every run.
            promised: bytes of memory that were promised to runs which do not have them yet.
            busy: whether anything of ours runs.
        """
        now = self._clock()
        return Preflight(
            facts=resources.facts(self._layout, cleared(self.probe.known(self._moved_at, math.inf), self._way.nonces)),
            floors=self.floors,
            inputs=self._inputs(queued),
            owners=owners,
            waited={job: now - since for job, since in self._since.items()},
            promised=promised,
            busy=busy,
        )

    def moved(self) -> None:
        """Devices have been handed out or given back: what NVML has told before counts no more."""
        self._moved_at = self._clock()

    def knows(self, devices: Sequence[str]) -> bool:
        """Whether a job may start on these devices without NVML being asked again."""
        return set(devices) <= {CPU} or self.probe.known(self._moved_at, _FRESH_S) is not None

    def outdated(self, plan: Plan) -> bool:
        """Whether jobs wait for what a GPU has to give, and it is time to ask again."""
        return plan.unfit and self.probe.known(self._moved_at, AGAIN_S / 2) is None

    async def ask(self) -> None:
        """Ask NVML."""
        await self.probe.ask(self._moved_at, _FRESH_S)

    def mind(self, plan: Plan, asking: Sequence[int], pause: str, now: float) -> None:
        """Note since when which jobs have lacked something, and raise the alerts that are due.

        Args:
            plan: what came of the last look.
            asking: the jobs that start or lack something as soon as NVML has answered.
            pause: why nothing at all may start; empty if it may.
            now: the wall-clock time.
        """
        moment = self._clock()
        asked = [job for job in asking if job in self._since]
        self._since = {job: self._since.get(job, moment) for job in (*plan.lacking, *asked)}
        self._told &= self._since.keys()
        late = [job for job, since in self._since.items() if moment - since >= PATIENCE_S and job not in self._told]
        for job in [job for job in late if job in plan.waits][:_TOLD]:
            self._told.add(job)
            _log.warning("waits for long", job=job, reason=plan.waits[job])
            self._note("lacking", plan.waits[job], job)
        if pause and self._paused is None:
            _log.error("nothing starts", reason=pause)
            self._note("starts-paused", pause, None)
            self._paused = Alert(since=now, text=pause)
        elif pause and self._paused is not None:
            self._paused = replace(self._paused, text=pause)
        elif self._paused is not None:
            self._paused = None
            self._note("starts-resumed", "", None)

    def alerts(self, plan: Plan, now: float) -> list[Alert]:
        """What has kept jobs from starting for long, with the wall-clock time ``now``."""
        moment = self._clock()
        found = [] if self._paused is None else [self._paused]
        return (
            found
            + [
                Alert(since=now - (moment - since), text=plan.waits[job], job=job)
                for job, since in list(self._since.items())
                if moment - since >= PATIENCE_S and job in plan.waits
            ][:_TOLD]
        )

    def _inputs(self, queued: Sequence[Job]) -> dict[int, Inputs]:
        found: dict[int, Inputs] = {}
        known: dict[tuple[str, str | None], Inputs] = {}
        for job in queued:
            if job.kind is not Kind.TRAIN or "model" not in job.parameters:
                continue
            asked = (job.parameters["model"], job.parameters.get("dataset"))
            if asked not in known:
                made = resources.inputs(self._layout, *asked)
                known[asked] = replace(made, copied=0 if made.dataset else self._copied)
            # A run that has begun has its model and its images, and its checkpoints take each other's place.
            if not os.path.lexists(RunFolder(path=self._layout.job(job.id, job.uid).run).last):
                found[job.id] = known[asked]
        return found
