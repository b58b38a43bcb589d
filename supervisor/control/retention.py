"""What the control socket says of retention."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

from aiohttp import web

from azaion import models
from azaion.config import Config
from azaion.settings import VARIABLES
from supervisor.control.protocol import stamp
from supervisor.jobs.events import Actor
from supervisor.jobs.retention import DATASET_COUNT, EVENT_COUNT, Kind, Thing, Verdict
from supervisor.jobs.store import Store
from supervisor.retention import RetentionRoom, Tally, summary


class RetentionRoutes:
    """The part of the control socket below ``/v1/retention``.

    Args:
        config: the configuration.
        store: the jobs and the events.
        room: who removes.
        who: the caller of a request.
    """

    def __init__(self, config: Config, store: Store, room: RetentionRoom, who: Callable[[web.Request], Actor]) -> None:
        self._config = config
        self._store = store
        self._room = room
        self._who = who
        self._one = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """What there is to ask for."""
        return [web.get("/v1/retention", self._look), web.post("/v1/retention/run", self._run)]

    async def _look(self, _request: web.Request) -> web.Response:
        # Everything is measured: once at a time is enough, however many ask.
        async with self._one:
            found = await self._room.look()
            known = {f"{number}-{uid}" for number, uid in self._store.known()}
            others = await asyncio.to_thread(self._others, known)
        last = self._room.last
        return web.json_response(
            {
                "rules": self._rules(),
                "there": [*_there(found.tally), *others, self._events()],
                "due": [_record(thing, verdict) for thing, verdict in found.due],
                "referred": [_record(thing, verdict) for thing, verdict in found.referred],
                "free": {str(path): free for path, free in self._room.free().items()},
                "last": None if last is None else {**asdict(last), "time": stamp(last.time)},
                "stuck": self._room.stuck,
            }
        )

    async def _run(self, request: web.Request) -> web.Response:
        actor = self._who(request)
        done = await self._room.remove(actor)
        if not actor.recorded:
            self._store.note("retention", f"asked for by hand; removed {len(done.things)}", actor=actor)
        return web.json_response(summary(done))

    def _rules(self) -> list[dict[str, Any]]:
        known = {variable.key: variable for variable in VARIABLES if variable.section == "retention"}
        given = self._config.retention
        rules: list[dict[str, Any]] = [
            {"name": known[item.name].name, "value": getattr(given, item.name), "text": known[item.name].doc}
            for item in fields(given)
        ]
        fixed = (
            (DATASET_COUNT, "So many of the newest datasets are kept, however old they are."),
            (EVENT_COUNT, "So many of the newest events are kept at the most."),
        )
        return rules + [{"name": None, "value": value, "text": text} for value, text in fixed]

    def _others(self, known: set[str]) -> list[dict[str, Any]]:
        """What is never removed by itself, and the trash."""
        layout, size_of = self._config.layout, self._room.size_of
        registered = models.load_all(layout)
        strange = [path for path in layout.jobs.iterdir() if path.name not in known and not path.name.startswith(".")]
        trash = [layout.trash(folder) for folder in layout.prunable]
        never = "never removed by itself"
        return [
            _row("models", len(registered), size_of(layout.models), never),
            _row("spool", None, size_of(layout.spool), f"{never}: it is the only copy of its messages"),
            _row("quarantine", None, size_of(layout.quarantine), "bounded; azaionctl quarantine drop"),
            _row("database", None, sum(map(size_of, layout.database_files)), "its events are"),
            _row("unknown job folders", len(strange), sum(map(size_of, strange)), f"{never}: no such job is known"),
            _row("trash", None, sum(map(size_of, trash)), "being deleted"),
        ]

    def _events(self) -> dict[str, Any]:
        return _row("events", self._store.count_events(), None, "")


def _there(tally: Mapping[Kind, Tally]) -> list[dict[str, Any]]:
    names = {
        Kind.RUN: ("runs", ""),
        Kind.JOB: ("folders of ended jobs", "their runs and logs count here too"),
        Kind.DATASET: ("datasets", ""),
        Kind.CORRUPTED: ("corrupted annotations", ""),
        Kind.LOG: ("logs", ""),
    }
    return [_row(name, tally[kind].count, tally[kind].size, note) for kind, (name, note) in names.items()]


def _row(name: str, count: int | None, size: int | None, note: str) -> dict[str, Any]:
    return {"name": name, "count": count, "bytes": size, "note": note}


def _record(thing: Thing, verdict: Verdict) -> dict[str, Any]:
    return {
        "kind": str(thing.kind),
        "path": str(thing.path),
        "job": thing.job,
        "bytes": thing.size,
        "frees": thing.frees,
        "since": stamp(thing.since),
        "action": str(verdict.action),
        "reason": verdict.reason,
    }
