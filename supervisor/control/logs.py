"""What the control socket tells of the logs of jobs: what there is, and what comes, across attempts."""

import asyncio
import errno
import json
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from azaion import files
from azaion.layout import Layout
from supervisor.control import requests
from supervisor.control.protocol import stamp
from supervisor.jobs.model import TERMINAL, Attempt, Job, JobError
from supervisor.jobs.store import Store

#: How often the log of a run that someone follows is looked at.
FOLLOW_S: Final = 0.2
_CHUNK: Final = 1 << 16

Streaming = Callable[[web.Request, str], AbstractAsyncContextManager[web.StreamResponse]]


class LogRoutes:
    """``/v1/jobs/ID/log``: the log of an attempt as it is, or, with ``follow``, records for as long as the job goes on.

    A record is a line of JSON: ``attempt``, the ``offset`` behind it, and either ``log``, a piece of the log in which
    bytes that are no UTF-8 are lone surrogates, or ``note``, what has happened. The first one, with an empty ``log``,
    comes at once. Who is cut off goes on at the last of them.

    Args:
        layout: where the logs lie.
        store: the jobs.
        job: the one that a request is about.
        streaming: opens an answer that comes piece by piece.
    """

    def __init__(
        self, layout: Layout, store: Store, *, job: Callable[[web.Request], Job], streaming: Streaming
    ) -> None:
        self._layout = layout
        self._store = store
        self._job = job
        self._streaming = streaming

    def routes(self) -> list[web.RouteDef]:
        """What there is to ask for."""
        return [web.get("/v1/jobs/{id}/log", self._read)]

    async def _read(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request)
        attempts = self._store.attempts(job.id)
        number = int(requests.number(request.query, "attempt", attempts[-1].number if attempts else 1))
        position = max(0, int(requests.number(request.query, "offset", 0)))
        if "attempt" in request.query and not any(attempt.number == number for attempt in attempts):
            known = ", ".join(str(attempt.number) for attempt in attempts) or "none yet"
            raise JobError(f"job {job.id} has no attempt {number}; it has had {known}")
        gone = self._store.removals(job.id).get("attempts")
        if gone is not None and not self._layout.job(job.id, job.uid).attempt(number).path.exists():
            raise JobError(
                f"the logs of job {job.id} were removed by retention at {stamp(gone.time)}: {gone.rule}; "
                f"`azaionctl show {job.id}` has its record"
            )
        if "follow" in request.query:
            return await self._follow(request, job, number, position)
        async with self._streaming(request, "application/octet-stream") as response:
            while (piece := await asyncio.to_thread(read_at, self._path(job, number), position))[0]:
                data, position = piece
                await response.write(data)
        return response

    async def _follow(self, request: web.Request, job: Job, number: int, position: int) -> web.StreamResponse:
        told = False
        async with self._streaming(request, "application/x-ndjson") as response:
            await response.write(_record(number, position, log=""))
            while True:
                # The state is read before the log: what is written before the end is seen after it.
                job, attempts = self._store.get(job.id), self._store.attempts(job.id)
                attempt = next((each for each in attempts if each.number == number), None)
                while (piece := await asyncio.to_thread(read_at, self._path(job, number), position))[0]:
                    data, position = piece
                    await response.write(_record(number, position, log=data.decode(errors="surrogateescape")))
                # Not always the next number: a restored database skips those whose folders are there.
                later = [each.number for each in attempts if each.number > number]
                if job.state in TERMINAL and not later:
                    return response
                over = attempt is None or attempt.ended is not None
                if attempt is not None and over and not told:
                    told = True
                    await response.write(_record(number, position, note=_end(attempt, job, last=not later)))
                if over and later:
                    number, position, told = later[0], 0, False
                    await response.write(_record(number, position, note=f"attempt {number} begins"))
                else:
                    await asyncio.sleep(FOLLOW_S)

    def _path(self, job: Job, number: int) -> Path:
        return self._layout.job(job.id, job.uid).attempt(number).log


def read_at(path: Path, position: int) -> tuple[bytes, int]:
    """What a log holds from a position on, and the position after it. What has been cut out of it is named instead."""
    try:
        # Never a pipe that would hold the thread for ever: the folder is the run's to write in.
        with files.opened(path) as stream:
            start = _seek(stream.fileno(), position, os.SEEK_DATA)
            end = _seek(stream.fileno(), start, os.SEEK_HOLE)
            note = f"[azaion: {start - position} bytes are not kept here any more]\n" if start > position else ""
            stream.seek(start)
            data = stream.read(min(_CHUNK, end - start))
            return ("\n" if note and position else "").encode() + note.encode() + data, start + len(data)
    except (OSError, files.FileError):
        return b"", position


def _seek(descriptor: int, position: int, what: int) -> int:
    """The first position from here on at which a file holds something, or nothing any more; else its end."""
    try:
        return os.lseek(descriptor, position, what)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return max(position, os.fstat(descriptor).st_size)


def _record(attempt: int, offset: int, **told: Any) -> bytes:
    return json.dumps({"attempt": attempt, "offset": offset, **told}).encode() + b"\n"


def _end(attempt: Attempt, job: Job, *, last: bool) -> str:
    why = f": {job.reason}" if last and job.reason else ""
    return f"attempt {attempt.number} has ended ({attempt.cause or 'succeeded'}){why}"
