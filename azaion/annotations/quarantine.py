"""Messages that could not be applied: ``quarantine/OFFSET/`` with the raw bytes and the reason, complete or absent.

Two processes work here. The consumer puts messages in and tries them again; the daemon lists them, asks for another
try (a file ``retry`` in the message's folder) and drops them. The consumer takes such a request up by renaming it: from
then on the message may be applied in part, and nobody drops it before the consumer has ended that. Whoever takes up or
drops holds the advisory lock of ``message.bin``.
"""

import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from azaion import failpoints, files
from azaion.annotations.errors import AnnotationError
from azaion.annotations.message import MAX_MESSAGE_BYTES
from azaion.annotations.stream import Form, Message

#: With so many messages in quarantine the stream stops until somebody has looked at them.
QUARANTINE_LIMIT: Final = 10_000
#: Or with so many bytes.
QUARANTINE_BYTES: Final = 10 << 30

_BODY: Final = "message.bin"
_REASON: Final = "reason.json"
#: What a person has asked for, before and after the consumer has taken it up.
_ASKED: Final = "retry"
_TAKEN: Final = "retry.taken"

_ID: Final = re.compile(r"(0|[1-9][0-9]{0,18})(-(0|[1-9][0-9]{0,18}))?", re.ASCII)
#: Records hold numbers of 64 bits.
_MAX_NUMBER: Final = 1 << 63
#: A batch may be larger than a message.
_MAX_BYTES: Final = 2 * MAX_MESSAGE_BYTES
#: From so many requests on, one sync of the filesystem is cheaper than an fsync of each.
_MANY: Final = 16
#: What changes sooner after a listing than this may leave the folder's time of change as it was.
_SETTLED_NS: Final = 100_000_000

_log = structlog.get_logger("azaion.annotations")


class QuarantineError(AnnotationError):
    """A message is not in quarantine, or not as it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A message in quarantine.

    Attributes:
        id: the name of its folder.
        offset: its number in the stream.
        incarnation: of its stream; None if that is not known any more.
        status: the property ``AnnotationStatus``.
        form: what its bytes are; None if that is not known any more.
        count: how many messages of the stream it stands for.
        bytes: its size.
        reason: why it could not be applied, the last time it was tried.
        time: when it came here; None if that is not known any more.
        attempts: how often it has been tried again.
        retried: when that was the last time.
        marked: whether somebody has asked for another try, which has not ended yet.
        damage: what is wrong with its files, so that it cannot be tried again; None if they are whole.
    """

    id: str
    offset: int
    incarnation: int | None
    status: int | str | None
    form: Form | None
    count: int
    bytes: int
    reason: str
    time: str | None
    attempts: int
    retried: str | None
    marked: bool
    damage: str | None


@dataclass(frozen=True, slots=True)
class _Listing:
    """The folder as it was when it had this time of change; None if another look must be taken anyway."""

    changed: int | None
    sizes: Mapping[str, int]
    marked: tuple[str, ...]
    unfinished: bool


class Quarantine:
    """The folder of messages that could not be applied."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listing = _Listing(None, {}, (), unfinished=False)

    # How much there is.

    def count(self) -> int:
        """How many messages are in it. The folder is only listed anew when it has changed."""
        return len(self._listed().sizes)

    def size(self) -> int:
        """How many bytes their files have; as cheap as `count`."""
        return sum(self._listed().sizes.values())

    def full(self) -> str | None:
        """Why nothing more should be put in, and what to do about it; None if there is room. As cheap as `count`."""
        count, size = self.count(), self.size()
        if count < QUARANTINE_LIMIT and size < QUARANTINE_BYTES:
            return None
        return (
            f"the quarantine is full: it holds {count} messages with {size} bytes, and may hold {QUARANTINE_LIMIT} "
            f"with {QUARANTINE_BYTES}. See why with `azaionctl quarantine list`, then try them again with `azaionctl "
            f"quarantine retry` or give them up with `azaionctl quarantine drop`"
        )

    # Putting in.

    def put(self, message: Message, incarnation: int, reason: str) -> Path:
        """Keep a message, durably; one that is there already stays as it is.

        Raises:
            OSError: on a full disk and the like; nothing is kept then, and the offset must not pass it.
        """
        target = self._place(message.offset, incarnation)
        if target.exists():
            # Whoever put it there may have died, or failed, before its name was flushed.
            files.fsync_folder(target.parent)
            return target
        temporary = files.temporary_for(target)
        temporary.mkdir()
        try:
            _keep(message, temporary / _BODY)
            told = {
                "reason": reason,
                "incarnation": incarnation,
                "offset": message.offset,
                "status": message.status,
                "bytes": len(message.body),
                "form": message.form,
                "count": message.count,
                "time": _now(),
            }
            (temporary / _REASON).write_bytes(_encoded(told))
            files.fsync_tree(temporary)
            failpoints.hit("quarantine.written")
            files.rename(temporary, target)
        except BaseException:
            files.remove_tree(temporary)
            raise
        return target

    def _place(self, offset: int, incarnation: int) -> Path:
        """The offset names the folder; where another stream's message has that name, the stream is added."""
        plain = self._folder / str(offset)
        try:
            taken = files.read_json(plain / _REASON)["incarnation"] != incarnation
        except FileNotFoundError:
            taken = plain.exists()
        except (OSError, files.FileError, KeyError):
            taken = True
        return self._folder / f"{offset}-{incarnation}" if taken else plain

    # Looking.

    def entries(self) -> list[Quarantined]:
        """Every message, in the order of their streams. Damaged ones are among them with what is known of them."""
        found = (self._look(name) for name in self._names())
        return sorted(
            (entry for entry in found if entry is not None),
            key=lambda entry: (-1 if entry.incarnation is None else entry.incarnation, entry.offset, entry.id),
        )

    def get(self, name: str) -> Quarantined:
        """One message.

        Raises:
            QuarantineError: there is none of this name, which may be anything.
        """
        found = self._look(name) if _ID.fullmatch(name) else None
        if found is None:
            raise _unknown(name)
        return found

    def read(self, entry: Quarantined) -> Message:
        """The message as it came from the stream. Of a damaged file of the spool the bytes are left where they are.

        Raises:
            QuarantineError: its files are damaged or gone.
        """
        if entry.damage is not None or entry.form is None:
            raise QuarantineError(entry.damage or "nothing says what its bytes are")
        body = b""
        if entry.form is not Form.FILE:
            try:
                body = files.read_small(self._folder / entry.id / _BODY, limit=_MAX_BYTES)
            except (OSError, files.FileError) as error:
                raise QuarantineError(f"its bytes cannot be read: {error}") from None
        return Message(offset=entry.offset, status=entry.status, body=body, form=entry.form, count=entry.count)

    def head(self, name: str, size: int) -> bytes:
        """The first ``size`` bytes of a message, or as many as can be read.

        Raises:
            QuarantineError: there is no message of this name, or its bytes cannot be read.
        """
        if not _ID.fullmatch(name):
            raise _unknown(name)
        try:
            with files.opened(self._folder / name / _BODY) as stream:
                return stream.read(size)
        except (OSError, files.FileError) as error:
            raise QuarantineError(f"its bytes cannot be read: {error}") from None

    def asked(self, name: str) -> dict[str, Any]:
        """Who has asked for another try, and when; empty if nobody has, or nobody knows."""
        for marker in (_ASKED, _TAKEN):
            with suppress(OSError, files.FileError):
                return files.read_json(self._folder / name / marker)
        return {}

    def _look(self, name: str) -> Quarantined | None:
        folder = self._folder / name
        if not _is_folder(folder):
            return None
        told: dict[str, Any] = {}
        damage = None
        try:
            told = files.read_json(folder / _REASON)
        except (OSError, files.FileError) as error:
            if not _is_folder(folder):
                return None
            damage = f"its {_REASON} is damaged: {error}"
        offset, incarnation = _numbers(name)
        stream, status, form = told.get("incarnation", incarnation), told.get("status"), _form(told)
        reason, count, when = told.get("reason"), told.get("count", 1), told.get("time")
        wrong = [
            field
            for field, right in {
                "offset": _is_number(told.get("offset")) and told.get("offset") == offset,
                "incarnation": _is_number(stream) and incarnation in {None, stream},
                "status": status is None or _is_number(status) or isinstance(status, str),
                "form": form is not None,
                "count": _is_number(count) and count > 0,
            }.items()
            if not right
        ]
        if damage is None and wrong:
            damage = f"its {_REASON} is damaged: {' and '.join(wrong)} cannot be right"
        size = _size(folder / _BODY)
        if damage is None and size is None:
            damage = f"its {_BODY} is gone"
        if damage is None and form is not Form.FILE and told.get("bytes") != size:
            damage = f"its {_BODY} is damaged: it has {size} bytes, not {str(told.get('bytes'))[:20]}"
        return Quarantined(
            id=name,
            offset=offset,
            incarnation=stream if "incarnation" not in wrong else incarnation,
            status=status if "status" not in wrong else None,
            form=form if told else None,
            count=count if "count" not in wrong else 1,
            bytes=size or 0,
            reason=reason if isinstance(reason, str) else damage or "nobody knows",
            time=when if isinstance(when, str) else None,
            attempts=_attempts(told),
            retried=again if isinstance(again := told.get("retried"), str) else None,
            marked=_is_marked(folder),
            damage=damage,
        )

    # Asking for another try, and giving up: the daemon's part.

    def mark(self, names: Iterable[str], by: str) -> list[str]:
        """Ask the consumer, durably, to try these messages again; returns those of them that are there.

        Raises:
            OSError: on a full disk and the like; some may have been asked for.
        """
        wanted = dict.fromkeys(name for name in names if _ID.fullmatch(name))
        asked = _encoded({"by": by, "time": _now()})
        done: list[str] = []
        try:
            for name in wanted:
                folder = self._folder / name
                if not _is_folder(folder):
                    continue
                # Dropped, or applied, in this moment: then there is nothing to ask for.
                with suppress(FileNotFoundError):
                    files.replace(folder / _ASKED, asked, durable=len(wanted) < _MANY)
                    done.append(name)
            if len(wanted) >= _MANY:
                files.sync_filesystem(self._folder)
        finally:
            self._touch()
        failpoints.hit("quarantine.marked")
        return done

    def drop(self, names: Iterable[str]) -> dict[str, str]:
        """Give messages up, for good and durably; returns why some could not be.

        Raises:
            OSError: the names of those that are gone may come back after a power loss.
        """
        problems: dict[str, str] = {}
        dropped: list[Path] = []
        for name in dict.fromkeys(names):
            try:
                dropped.append(self._take_out(name))
            except QuarantineError as error:
                problems[name] = str(error)
            except OSError as error:
                problems[name] = f"it cannot be dropped: {error}"
        if dropped:
            files.fsync_folder(self._folder)
        failpoints.hit("quarantine.dropped")
        for temporary in dropped:
            _remove(temporary)
        return problems

    def _take_out(self, name: str) -> Path:
        folder = self._folder / name
        if not (_ID.fullmatch(name) and _is_folder(folder)):
            raise _unknown(name)
        with ExitStack() as held:
            if _hold(held, folder) and not os.path.lexists(folder / _TAKEN):
                try:
                    return folder.rename(files.temporary_for(folder))
                except FileNotFoundError:
                    raise _unknown(name) from None
        raise QuarantineError(
            f"message {name} is being tried again and may be applied in part: drop it when the consumer has ended that"
        )

    # Trying again: the consumer's part.

    def marked(self) -> list[str]:
        """The messages that somebody has asked to try again, in the order of their numbers. As cheap as `count`."""
        return list(self._listed().marked)

    def unfinished(self) -> bool:
        """Whether a message may be applied in part, its retry having failed or died. As cheap as `count`."""
        return self._listed().unfinished

    @contextmanager
    def claimed(self, name: str) -> Iterator[Quarantined | None]:
        """Take a request up: while the block runs, and until `remove` or `failed` ends it, nobody drops the message.

        Yields None where there is nothing to do: the message is gone, or just being dropped.
        """
        folder = self._folder / name
        with ExitStack() as held:
            entry = None
            if _hold(held, folder):
                # Where a dead predecessor has taken it up there is nothing to rename, unless it was asked for again.
                with suppress(FileNotFoundError):
                    (folder / _ASKED).rename(folder / _TAKEN)
                    self._touch()
                failpoints.hit("quarantine.retry.claimed")
                entry = self._look(name) if os.path.lexists(folder / _TAKEN) else None
            yield entry

    def remove(self, name: str) -> None:
        """Take a message out, durably, that has been applied; it may be gone already.

        Raises:
            OSError: the disk refuses.
        """
        folder = self._folder / name
        temporary = files.temporary_for(folder)
        try:
            files.rename(folder, temporary)
        except FileNotFoundError:
            return
        failpoints.hit("quarantine.removed")
        _remove(temporary)

    def failed(self, name: str, reason: str) -> None:
        """Note, durably, why a message still cannot be applied; it may be gone already.

        Raises:
            OSError: on a full disk and the like; the message stays asked for.
        """
        folder = self._folder / name
        try:
            told = files.read_json(folder / _REASON)
        except (OSError, files.FileError) as error:
            # It is said of it anyway that it is damaged, and what is left of it may be of use to somebody.
            _log.warning("the reason cannot be noted", message=name, reason=reason, error=str(error))
        else:
            told |= {"reason": reason, "attempts": _attempts(told) + 1, "retried": _now()}
            with suppress(FileNotFoundError):
                files.replace(folder / _REASON, _encoded(told))
        failpoints.hit("quarantine.retry.failed")
        (folder / _TAKEN).unlink(missing_ok=True)
        self._touch()

    # The folder.

    def _touch(self) -> None:
        """Let every process, and every thread, list the folder anew: what is marked changes without a change of it."""
        os.utime(self._folder)

    def _listed(self) -> _Listing:
        changed = self._folder.stat().st_mtime_ns
        if (known := self._listing).changed == changed:
            return known
        names = self._names()
        now = time.time_ns()
        # The bytes of a message never change.
        sizes = {
            name: known.sizes[name] if name in known.sizes else _size(self._folder / name / _BODY) or 0
            for name in names
        }
        marked = sorted((name for name in names if _is_marked(self._folder / name)), key=_order)
        settled = changed + _SETTLED_NS < now
        unfinished = any(os.path.lexists(self._folder / name / _TAKEN) for name in marked)
        found = self._listing = _Listing(changed if settled else None, sizes, tuple(marked), unfinished)
        return found

    def _names(self) -> list[str]:
        with os.scandir(self._folder) as entries:
            return [
                entry.name for entry in entries if _ID.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]


def _keep(message: Message, target: Path) -> None:
    """The raw bytes; those of a file that is too large to be read are not copied."""
    if message.path is not None and message.path.is_file() and not message.path.is_symlink():
        files.link_or_copy(str(message.path), str(target))
    else:
        target.write_bytes(message.body)


def _hold(held: ExitStack, folder: Path) -> bool:
    """Lock a message; false if another process has."""
    try:
        held.enter_context(files.locked(folder / _BODY, wait=False))
    except BlockingIOError:
        return False
    except OSError:
        # There is no such file: a message without one is never applied, and there is nothing to keep apart.
        return True
    return True


def _remove(temporary: Path) -> None:
    """Remove what has lost its name; what is left of it goes when the consumer starts."""
    try:
        files.remove_tree(temporary)
    except OSError as error:
        _log.warning("cannot remove", path=str(temporary), error=str(error))


def _unknown(name: str) -> QuarantineError:
    return QuarantineError(f"there is no message {name[:60]!r} in quarantine; `azaionctl quarantine list` shows them")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _encoded(told: Mapping[str, Any]) -> bytes:
    # A path that is no text is named all the same: its escapes are those of JSON.
    return json.dumps(told, ensure_ascii=False).encode("utf-8", errors="backslashreplace") + b"\n"


def _numbers(name: str) -> tuple[int, int | None]:
    offset, _, incarnation = name.partition("-")
    return int(offset), int(incarnation) if incarnation else None


def _order(name: str) -> tuple[int, int]:
    offset, incarnation = _numbers(name)
    return offset, -1 if incarnation is None else incarnation


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < _MAX_NUMBER


def _form(told: Mapping[str, Any]) -> Form | None:
    """The first version knew no other form than that of a body."""
    try:
        return Form(told.get("form", Form.BODY))
    except ValueError:
        return None


def _attempts(told: Mapping[str, Any]) -> int:
    value = told.get("attempts", 0)
    return value if type(value) is int and 0 <= value < _MAX_NUMBER else 0


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _is_marked(folder: Path) -> bool:
    return os.path.lexists(folder / _ASKED) or os.path.lexists(folder / _TAKEN)


def _size(path: Path) -> int | None:
    """None if it is not a file."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
