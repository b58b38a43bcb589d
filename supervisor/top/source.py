"""Asks the daemon, in a thread of its own: the screen never waits for an answer."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from supervisor.control.client import Client, ClientError
from supervisor.top import actions
from supervisor.top.actions import Question

#: Seconds between two looks. The daemon looks at the GPU anew every 5 s at most, however many look.
LOOK_S: Final = 2.0
#: For so long an answer is waited for: a driver that hangs takes the daemon some seconds.
_LIMIT_S: Final = 15.0
#: As long as the daemon is away.
_AWAY_S: Final = 1.0
#: The history has a new sample every 10 seconds.
_HISTORY_S: Final = 10.0
#: So many of those that have ended last.
_ENDED: Final = 20
_LINES: Final = 200


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is looked at.

    Attributes:
        job: the one that is selected; None for none.
        span_s: how far back the history goes, in seconds.
    """

    job: int | None = None
    span_s: float = 3600.0


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the daemon has told at one moment.

    Attributes:
        at: seconds since 1970.
        status: as ``status --json`` prints it.
        ended: the jobs that have ended last, the newest first.
        job: the selected job, as ``show --json`` prints it; None if there is none.
        curves: its epochs.
        lines: the end of its log.
        history: the machine's figures.
    """

    wish: Wish
    at: float
    status: Mapping[str, Any]
    ended: list[dict[str, Any]]
    job: Mapping[str, Any] | None = None
    curves: Mapping[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    history: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Away:
    """The daemon does not answer.

    Attributes:
        since: seconds since 1970.
        why: in words.
    """

    since: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of an action.

    Attributes:
        done: whether the daemon has done it.
    """

    text: str
    done: bool


News = Look | Away | Answer


class Looker:
    """Asks for all that a screen shows, and for nothing twice that has not changed.

    Args:
        client: of the daemon.
        clock: seconds since 1970.
    """

    def __init__(self, client: Client, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock
        self._drawn: tuple[Any, ...] | None = None
        self._curves: Mapping[str, Any] = {}
        self._asked: tuple[float, float] | None = None
        self._history: Mapping[str, Any] = {}

    def look(self, wish: Wish) -> Look:
        """One look.

        Raises:
            ClientError: the daemon does not answer, or refuses.
        """
        status = self._get("/v1/status")
        ended = self._get("/v1/jobs", {"state": "succeeded,failed,cancelled", "limit": _ENDED})
        job = self._selected(wish)
        return Look(
            wish=wish,
            at=self._clock(),
            status=status,
            ended=ended[::-1],
            job=job,
            curves=self._curves_of(job) if job is not None else {},
            lines=self._optional(f"/v1/jobs/{job['id']}/tail", lines=_LINES).get("lines", []) if job else [],
            history=self._past(wish.span_s),
        )

    def do(self, asked: Question, number: int | None) -> Answer:
        """Do what somebody has said yes to."""
        path, body = actions.request(asked, number)
        try:
            return Answer(text=actions.answer(asked, self._client.post(path, body, timeout=_LIMIT_S)), done=True)
        except ClientError as error:
            return Answer(text=f"not done: {error}", done=False)

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self._client.get(path, query, timeout=_LIMIT_S)

    def _optional(self, path: str, **query: Any) -> dict[str, Any]:
        """What an older daemon may not have; what a daemon that is away tells, the next look notices."""
        with contextlib.suppress(ClientError):
            found: dict[str, Any] = self._get(path, query)
            return found
        return {}

    def _selected(self, wish: Wish) -> dict[str, Any] | None:
        return (self._optional(f"/v1/jobs/{wish.job}") or None) if wish.job is not None else None

    def _curves_of(self, job: Mapping[str, Any]) -> Mapping[str, Any]:
        # A line is added at the end of an epoch, when the figures of the progress change.
        told = job["progress"] or {}
        drawn = (job["id"], job["state"], told.get("epoch"), told.get("metrics"), len(job["attempts"]))
        if drawn != self._drawn:
            self._curves = self._optional(f"/v1/jobs/{job['id']}/curves")
            self._drawn = drawn
        return self._curves

    def _past(self, span_s: float) -> Mapping[str, Any]:
        now = self._clock()
        fresh = self._asked is not None and self._asked[1] == span_s and 0 <= now - self._asked[0] < _HISTORY_S
        if not fresh or not self._history:
            self._history = self._optional("/v1/history", since=now - span_s)
            self._asked = (now, span_s)
        return self._history


class Watcher:
    """The thread. One question at a time: what somebody wants done comes before the next look.

    Args:
        looker: asks.
        tell: takes what is new; called in the thread.
    """

    def __init__(self, looker: Looker, tell: Callable[[News], None], interval_s: float = LOOK_S) -> None:
        self._looker = looker
        self._tell = tell
        self._interval_s = interval_s
        self._wish = Wish()
        self._todo: queue.SimpleQueue[tuple[Question, int | None] | None] = queue.SimpleQueue()
        self._away: Away | None = None
        self._over = threading.Event()
        # Not waited for at the end: a daemon that hangs must not keep anybody from leaving.
        self._thread = threading.Thread(target=self._run, name="top", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def wish(self, wish: Wish) -> None:
        """Look at this from now on, and at once."""
        if wish != self._wish:
            self._wish = wish
            self._todo.put(None)

    def do(self, asked: Question, number: int | None = None) -> None:
        """Do what somebody has said yes to; an `Answer` is told."""
        self._todo.put((asked, number))

    def close(self) -> None:
        """Tell nothing any more."""
        self._over.set()
        self._todo.put(None)

    def _run(self) -> None:
        while not self._over.is_set():
            self._say(self._look())
            for asked in self._next(_AWAY_S if self._away else self._interval_s):
                self._say(self._looker.do(*asked))

    def _next(self, limit: float) -> list[tuple[Question, int | None]]:
        """What is to be done; returns after the limit, or at once if anything is wanted."""
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._todo.get(timeout=limit))
            # Whoever holds down an arrow key wants one look.
            while True:
                found.append(self._todo.get_nowait())
        return [each for each in found if each is not None]

    def _look(self) -> News:
        began = time.time()
        try:
            look = self._looker.look(self._wish)
        except ClientError as error:
            since = self._away.since if self._away else began
            self._away = Away(since=since, why=str(error))
            return self._away
        self._away = None
        return look

    def _say(self, news: News) -> None:
        if not self._over.is_set():
            self._tell(news)
