"""Whether a release proves itself: looks at the daemon after the switch, and the pure judgement over them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from supervisor.releases.host import Host
from supervisor.releases.use import release_in

#: All must be well for so long together.
STEADY_S: Final = 10.0
#: So long it may take until it is.
LIMIT_S: Final = 120.0
_PAUSE_S: Final = 0.25
#: The consumer is started again by the daemon; once may be an accident.
_CRASHES: Final = 2
#: As the consumer calls it.
_CONSUMING: Final = "consuming"
#: Another azaiond takes the annotations in.
_ELSEWHERE: Final = "elsewhere"
_SHOWN: Final = 300


class Standing(StrEnum):
    """What is known of one thing."""

    OK = "ok"
    WAITING = "not yet"  # it may become well
    BROKEN = "broken"  # it will not


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One thing that a release must prove."""

    name: str
    standing: Standing
    text: str


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """How it was before the switch: what was not well then is not the release's fault.

    Attributes:
        critical: the checks that were critical, by name and subject.
        consuming: whether annotations were being taken in; None if nobody knows.
        offset: the next message to read; None if nobody knows.
        quarantined: how many messages lay in quarantine; None if nobody knows.
    """

    critical: frozenset[tuple[str, str | None]] = frozenset()
    consuming: bool | None = None
    offset: int | None = None
    quarantined: int | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One look after the switch.

    Attributes:
        active: the state of the unit, as systemd has it.
        restarts: how often systemd had to start it again.
        pid: of the daemon; 0 if there is none.
        release: that the daemon runs from; None if nobody knows.
        errors: what it has logged as an error.
        status: what it says; None if it does not answer.
    """

    active: str
    restarts: int
    pid: int
    release: str | None
    errors: tuple[str, ...] = ()
    status: Mapping[str, Any] | None = None

    @property
    def offset(self) -> int | None:
        """The next message to read, once the consumer has looked where it was."""
        consumer = (self.status or {}).get("consumer", {})
        return consumer.get("offset") if consumer.get("state") == _CONSUMING else None

    @property
    def consuming(self) -> bool:
        """Whether annotations are being taken in, or another daemon's consumer does that."""
        consumer = (self.status or {}).get("consumer", {})
        return bool(consumer.get("state") == _CONSUMING or consumer.get("service") == _ELSEWHERE)


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a verification has ended.

    Attributes:
        reason: why the release did not prove itself; empty if it did.
        proofs: as they stood at the end.
        consuming_after_s: when annotations were taken in again, from the restart on; None if they never were.
    """

    reason: str
    proofs: tuple[Proof, ...]
    consuming_after_s: float | None


def baseline(status: Mapping[str, Any] | None) -> Baseline:
    """How it is now, before the switch."""
    if status is None:
        return Baseline()
    consumer = status["consumer"]
    return Baseline(
        critical=_critical(status),
        consuming=consumer.get("state") == _CONSUMING,
        offset=consumer.get("offset"),
        quarantined=int(consumer.get("quarantined") or 0),
    )


def judge(before: Baseline, seen: Seen, release: str, first: int | None = None) -> list[Proof]:
    """What the release has proven by now.

    Args:
        before: how it was.
        seen: how it is.
        release: the name of the one that should serve.
        first: the first offset that was seen after the restart; None if none was.
    """
    proofs = [_daemon(seen, release), _log(seen)]
    if seen.status is None:
        return [
            *proofs,
            Proof(name="consumer", standing=Standing.WAITING, text="not known: the daemon does not answer"),
        ]
    return [
        *proofs,
        *_health(before, seen.status),
        _consumer(before, seen.status["consumer"], first),
        _quarantine(before, seen.status["consumer"]),
    ]


def _daemon(seen: Seen, release: str) -> Proof:
    if seen.active == "failed" or seen.restarts > 0:
        times = f"systemd had to start it again {seen.restarts} times" if seen.restarts else "its unit has failed"
        return Proof(name="daemon", standing=Standing.BROKEN, text=f"it does not stay up: {times}")
    if seen.active != "active" or seen.status is None:
        return Proof(name="daemon", standing=Standing.WAITING, text=f"it does not answer ({seen.active})")
    if seen.release != release:
        return Proof(name="daemon", standing=Standing.BROKEN, text=f"it runs from {seen.release}, not from {release}")
    return Proof(name="daemon", standing=Standing.OK, text=f"serves, pid {seen.pid}")


def _log(seen: Seen) -> Proof:
    if seen.errors:
        more = f" (and {len(seen.errors) - 1} more)" if len(seen.errors) > 1 else ""
        return Proof(name="log", standing=Standing.BROKEN, text=f"an error: {seen.errors[0][:_SHOWN]}{more}")
    return Proof(name="log", standing=Standing.OK, text="no error since the restart")


def _health(before: Baseline, status: Mapping[str, Any]) -> list[Proof]:
    """Nothing is critical that was not before. The disks are named by themselves."""
    new = _critical(status) - before.critical
    proofs = []
    for name in ("disk", "health"):
        bad = [
            each
            for each in status["health"]["findings"]
            if (each["check"], each["subject"]) in new and (each["check"] == "disk") == (name == "disk")
        ]
        if bad:
            text = "; ".join(f"{each['check']}: {each['text']}" for each in bad)
            proofs.append(Proof(name=name, standing=Standing.WAITING, text=f"critical: {text[:_SHOWN]}"))
        else:
            text = "adequate" if name == "disk" else "nothing is critical that was not before"
            proofs.append(Proof(name=name, standing=Standing.OK, text=text))
    return proofs


def _consumer(before: Baseline, consumer: Mapping[str, Any], first: int | None) -> Proof:
    """Annotations are taken in: the offset advances, or there is nothing to read."""
    service, state = consumer.get("service"), consumer.get("state")
    if service == _ELSEWHERE:
        return Proof(name="consumer", standing=Standing.OK, text="another azaiond has it")
    if service == "refused" or int(consumer.get("restarts") or 0) >= _CRASHES:
        text = f"its process does not stay up: {service}, {consumer.get('restarts')} restarts"
        return Proof(name="consumer", standing=Standing.BROKEN, text=text)
    offset, lag = consumer.get("offset"), consumer.get("lag")
    if state != _CONSUMING:
        if before.consuming is False:
            return Proof(name="consumer", standing=Standing.OK, text=f"{state}: nor did it consume before the deploy")
        text = f"{state or service}: {consumer.get('last_error') or 'it has not said more'}"
        return Proof(name="consumer", standing=Standing.WAITING, text=text)
    # One that starts has not looked yet where it was.
    if offset is not None and before.offset is not None and offset < before.offset:
        text = f"its offset went back from {before.offset} to {offset}"
        return Proof(name="consumer", standing=Standing.BROKEN, text=text)
    if lag == 0:
        return Proof(name="consumer", standing=Standing.OK, text=f"consumes, offset {offset}, nothing waits")
    if offset is not None and first is not None and offset > first:
        return Proof(name="consumer", standing=Standing.OK, text=f"consumes, offset {first} -> {offset}")
    text = f"its offset does not advance: {offset}, {'?' if lag is None else lag} messages wait"
    return Proof(name="consumer", standing=Standing.WAITING, text=text)


def _quarantine(before: Baseline, consumer: Mapping[str, Any]) -> Proof:
    now = int(consumer.get("quarantined") or 0)
    if before.quarantined is None:
        return Proof(name="quarantine", standing=Standing.OK, text=f"{now} messages; not known how many before")
    if (more := now - before.quarantined) > 0:
        text = f"{more} messages more than before: azaionctl quarantine list"
        return Proof(name="quarantine", standing=Standing.BROKEN, text=text)
    return Proof(name="quarantine", standing=Standing.OK, text="nothing new")


def _critical(status: Mapping[str, Any]) -> frozenset[tuple[str, str | None]]:
    findings: Sequence[Mapping[str, Any]] = status["health"]["findings"]
    return frozenset((each["check"], each["subject"]) for each in findings if each["verdict"] == "critical")


# Looking.


def seen(host: Host, releases: Path) -> Seen:
    """Look once."""
    unit = host.shown("ActiveState", "NRestarts", "MainPID", "InvocationID")
    pid = int(unit.get("MainPID") or 0)
    return Seen(
        active=unit.get("ActiveState", "unknown"),
        restarts=int(unit.get("NRestarts") or 0),
        pid=pid,
        release=_release(pid, releases),
        errors=tuple(host.errors(unit["InvocationID"])) if unit.get("InvocationID") else (),
        status=host.status() if unit.get("ActiveState") == "active" else None,
    )


def _release(pid: int, releases: Path) -> str | None:
    try:
        interpreter = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return None
    return release_in(releases, interpreter)


def watch(
    look: Callable[[], Seen],
    before: Baseline,
    release: str,
    *,
    began: float,
    limit_s: float = LIMIT_S,
    steady_s: float = STEADY_S,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Result:
    """Look until the release has proven itself, or cannot any more.

    Args:
        look: looks once.
        before: how it was.
        release: the name of the one that should serve.
        began: when the daemon was restarted, by the clock.
        limit_s: how long it may take.
        steady_s: for how long all must be well together.
        clock: the time in seconds.
        pause: waits so many seconds.
    """
    well_since: float | None = None
    consuming: float | None = None
    first: int | None = None
    while True:
        found = look()
        now = clock()
        first = found.offset if first is None else first
        if consuming is None and found.consuming:
            consuming = now - began
        proofs = tuple(judge(before, found, release, first))
        reason = "; ".join(f"{each.name}: {each.text}" for each in proofs if each.standing is not Standing.OK)
        if any(each.standing is Standing.BROKEN for each in proofs):
            return Result(reason=reason, proofs=proofs, consuming_after_s=consuming)
        well_since = (well_since if well_since is not None else now) if not reason else None
        if well_since is not None and now - well_since >= steady_s:
            return Result(reason="", proofs=proofs, consuming_after_s=consuming)
        if now - began >= limit_s:
            late = reason or "it was not well for long enough"
            return Result(reason=f"within {limit_s:g} s: {late}", proofs=proofs, consuming_after_s=consuming)
        pause(_PAUSE_S)
