"""Retention: looks at what has grown old, takes out what nobody refers to, and deletes it without haste.

What a submit refers to is checked and committed in one step of the event loop. What is taken out is looked up a last
time, recorded and renamed into the trash in one step, too. So either a job is refused because its dataset is gone, or
its dataset stays. Deleting the trash is done by a thread, and taken up again after any death.
"""

import asyncio
import errno
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import structlog

from azaion import dataset, failpoints, files
from azaion.config import Config
from azaion.errors import AzaionError
from azaion.layout import AttemptFolder, JobFolder, SnapshotFolder
from supervisor.errors import SupervisorError
from supervisor.jobs import evidence
from supervisor.jobs import retention as rules
from supervisor.jobs.model import ACTIVE, TERMINAL
from supervisor.jobs.retention import Action, Kind, Thing, Verdict
from supervisor.jobs.store import Store

#: How often logs that are being written, and the room on the disks, are looked at.
LOOK_S: Final = 10.0
#: How often everything is.
ROUND_S: Final = 6 * 3600.0
#: How often everything is while a disk is nearly full.
LOW_ROUND_S: Final = 900.0
#: What the deletion rests between two folders, and after so many files.
PAUSE_S: Final = 0.002
_PAUSE_FILES: Final = 500
_EVENTS_AT_ONCE: Final = 1000
#: No block of a filesystem is larger; holes in a log begin and end with one.
_BLOCK: Final = 1 << 16

_log = structlog.get_logger("azaion.retention")


class RetentionError(SupervisorError):
    """Something cannot be removed now."""


@dataclass(frozen=True, kw_only=True)
class References:
    """What the disk says of who refers to what.

    Attributes:
        stamp: another one when a model has come or gone.
        datasets: who refers to a dataset, by its name.
        links: where something leads, by who leads there.
        unknown: why nobody can say which datasets are referred to; empty if everybody can.
    """

    stamp: int
    datasets: dict[str, str]
    links: dict[str, str]
    unknown: str = ""

    def user(self, thing: Thing) -> str:
        """Who refers to a thing; empty if nobody does."""
        if thing.kind is Kind.DATASET:
            return self.unknown or self.datasets.get(thing.path.name, "") or self._linked(thing.path.name)
        if thing.kind in {Kind.RUN, Kind.JOB}:
            return self._linked(_folder_of(thing).name)
        return ""

    def _linked(self, name: str) -> str:
        return next((who for who, where in self.links.items() if name in Path(where).parts), "")


@dataclass(kw_only=True)
class Tally:
    """How many there are, and the bytes that they take of the disk."""

    count: int = 0
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a look has found.

    Attributes:
        references: what the disk says of who refers to what.
        due: what is to be removed or cut.
        referred: what is old enough, and is kept because somebody refers to it.
        tally: how much there is of each kind.
    """

    references: References
    due: list[tuple[Thing, Verdict]] = field(default_factory=list)
    referred: list[tuple[Thing, Verdict]] = field(default_factory=list)
    tally: dict[Kind, Tally] = field(default_factory=lambda: {kind: Tally() for kind in Kind})


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What a round has done.

    Attributes:
        things: each thing with its verdict.
        events: how many events were forgotten.
        problems: what could not be done, one line each.
    """

    things: list[tuple[Thing, Verdict]] = field(default_factory=list)
    events: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def frees(self) -> int:
        """How many bytes the disk gets back at least."""
        return sum(thing.frees for thing, _ in self.things)


@dataclass(frozen=True, kw_only=True)
class Round:
    """When a round was over, and what it has done."""

    time: float
    removed: int
    frees: int
    events: int
    problems: list[str]


class RetentionRoom:
    """Keeps the disk from filling up, by the user's rules.

    Args:
        settings: the configuration.
        store: the jobs.
        clock: the wall clock.
    """

    def __init__(self, settings: Config, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._layout = settings.layout
        self._rules = settings.retention
        self._store = store
        self._clock = clock
        self._one = asyncio.Lock()
        self._trash = asyncio.Event()
        self._ending = threading.Event()
        self._told: set[Path] = set()
        self._low = False
        self.last: Round | None = None
        self.stuck: list[str] = []

    async def run(self) -> None:
        """Look, remove and delete for ever; a deletion that is cancelled goes on with the next run."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._empty_for_ever())
                tasks.create_task(self._watch())
        finally:
            self._ending.set()

    async def _watch(self) -> None:
        due = again = time.monotonic()
        while True:
            try:
                low = await asyncio.to_thread(self._is_low)
                if time.monotonic() >= due or (low and time.monotonic() >= again):
                    await self.remove("azaiond", low=low)
                    due, again = time.monotonic() + ROUND_S, time.monotonic() + LOW_ROUND_S
                for thing in self._live_logs():
                    await self._cut_if_due(thing, low=low)
                self._tell_low(low=low)
            except (AzaionError, OSError) as error:
                # An unmounted disk, say, of which others tell.
                _log.error("cannot look", error=str(error))
            await asyncio.sleep(LOOK_S)

    # Looking.

    async def look(self) -> Found:
        """What there is and what becomes of it now, measured. It may take a while."""
        found = await self._scan(low=await asyncio.to_thread(self._is_low), measure=True)
        kept = []
        for number, (thing, verdict) in enumerate(found.due):
            if verdict.action is Action.REMOVE and (user := found.references.user(thing) or self._needed(thing)):
                kept.append(number)
                found.due[number] = (replace(thing, user=user), Verdict(action=Action.KEEP, reason=user))
                # There may be ten thousand, and each is looked up in the database.
                await asyncio.sleep(0)
        found.referred.extend(found.due[number] for number in kept)
        for number in reversed(kept):
            del found.due[number]
        return found

    async def _scan(self, *, low: bool, measure: bool = False) -> Found:
        """What its age says is due, and the sum of everything if it is to be measured."""
        ended = self._store.ended()
        live = list(self._live_logs())
        order = list(Kind)

        def scan() -> Found:
            found = Found(references=self._references())
            now = self._clock()
            # One by one: there may be ten thousand.
            for seen in chain(live, self._jobs(ended), self._datasets(), self._corrupted()):
                thing = self._measured(seen) if measure else seen
                found.tally[thing.kind].count += 1
                found.tally[thing.kind].size += thing.size
                verdict = rules.judge(thing, self._rules, now, low=low)
                if verdict.action is not Action.KEEP:
                    found.due.append((thing, verdict))
                elif verdict.reason == thing.user:
                    found.referred.append((thing, verdict))
            # On a full disk first what needs no commit.
            found.due.sort(key=lambda each: (-order.index(each[0].kind), each[0].since or 0.0))
            return found

        return await asyncio.to_thread(scan)

    def _live_logs(self) -> Iterator[Thing]:
        paths: list[tuple[Path, int | None]] = [(self._layout.consumer_log, None)]
        for job in self._store.jobs(ACTIVE):
            with suppress(AzaionError):
                attempt = self._store.open_attempt(job.id)
                paths.append((self._layout.job(job.id, job.uid).attempt(attempt.number).log, job.id))
        for path, number in paths:
            yield Thing(kind=Kind.LOG, path=path, since=None, job=number, size=_allocated(path))

    def _jobs(self, ended: list[tuple[int, str, float]]) -> Iterator[Thing]:
        runs = 0
        for number, uid, end in ended:
            folder = self._layout.job(number, uid)
            if not _is_folder(folder.path):
                continue
            facts: dict[str, Any] = {"since": end, "job": number, "uid": uid}
            has_run = os.path.lexists(folder.run)
            if has_run:
                yield Thing(kind=Kind.RUN, path=folder.run, newer=runs, **facts)
                runs += 1
            yield Thing(kind=Kind.JOB, path=folder.path, user="its run is there" if has_run else "", **facts)
            for attempt in _attempts(folder):
                if (size := _allocated(attempt.log)) > 0:
                    yield Thing(kind=Kind.LOG, path=attempt.log, size=size, **facts)

    def _datasets(self) -> Iterator[Thing]:
        for newer, name in enumerate(reversed(dataset.names(self._layout))):
            path = self._layout.datasets / name
            uid = ""
            with suppress(AzaionError):
                uid = str(dataset.load(self._layout, name).manifest["key"])
            since = _modified(SnapshotFolder(path=path).manifest) or _modified(path)
            yield Thing(kind=Kind.DATASET, path=path, since=since, newer=newer, uid=uid)

    def _corrupted(self) -> Iterator[Thing]:
        for path in _entries(self._layout.corrupted):
            if _is_folder(path) and path != self._layout.trash(self._layout.corrupted):
                yield Thing(kind=Kind.CORRUPTED, path=path, since=_modified(path))

    def _references(self) -> References:
        # Before the models: one that comes meanwhile has another stamp.
        stamp = self._stamp()
        datasets: dict[str, str] = {}
        links: dict[str, str] = {}
        unknown = ""
        for path in [*_entries(self._layout.models), *_entries(self._layout.root)]:
            if path.is_symlink():
                links[f"{path} leads there"] = str(path.readlink())
            elif path.parent == self._layout.models and _is_folder(path):
                card = self._layout.model(path.name).card
                try:
                    told = files.read_json(card)
                except FileNotFoundError:
                    continue
                except (OSError, files.FileError):
                    unknown = f"{card} cannot be read, so nobody knows which dataset its model refers to"
                    continue
                who = f"model {path.name} refers to it"
                datasets[str(_at(told, "dataset", "name"))] = who
                links[who] = str(_at(told, "lineage", "base", "path"))
        return References(stamp=stamp, datasets=datasets, links=links, unknown=unknown)

    def _stamp(self) -> int:
        try:
            return self._layout.models.stat().st_mtime_ns
        except OSError:
            return -1

    def _needed(self, thing: Thing) -> str:
        """The job that may need a thing, in words, as the database says now; empty if none does."""
        number: int | None = None
        if thing.kind is Kind.DATASET:
            number = self._store.needing(thing.path.name, uid=thing.uid)
        elif thing.kind in {Kind.RUN, Kind.JOB}:
            number = self._store.needing(_folder_of(thing).name, uid=thing.uid, after=thing.job)
        return "" if number is None else f"job {number} refers to it"

    def free(self) -> dict[Path, int]:
        """How many bytes are free on the disks of the data and of the state."""
        found = {}
        for path in (self._layout.root, self._layout.state):
            with suppress(OSError):
                told = os.statvfs(path)
                found[path] = told.f_bavail * told.f_frsize
        return found

    def size_of(self, path: Path) -> int:
        """What a file, or a folder with all it holds, takes of the disk."""
        return sum(told.st_blocks * 512 for told in self._walk(path))

    def _measured(self, thing: Thing) -> Thing:
        """With what it takes of the disk, and what of that is free again when it is gone."""
        if thing.kind is Kind.LOG:
            left = rules.kept(self._rules, live=thing.since is None)
            return replace(thing, frees=max(0, thing.size - left.head - left.tail))
        size = frees = 0
        for told in self._walk(thing.path):
            size += told.st_blocks * 512
            # What has another name, as an image has that lies in the data too, is kept by that.
            if stat.S_ISDIR(told.st_mode) or told.st_nlink == 1:
                frees += told.st_blocks * 512
        return replace(thing, size=size, frees=frees)

    def _walk(self, path: Path) -> Iterator[os.stat_result]:
        with suppress(OSError):
            yield path.lstat()
        for folder, folders, names in os.walk(path):
            for name in (*folders, *names):
                with suppress(OSError):
                    yield os.lstat(f"{folder}/{name}")
            if self._ending.is_set():
                return

    def _is_low(self) -> bool:
        return rules.low(self.free().values(), self._rules)

    # Removing.

    async def remove(self, actor: str, *, low: bool = False) -> Removed:
        """Remove what is due now; when this returns it is out of the way, and its deletion is under way.

        Args:
            actor: who asks for it.
            low: whether a disk is nearly full.
        """
        async with self._one:
            done = Removed()
            found = await self._scan(low=low)
            references = found.references
            copies = 0
            for thing, verdict in found.due:
                try:
                    if verdict.action is Action.CUT:
                        freed = await self._cut(thing, actor, verdict.reason)
                        done.things.append((replace(thing, frees=freed), verdict))
                        continue
                    if not (references.user(thing) or self._needed(thing)):
                        measured = await asyncio.to_thread(self._measured, thing)
                        self._take_out(measured, verdict.reason, references, actor)
                        done.things.append((measured, verdict))
                        copies += thing.kind is Kind.CORRUPTED
                except (AzaionError, OSError) as error:
                    done.problems.append(f"{thing.path}: {error}")
                await asyncio.sleep(PAUSE_S)
            if copies:
                self._store.note("removed", f"{copies} copies of annotations in {self._layout.corrupted}", actor=actor)
            events = await self._forget_events()
            done = replace(done, events=events)
            self._trash.set()
            for problem in done.problems:
                _log.warning("not removed", reason=problem)
            if done.things or events:
                _log.info("removed", things=len(done.things), frees=done.frees, events=events)
            self.last = Round(
                time=self._clock(), removed=len(done.things), frees=done.frees, events=events, problems=done.problems
            )
            return done

    def _take_out(self, thing: Thing, reason: str, references: References, actor: str) -> None:
        """Look a last time, record, rename: one step of the event loop, in which nobody can submit anything.

        Raises:
            RetentionError: somebody refers to it after all.
            OSError: it cannot be renamed; it is as it was.
        """
        if self._stamp() != references.stamp:
            raise RetentionError("a model has come meanwhile; the next round looks again")
        if user := references.user(thing) or self._needed(thing):
            raise RetentionError(user)
        if thing.job is not None:
            self._check_over(thing.job, _folder_of(thing))
        if place := _mounted(thing.path):
            raise RetentionError(f"{place} is mounted there; unmount it first")
        formed = thing.kind in {Kind.DATASET, Kind.CORRUPTED}
        try:
            with files.locked(self._layout.datasets_lock, wait=False) if formed else nullcontext():
                if thing.job is not None:
                    self._store.remove(thing.job, thing.parts, reason, actor)
                elif thing.kind is Kind.DATASET:
                    self._store.note("removed", f"dataset {thing.path.name}: {reason}", actor=actor)
                failpoints.hit("retention.recorded")
                self._rename(thing)
                failpoints.hit("retention.renamed")
        except BlockingIOError:
            raise RetentionError("a dataset is being formed; the next round looks again") from None

    def _check_over(self, number: int, folder: Path) -> None:
        if self._store.get(number).state not in TERMINAL:
            raise RetentionError(f"job {number} has not ended")
        for attempt in _attempts(JobFolder(path=folder)):
            if attempt.lock.exists() and evidence.held(attempt):
                raise RetentionError(f"a process of job {number} still lives")

    def _rename(self, thing: Thing) -> None:
        (top,) = (folder for folder in self._layout.prunable if thing.path.is_relative_to(folder))
        trash = self._layout.trash(top)
        trash.mkdir(mode=0o700, exist_ok=True)
        name = "-".join(thing.path.relative_to(top).parts)
        thing.path.rename(trash / f"{name}.{secrets.token_hex(4)}")

    async def _forget_events(self) -> int:
        forgotten = 0
        before = rules.overdue_events(self._rules, self._clock())
        while True:
            count = self._store.forget_events(before, rules.EVENT_COUNT, _EVENTS_AT_ONCE)
            forgotten += count
            if count < _EVENTS_AT_ONCE:
                return forgotten
            await asyncio.sleep(PAUSE_S)

    # Cutting logs.

    async def _cut_if_due(self, thing: Thing, *, low: bool) -> None:
        verdict = rules.judge(thing, self._rules, self._clock(), low=low)
        if verdict.action is not Action.CUT:
            return
        try:
            await self._cut(thing, "azaiond", verdict.reason)
        except FileNotFoundError:
            return
        except RetentionError as error:
            # It stays so for as long as the run writes, and the other logs are looked at all the same.
            if thing.path not in self._told:
                self._told.add(thing.path)
                _log.warning("log not cut", path=str(thing.path), reason=str(error))

    async def _cut(self, thing: Thing, actor: str, reason: str) -> int:
        freed = await asyncio.to_thread(self._cut_now, thing)
        # Whoever writes without end is told of once.
        if thing.path not in self._told:
            self._told.add(thing.path)
            self._store.note("log-cut", f"{thing.path}: {reason}", thing.job, actor)
        return freed

    def _cut_now(self, thing: Thing) -> int:
        """Give back the middle of a log. Whoever writes it goes on without noticing."""
        left = rules.kept(self._rules, live=thing.since is None)
        start = -(-left.head // _BLOCK) * _BLOCK
        end = (thing.path.lstat().st_size - left.tail) // _BLOCK * _BLOCK
        if end <= start:
            return 0
        before = _allocated(thing.path)
        try:
            files.give_back(thing.path, end - start, start)
        except OSError as error:
            if error.errno in {errno.EOPNOTSUPP, errno.ENOSYS}:
                raise RetentionError("its filesystem cannot give back a part of a file") from None
            raise
        failpoints.hit("retention.cut")
        return max(0, before - _allocated(thing.path))

    def _tell_low(self, *, low: bool) -> None:
        if low and not self._low:
            text = f"less than {self._rules.free_gb} GB are free, and nothing more is due; look: azaionctl retention"
            self._store.note("disk-low", text)
        self._low = low

    # Deleting what has been taken out.

    async def _empty_for_ever(self) -> None:
        while True:
            await self._trash.wait()
            self._trash.clear()
            self.stuck = await asyncio.to_thread(self._empty)
            for problem in self.stuck:
                _log.warning("not deleted", reason=problem)

    def _empty(self) -> list[str]:
        problems = []
        for folder in self._layout.prunable:
            trash = self._layout.trash(folder)
            try:
                entries = _entries(trash)
                if entries:
                    # A power loss must not bring back, under its old name, what has lost some of its files.
                    files.fsync_folder(trash)
                    files.fsync_folder(folder)
                    failpoints.hit("retention.settled")
            except OSError as error:
                problems.append(f"{trash}: {error}")
                continue
            for entry in entries:
                try:
                    self._delete(entry)
                except (AzaionError, OSError, RecursionError) as error:
                    problems.append(f"{entry}: {error}; remove it by hand")
                if self._ending.is_set():
                    return problems
        return problems

    def _delete(self, path: Path) -> None:
        if place := _mounted(path):
            raise RetentionError(f"{place} is mounted there")
        if not _is_folder(path):
            path.unlink()
            return
        try:
            self._delete_folder(path)
        except PermissionError:
            # A run may have taken its own right to write away from itself.
            for folder, _, _ in os.walk(path):
                Path(folder).chmod(0o700)
            self._delete_folder(path)

    def _delete_folder(self, path: Path) -> None:
        count = 0
        for _, folders, names, descriptor in os.fwalk(path, topdown=False, onerror=_raise):
            for name in names:
                os.unlink(name, dir_fd=descriptor)
                count += 1
                if count % _PAUSE_FILES == 0 and self._ending.wait(PAUSE_S):
                    return
            for name in folders:
                try:
                    os.rmdir(name, dir_fd=descriptor)
                except NotADirectoryError:
                    # A link to a folder, which is not followed.
                    os.unlink(name, dir_fd=descriptor)
            failpoints.hit("retention.deleting")
            if self._ending.wait(PAUSE_S):
                return
        path.rmdir()
        failpoints.hit("retention.deleted")


def _raise(error: OSError) -> None:
    raise error


def _folder_of(thing: Thing) -> Path:
    """The folder of the job that a thing is of."""
    return thing.path.parent if thing.kind is Kind.RUN else thing.path


def _attempts(folder: JobFolder) -> Iterable[AttemptFolder]:
    return [AttemptFolder(path=path) for path in _entries(folder.path) if path.name.isdecimal() and _is_folder(path)]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_folder(path: Path) -> bool:
    """Whether it is a folder itself, and not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _modified(path: Path) -> float | None:
    """When it was changed; None if nobody can say."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return None


def _allocated(path: Path) -> int:
    """What a file takes of the disk; 0 if it is not there or is no file."""
    try:
        told = path.lstat()
    except OSError:
        return 0
    return told.st_blocks * 512 if stat.S_ISREG(told.st_mode) else 0


def _at(value: object, *keys: str) -> object:
    for key in keys:
        value = value.get(key, "") if isinstance(value, dict) else ""
    return value


def _mounted(path: Path) -> str | None:
    """Where below a path, or at it, something is mounted; deleting would go on in there."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    whole = path.absolute()
    for line in text.splitlines():
        place = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), line.split()[4])
        if Path(place).is_relative_to(whole):
            return place
    return None


def summary(removed: Removed) -> dict[str, Any]:
    """What a round has done, for a client."""
    return {
        "removed": [
            {"kind": str(thing.kind), "path": str(thing.path), "job": thing.job, "frees": thing.frees}
            | {"action": str(verdict.action), "reason": verdict.reason}
            for thing, verdict in removed.things
        ],
        "frees": removed.frees,
        "events": removed.events,
        "problems": removed.problems,
    }
