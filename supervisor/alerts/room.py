"""The room that tells people: looks at how everything is, decides, and sends."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from azaion.backoff import delays
from azaion.declarations.alerts import AlertsDeclaration, Channel
from supervisor.alerts import letters, sources
from supervisor.alerts.judgement import decide
from supervisor.alerts.model import Condition, Known, Level, Notice, Rules, State, What
from supervisor.alerts.outbox import Outbox, Parcel, together
from supervisor.health.model import Finding
from supervisor.jobs.events import EventFilter
from supervisor.jobs.gate import Alert
from supervisor.jobs.model import JobError
from supervisor.jobs.schema import StoreError
from supervisor.jobs.store import Store

#: How often it is looked where nobody says that something has changed, and while something waits to be told.
LOOK_S: Final = 30.0
_PENDING_S: Final = 5.0
#: Not more often than this, however much happens.
_LEAST_S: Final = 0.5
#: After a start nobody has looked at everything yet: what is not told of is not well for that.
SETTLE_S: Final = 120.0
#: The pause after a failed message, doubled up to the cap.
_RETRY_S: Final = 1.0
_RETRY_CAP_S: Final = 300.0
_EVENTS: Final = 500

_log = structlog.get_logger("azaion.alerts")


@dataclass(frozen=True, kw_only=True)
class _Memory:
    """What outlives the daemon.

    Attributes:
        event: the last event that was read. That it is another one is no reason to write: others do not matter here.
    """

    state: State = field(default_factory=State)
    event: int = field(compare=False)
    outboxes: Mapping[str, Outbox] = field(default_factory=dict)


class AlertRoom:
    """Tells people for as long as `run` does.

    Args:
        declared: whom, and how often.
        store: what has happened; keeps what people have been told.
        findings: how everything is.
        waiting: what has kept jobs from starting.
        send: sends a message to a channel; returns why it was not taken, empty if it was.
        clock: the wall clock.
    """

    def __init__(
        self,
        declared: AlertsDeclaration,
        store: Store,
        findings: Callable[[], Sequence[Finding]],
        waiting: Callable[[], Sequence[Alert]],
        send: Callable[[Channel, Parcel], Awaitable[str]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.channels: Final = {channel.name: channel for channel in declared.channels}
        self._rules = Rules(
            remind_critical_s=declared.remind_critical_s,
            remind_warning_s=declared.remind_warning_s,
            gather_s=declared.gather_s,
            gap_s=declared.gap_s,
        )
        self._store = store
        self._findings = findings
        self._waiting = waiting
        self._send = send
        self._clock = clock
        self._memory = _remembered(store, self.channels)
        self._kept = True
        self._pending = False
        self._began = time.monotonic()
        self._changed = asyncio.Event()
        self._filed = {name: asyncio.Event() for name in self.channels}
        store.listen(self._changed.set)

    def poke(self) -> None:
        """Say that something may have changed."""
        self._changed.set()

    def open(self) -> dict[str, Known]:
        """What is not well, or changes all the time, the worst first."""
        found = {
            name: known
            for name, known in self._memory.state.known.items()
            if known.level is not Level.OK or known.flapping or known.told is not Level.OK
        }
        return dict(sorted(found.items(), key=lambda each: (-each[1].level.gravity, each[1].since, each[0])))

    def outbox(self, name: str) -> Outbox:
        """How a channel is."""
        return self._memory.outboxes[name]

    async def run(self) -> None:
        """Look, decide and send for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(), name="alerts")
            for channel in self.channels.values():
                tasks.create_task(self._deliver(channel), name=f"alerts {channel.name}")

    async def test(self, channel: Channel) -> str:
        """Send a test message at once; returns why it was not taken, empty if it was."""
        host = socket.gethostname()
        body = "Alerts of this server arrive here. Nothing is wrong."
        parcel = Parcel(title=f"[azaion {host}] a test", body=body, level=Level.INFO, time=self._clock())
        error = await self._send(channel, parcel)
        self._note(channel, error, ())
        return error

    # Deciding.

    async def _watch(self) -> None:
        while True:
            self._changed.clear()
            self._look()
            await asyncio.sleep(_LEAST_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(_PENDING_S if self._pending else LOOK_S):
                    await self._changed.wait()

    def _look(self) -> None:
        now = self._clock()
        news, event = self._news()
        decision = decide(
            self._memory.state,
            self._conditions(now),
            now,
            self._rules,
            news=news,
            settled=time.monotonic() - self._began >= SETTLE_S,
        )
        self._pending = decision.pending
        outboxes = self._memory.outboxes
        if decision.notices:
            outboxes = {name: self._addressed(name, decision.notices, decision.left_out, now) for name in outboxes}
        self._keep(_Memory(state=decision.state, event=event, outboxes=outboxes), decision.notices)
        for name, filed in self._filed.items():
            if outboxes[name].parcels:
                filed.set()

    def _conditions(self, now: float) -> dict[str, Condition]:
        return {
            **sources.of_health(self._findings(), now),
            **sources.of_queue(self._waiting()),
            **sources.of_channels(self._memory.outboxes),
        }

    def _news(self) -> tuple[list[Notice], int]:
        newest = self._store.last_event()
        # A database that was restored from before knows less than we do.
        after = min(self._memory.event, newest)
        events = self._store.events(after, _EVENTS, EventFilter(types=sources.NEWS_EVENTS))
        last = events[-1].id if len(events) == _EVENTS else newest
        if len(events) == _EVENTS:
            self._changed.set()
        return sources.of_events(events, self._title, self._again), last

    def _title(self, number: int) -> str:
        try:
            job = self._store.get(number)
        except JobError:
            return ""
        return f"{job.kind} {job.name}".strip()

    def _again(self, number: int, moment: float) -> bool:
        return sum(attempt.reserved <= moment for attempt in self._store.attempts(number)) > 1

    def _addressed(self, name: str, notices: tuple[Notice, ...], left_out: int, now: float) -> Outbox:
        channel, outbox = self.channels[name], self._memory.outboxes[name]
        wanted = [notice for notice in notices if _wants(channel, notice)]
        if not wanted:
            return outbox
        return outbox.filed(letters.letter(wanted, left_out, socket.gethostname(), now))

    def _keep(self, memory: _Memory, notices: tuple[Notice, ...] = ()) -> None:
        before, self._memory = self._memory, memory
        told = [notice for notice in notices if notice.what is not What.NEWS]
        for notice in told:
            level = _log.info if notice.what is What.RESOLVED else _log.warning
            level("alert", about=notice.name, kind=notice.kind, what=str(notice.what), detail=letters.line(notice))
        if memory == before and self._kept and not notices:
            return
        events = [
            ("alert-resolved" if notice.what is What.RESOLVED else "alert-raised", letters.line(notice))
            for notice in told
        ]
        try:
            self._store.keep_alerts(msgspec.json.encode(memory).decode(), events)
            self._kept = True
        except StoreError as error:
            # A full disk is what people must hear of. What is not kept is told once more after a restart.
            self._kept = False
            _log.error("alerts are not kept", error=str(error))

    # Sending.

    async def _deliver(self, channel: Channel) -> None:
        pauses = delays(_RETRY_S, _RETRY_CAP_S)
        while True:
            await self._filed[channel.name].wait()
            parcels = self.outbox(channel.name).parcels
            if not parcels:
                self._filed[channel.name].clear()
                continue
            error = await self._send(channel, together(parcels))
            self._note(channel, error, parcels)
            if error:
                await asyncio.sleep(next(pauses))
            else:
                pauses = delays(_RETRY_S, _RETRY_CAP_S)

    def _note(self, channel: Channel, error: str, parcels: tuple[Parcel, ...]) -> None:
        before, now = self.outbox(channel.name), self._clock()
        after = before.failed(error, now) if error else before.sent(parcels, now)
        if error:
            _log.warning("alert not sent", channel=channel.name, error=error, failures=after.failures)
        outboxes = {**self._memory.outboxes, channel.name: after}
        self._keep(_Memory(state=self._memory.state, event=self._memory.event, outboxes=outboxes))


def _wants(channel: Channel, notice: Notice) -> bool:
    # That it is dead cannot be told to itself.
    own = notice.name == f"channel {channel.name}" and notice.what is not What.RESOLVED
    return not own and str(notice.level) in channel.levels and notice.kind in channel.kinds


def _remembered(store: Store, channels: Mapping[str, Channel]) -> _Memory:
    known: Mapping[str, Outbox] = {}
    memory = _Memory(event=store.last_event())
    if kept := store.alerts():
        try:
            memory = msgspec.json.decode(kept, type=_Memory)
        except msgspec.MsgspecError as error:
            _log.warning("what was told before is not known any more", error=str(error))
        known = memory.outboxes
    outboxes = {name: known.get(name, Outbox()) for name in channels}
    return _Memory(state=memory.state, event=memory.event, outboxes=outboxes)
