"""The room that files trainings by itself: looks how things stand, decides, and files."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from azaion.declarations.retrain import RetrainDeclaration
from azaion.errors import AzaionError
from azaion.layout import Layout
from supervisor.jobs.model import Job
from supervisor.jobs.schema import StoreError
from supervisor.jobs.store import Store
from supervisor.retraining import fresh
from supervisor.retraining.decision import Past, Standing, Verdict, decide, past_of

#: Seconds between two looks.
LOOK_S: Final = 10.0
#: Counting may take this share of the time: with a hundred thousand images it takes a tenth of a second.
_SHARE: Final = 0.0005
#: After a refusal it is tried again so much later, in seconds.
_AGAIN_S: Final = 600.0
_log = structlog.get_logger("azaion.retraining")


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What was counted, and of what."""

    stamp: int
    basis: str
    new: int


class RetrainRoom:
    """Files a training whenever the user's rule says so.

    Args:
        rule: the user's.
        store: the jobs.
        layout: where everything lies.
        file: files a training with these parameters, as a client would.
        look_s: seconds between two looks.
        clock: the wall clock.
    """

    def __init__(
        self,
        rule: RetrainDeclaration,
        *,
        store: Store,
        layout: Layout,
        file: Callable[[dict[str, Any]], Job],
        look_s: float = LOOK_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rule = rule
        self._store = store
        self._layout = layout
        self._file = file
        self._look_s = look_s
        self._clock = clock
        self._counted: Counted | None = None
        self._count_again = 0.0
        self._refused_until = 0.0
        self._problem = ""
        self._verdict: Verdict | None = None

    async def run(self) -> None:
        """Look, decide and file, for ever; not at all without a rule."""
        while self._rule.on:
            try:
                await self._count()
                self._look()
            except (StoreError, OSError) as error:
                _log.error("cannot look whether a training is due", error=str(error))
            await asyncio.sleep(self._look_s)

    def record(self) -> dict[str, Any] | None:
        """What ``status`` shows; None without a rule."""
        if not self._rule.on:
            return None
        text = self._verdict.text if self._verdict is not None else "has not been looked at yet"
        return {
            "text": self._problem or text,
            "new": self._counted.new if self._counted is not None else None,
            "annotations": self._rule.annotations,
            "cron": self._rule.cron,
        }

    async def _count(self) -> None:
        """Count what is new, if anything may have changed and it has not just been counted."""
        if time.monotonic() < self._count_again:
            return
        self._counted, cost = await asyncio.to_thread(self._fresh)
        self._count_again = time.monotonic() + cost / _SHARE

    def _fresh(self) -> tuple[Counted, float]:
        """What is new, and how many seconds of the processor it took to find out."""
        began = time.thread_time()
        stamp, basis = self._layout.data.images.stat().st_mtime_ns, fresh.basis(self._layout)
        found = self._counted
        if found is None or (found.stamp, found.basis) != (stamp, basis):
            found = Counted(stamp=stamp, basis=basis, new=fresh.count(self._layout, basis))
        return found, time.thread_time() - began

    def _look(self) -> None:
        now = self._clock()
        since = self._since(now)
        standing = Standing(
            basis=self._counted.basis if self._counted is not None else "",
            new=self._counted.new if self._counted is not None else None,
            past=past_of(self._store.newest_key("retrain ") or ""),
            obstacle=self._obstacle(),
            since=since,
        )
        verdict = self._verdict = decide(self._rule, standing, now)
        if self._rule.cron is not None and verdict.since != since:
            self._keep(verdict.since)
        if verdict.due and time.monotonic() >= self._refused_until:
            self._submit(standing, verdict.due, now)

    def _obstacle(self) -> str:
        if self._store.maintenance() is not None:
            return "nothing starts in maintenance"
        training = self._store.open_training()
        return f"job {training.id} is {training.state}" if training is not None else ""

    def _submit(self, standing: Standing, reason: str, now: float) -> None:
        past = Past(basis=standing.basis, new=standing.new or 0, filed=now)
        asked = {name: getattr(self._rule, name) for name in ("model", "epochs", "batch", "imgsz", "overrides")}
        wanted = {name: value for name, value in asked.items() if value is not None}
        try:
            job = self._file({**wanted, "priority": self._rule.priority, "key": past.key})
        except AzaionError as error:
            self._refused_until = time.monotonic() + _AGAIN_S
            if not self._problem:
                self._store.note("retrain-refused", str(error))
            self._problem = f"due ({reason}), but it cannot be filed: {error}"
            _log.error("a training is due and cannot be filed", error=str(error))
            return
        self._problem = ""
        self._store.note("retrain-filed", reason, job.id)
        _log.info("a training is due", job=job.id, reason=reason)
        # What people read from now on.
        self._verdict = decide(self._rule, replace(standing, past=past, obstacle=self._obstacle()), now)

    # From when on times count: from when the rule was first seen, or its last time that passed without anything new.

    def _since(self, now: float) -> float:
        if self._rule.cron is None:
            return now
        kept = json.loads(self._store.retraining() or "{}")
        if kept.get("cron") != self._rule.cron:
            self._keep(now)
            return now
        return float(kept["since"])

    def _keep(self, since: float) -> None:
        self._store.keep_retraining(json.dumps({"cron": self._rule.cron, "since": since}))
        _log.info("times count from", since=datetime.fromtimestamp(since, UTC).isoformat())
