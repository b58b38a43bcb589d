"""The annotation consumer: whether it lives, whether it moves, and when it is killed so that it starts anew."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from azaion.annotations.consumer import ConsumerState
from supervisor.health import words
from supervisor.health.looks import Levels, Seen
from supervisor.health.model import Verdict
from supervisor.services import ServiceState

#: A consumer tells every few seconds that it lives. After so much silence something is wrong with it,
SILENT_S: Final = 120.0
#: and after so much more it is killed if messages wait for it.
KILL_S: Final = 600.0
#: So long it may take to start, or wait for its predecessor.
_START_S: Final = 120.0
#: What lasts for so long is no passing trouble of the network.
AWAY_S: Final = 1800.0
#: Two looks that lie further apart say nothing of the time between them: the daemon was away, or the machine slept.
_TOO_FAR: Final = 3.0
#: Over so long the rate of bad messages is counted.
RATE_S: Final = 3600.0

_LOG: Final = "look: azaionctl service logs consumer"


@dataclass(frozen=True, kw_only=True)
class Words:
    """What is known of the consumer at one moment.

    Attributes:
        monotonic: when that was.
        service: how its process is.
        pid: of its process; None if there is none.
        stopped: whether the process is stopped by a signal.
        state: what it says that it is doing; empty if it says nothing.
        updated: when it said so, by its own clock; None if it never has.
        offset: the next message that it will read.
        messages: how many wait for it; None if nobody knows.
        lag_s: how long the next of them has been waiting; None if nobody knows.
        quarantined: how many messages lie in quarantine.
        error: its last trouble.
    """

    monotonic: float
    service: ServiceState = ServiceState.RUNNING
    pid: int | None = None
    stopped: bool = False
    state: str = ""
    updated: float | None = None
    offset: int = 0
    messages: int | None = None
    lag_s: float | None = None
    quarantined: int = 0
    error: str = ""


def words_of(
    status: Mapping[str, Any],
    monotonic: float,
    committed: int | None = None,
    reached: int | None = None,
    proc: Path = Path("/proc"),
) -> Words:
    """Read what the consumer's status says.

    Args:
        status: the consumer's status.
        monotonic: the time now.
        committed: the stream is known to hold a message with this offset.
        reached: the offset on disk, if it was looked at: who cannot write its status may work all the same.
        proc: where processes are found.
    """
    offset, messages = int(status.get("offset") or 0), status.get("lag")
    if reached is not None and reached > offset:
        messages = None if messages is None else max(0, messages - (reached - offset))
        offset = reached
    if committed is not None and committed >= offset:
        messages = max(messages or 0, committed + 1 - offset)
    pid = status.get("pid")
    return Words(
        monotonic=monotonic,
        service=ServiceState(status["service"]),
        pid=pid,
        stopped=pid is not None and is_stopped(pid, proc),
        state=str(status.get("state", "")),
        updated=status.get("updated"),
        offset=offset,
        messages=messages,
        lag_s=status.get("lag_s"),
        quarantined=int(status.get("quarantined") or 0),
        error=str(status.get("last_error") or ""),
    )


def is_stopped(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process is stopped by a signal, or by whoever traces it."""
    try:
        fields = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return fields[:1] in (["T"], ["t"])


@dataclass(frozen=True, kw_only=True)
class Course:
    """What several looks at the consumer say together. Only time in which the daemon looked counts.

    Attributes:
        last: the last look.
        silent_s: for how long it has said nothing new.
        still_s: for how long its offset has not moved though messages waited.
        away_s: for how long it has had no connection to the broker.
        interval_s: what should lie between two looks.
    """

    last: Words
    silent_s: float = 0.0
    still_s: float = 0.0
    away_s: float = 0.0
    interval_s: float = 60.0

    def after(self, found: Words) -> "Course":
        """The same after another look."""
        gap = found.monotonic - self.last.monotonic
        if gap > _TOO_FAR * self.interval_s:
            gap = 0.0
        same = (found.pid, found.updated, found.offset) == (self.last.pid, self.last.updated, self.last.offset)
        stands = found.offset == self.last.offset and bool(found.messages)
        return replace(
            self,
            last=found,
            silent_s=self.silent_s + gap if same and found.service is ServiceState.RUNNING else 0.0,
            still_s=self.still_s + gap if stands else 0.0,
            away_s=self.away_s + gap if found.state == self.last.state == ConsumerState.DISCONNECTED else 0.0,
        )

    @property
    def must_be_killed(self) -> bool:
        """Whether nothing but killing it can help: it is silent for long, and messages wait for it.

        One that speaks is left alone whatever it says: it tries again by itself, or a person must decide.
        """
        return (
            self.last.service is ServiceState.RUNNING
            and self.last.pid is not None
            and self.silent_s >= KILL_S
            and self.last.state != ConsumerState.WAITING_FOR_LOCK
            and bool(self.last.messages)
        )


def judge_life(course: Course) -> Seen:
    """Whether the consumer lives."""
    found = course.last
    if found.service is ServiceState.REFUSED:
        rule = "it is tried again every minute"
        return _bad("does not start: its configuration is wrong", f"azaionctl config check; {rule}; {_LOG}")
    if found.service is not ServiceState.RUNNING or found.pid is None:
        return replace(_bad(f"does not run: it is {found.service}", _LOG), sure=False)
    if found.stopped:
        return _bad(f"pid {found.pid} is stopped by a signal", f"let it go on: kill -CONT {found.pid}")
    if course.silent_s >= SILENT_S and found.state != ConsumerState.WAITING_FOR_LOCK:
        text = f"pid {found.pid} has said nothing for {words.duration(course.silent_s)}"
        rule = f"it is killed after {words.duration(KILL_S)} if messages wait"
        return replace(_bad(text, f"{rule}; now: kill -KILL {found.pid}; {_LOG}"), sure=False)
    match found.state:
        case ConsumerState.BLOCKED:
            return _bad(f"waits for a decision: {found.error}", "azaionctl consumer resume --help, or quarantine list")
        case ConsumerState.RETRYING:
            return _bad(f"cannot write: {found.error}", "make room on the disk of AZAION_ROOT_DIR, or mend it")
        case ConsumerState.FAILED:
            return _bad(f"has failed: {found.error}", _LOG)
        case ConsumerState.DISCONNECTED:
            long = course.away_s >= AWAY_S
            since = f"has had no connection to the broker for {words.duration(course.away_s)}"
            return Seen(
                verdict=Verdict.CRITICAL if long else Verdict.WARNING,
                text=f"{since if long else 'has no connection to the broker'}: {found.error}",
                advice="see the check `broker`; it comes back by itself",
            )
        case ConsumerState.WAITING_FOR_LOCK if course.silent_s >= _START_S:
            return _bad("waits for another consumer to end", "find it: fuser .consumer.lock in AZAION_ROOT_DIR")
        case _:
            return Seen(verdict=Verdict.OK, text=f"{found.state or 'starting'}, pid {found.pid}")


def _bad(text: str, advice: str) -> Seen:
    return Seen(verdict=Verdict.CRITICAL, text=text, advice=advice)


def judge_offset(course: Course, levels: Levels) -> Seen:
    """Whether the offset advances, if there is anything to advance to."""
    found = course.last
    counted = f"{found.messages or 'no'} messages wait"
    waiting = "nobody knows how many messages wait" if found.messages is None else counted
    oldest = f", the oldest for {words.duration(found.lag_s)}" if found.lag_s else ""
    if course.silent_s >= SILENT_S and not found.messages:
        return Seen(
            verdict=Verdict.UNKNOWN,
            text=f"at {found.offset}; the consumer says nothing, so that nobody knows what waits",
            advice="see the check `consumer`",
        )
    verdict, eased = levels.judge(course.still_s)
    still = f" has not moved for {words.duration(course.still_s)}" if verdict is not Verdict.OK else ""
    return Seen(
        verdict=verdict,
        eased=eased,
        text=f"at {found.offset}{still}, {waiting}{oldest}",
        advice=f"see the check `consumer`; {_LOG}",
        value=course.still_s,
    )


class Rate:
    """How many messages come into quarantine in an hour."""

    def __init__(self) -> None:
        self._known: deque[tuple[float, int]] = deque()

    def judge(self, found: Words, levels: Levels) -> Seen:
        """The same, after another look."""
        if found.state:
            self._known.append((found.monotonic, found.quarantined))
        while len(self._known) > 1 and found.monotonic - self._known[0][0] > RATE_S:
            self._known.popleft()
        # What is dropped or retried in between makes it fewer, which is no comfort.
        pairs = zip(self._known, list(self._known)[1:], strict=False)
        more = sum(max(0, later[1] - earlier[1]) for earlier, later in pairs)
        verdict, eased = levels.judge(more)
        return Seen(
            verdict=verdict,
            eased=eased,
            text=f"{more or 'no'} bad messages in the last hour, {found.quarantined or 'none'} in all",
            advice="see why they are bad: azaionctl quarantine list",
            value=more,
        )


class Observer:
    """Looks at the consumer, for every check that is about it.

    Args:
        status: what the consumer says of itself.
        committed: an offset at which the stream is known to hold a message; None if nobody knows. May take its time.
        reached: the offset on disk; None if it cannot be read. The same.
        interval_s: how often it is looked.
    """

    def __init__(
        self,
        status: Callable[[], Mapping[str, Any]],
        committed: Callable[[], int | None],
        reached: Callable[[], int | None],
        interval_s: float,
    ) -> None:
        self._status = status
        self._committed = committed
        self._reached = reached
        self._interval_s = interval_s
        self._course: Course | None = None

    def read(self) -> Words:
        """What is known now. Of a reader that is silent, the keeper of its stream is asked, and what it has noted."""
        silent = self._course is not None and self._course.silent_s >= SILENT_S
        asked = (self._committed(), self._reached()) if silent else (None, None)
        return words_of(self._status(), time.monotonic(), *asked)

    def course(self, found: Words) -> Course:
        """What this and what was known before say together."""
        if self._course is None:
            self._course = Course(last=found, interval_s=self._interval_s)
        else:
            self._course = self._course.after(found)
        return self._course
