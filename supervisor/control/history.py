"""What the control socket tells of the past: the machine's last hours, a job's epochs, the end of its log."""

import asyncio
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web

from azaion import files
from azaion.layout import Layout
from supervisor.control import requests
from supervisor.history import INTERVAL_S, HistoryRoom
from supervisor.jobs.model import Job
from supervisor.jobs.store import Store
from supervisor.jobs.tail import tail

#: More points than these no terminal shows; a long run is told in every second, third... epoch.
_POINTS: Final = 500
#: A run writes its own figures: it may not fill the daemon's memory with them.
_METRICS_BYTES: Final = 4 << 20
_NAMES: Final = 64
_LINES: Final = 200

_Name = Annotated[str, msgspec.Meta(max_length=64)]


class _Epoch(msgspec.Struct):
    """A line of ``metrics.jsonl``, as far as it is of use here."""

    epoch: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    metrics: dict[_Name, float] = {}


class HistoryRoutes:
    """The routes ``/v1/history``, ``/v1/jobs/ID/curves`` and ``/v1/jobs/ID/tail``.

    Args:
        layout: where the attempts lie.
        store: knows them.
        history: has the samples.
        job: the job that a request names.
    """

    def __init__(
        self, layout: Layout, store: Store, history: HistoryRoom, *, job: Callable[[web.Request], Job]
    ) -> None:
        self._layout = layout
        self._store = store
        self._history = history
        self._job = job

    def routes(self) -> list[web.RouteDef]:
        """What there is to ask for."""
        return [
            web.get("/v1/history", self._samples),
            web.get("/v1/jobs/{id}/curves", self._curves),
            web.get("/v1/jobs/{id}/tail", self._tail),
        ]

    async def _samples(self, request: web.Request) -> web.Response:
        found = self._history.since(requests.number(request.query, "since", 0))
        return web.json_response({"interval_s": INTERVAL_S, "times": found.moments, "series": found.series})

    async def _curves(self, request: web.Request) -> web.Response:
        job = self._job(request)
        folder = self._layout.job(job.id, job.uid)
        paths = [folder.attempt(attempt.number).metrics for attempt in self._store.attempts(job.id)]
        return web.json_response(await asyncio.to_thread(_read_curves, paths))

    async def _tail(self, request: web.Request) -> web.Response:
        job = self._job(request)
        count = max(1, min(_LINES, int(requests.number(request.query, "lines", _LINES))))
        attempts = self._store.attempts(job.id)
        if not attempts:
            return web.json_response({"attempt": None, "lines": []})
        number = attempts[-1].number
        folder = self._layout.job(job.id, job.uid).attempt(number)
        return web.json_response({"attempt": number, "lines": await asyncio.to_thread(tail, folder, count)})


def _read_curves(paths: Iterable[Path]) -> dict[str, Any]:
    return curves(_last_bytes(path, _METRICS_BYTES) for path in paths)


def curves(attempts: Iterable[bytes]) -> dict[str, Any]:
    """The figures of every epoch, by name, of what each attempt has written, the first one first.

    An epoch that a later attempt has done again counts as that one has told it. What cannot be read is left out.
    """
    told: dict[int, dict[str, float]] = {}
    decoder = msgspec.json.Decoder(_Epoch)
    for written in attempts:
        for line in written.splitlines():
            try:
                epoch = decoder.decode(line)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                continue
            told[epoch.epoch] = epoch.metrics
    epochs = thinned(sorted(told), _POINTS)
    names = list(dict.fromkeys(name for epoch in epochs for name in told[epoch]))[:_NAMES]
    return {"epochs": epochs, "metrics": {name: [_finite(told[epoch].get(name)) for epoch in epochs] for name in names}}


def thinned(numbers: Sequence[int], most: int) -> list[int]:
    """Every second, third... of them, so that at most ``most`` are left; always with the last one."""
    step = math.ceil(len(numbers) / most) or 1
    return list(numbers[::-1][::step][::-1])


def _last_bytes(path: Path, count: int) -> bytes:
    """The last bytes of a file; none if there is no such file. It is the run's to write: a pipe is no file."""
    try:
        with files.opened(path) as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - count))
            return stream.read(count)
    except (OSError, files.FileError):
        return b""


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
