"""What a disk may hold after the power was cut: a model of a filesystem that promises as little as ext4 and XFS do.

What was written to a file is there for sure after an fsync of it, and what was done to a folder (a name made, renamed,
removed) after an fsync of the folder; both after a sync. Before that

- of a file's writes any number may be there, from the first on, the last of them in part; the rest of its length may
  read as zeros. A new length without its content is possible too: an fsync of the folder brings no content;
- of what was done to a folder any number of changes may be there, from the first on, each wholly or not at all: names
  are journaled. Folders know nothing of one another, except that a rename between two is one change of both;
- an fsync of a file says nothing of its name.

That is weaker than ext4, which commits the changes of all folders in one order: whoever survives this survives that.
"""

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.powerloss.trace import Call, TraceError

_ROOT: Final = 0
#: A disk writes a sector wholly or not at all.
_SECTOR: Final = 512


@dataclass(frozen=True, slots=True)
class _Names:
    """A change of names, in one folder or two: what each name stands for then."""

    changes: tuple[tuple[int, str, int | None], ...]

    @property
    def folders(self) -> set[int]:
        return {folder for folder, _, _ in self.changes}


@dataclass(frozen=True, slots=True)
class _Data:
    """A change of a file's content; without data, of its length to ``offset``."""

    file: int
    offset: int
    data: bytes | None

    def apply(self, content: bytearray, part: int | None = None) -> None:
        """Make it, or only the first ``part`` bytes of it, the rest as zeros where the file was shorter."""
        if self.data is None:
            del content[self.offset :]
            content.extend(bytes(self.offset - len(content)))
            return
        data = self.data if part is None else self.data[:part]
        end = self.offset + len(self.data)
        content.extend(bytes(max(0, end - len(content))))
        content[self.offset : self.offset + len(data)] = data


_Change = _Names | _Data


@dataclass(frozen=True, slots=True)
class State:
    """What a disk holds: the content of each file, the target of each symbolic link, and the folders."""

    files: Mapping[str, bytes]
    links: Mapping[str, str]
    folders: frozenset[str]

    def write(self, root: Path) -> None:
        """Make a tree of it."""
        root.mkdir()
        for path in sorted(self.folders):
            (root / path).mkdir()
        for path, data in self.files.items():
            (root / path).write_bytes(data)
        for path, target in self.links.items():
            (root / path).symlink_to(target)


@dataclass(slots=True)
class Disk:
    """A disk below ``root``, and every change made to it since it was last known to be whole.

    Attributes:
        now: how often something was done: a moment.
        marks: what was written to the file of marks, and when.
    """

    root: str
    marks_path: str = ""
    now: int = 0
    marks: list[tuple[int, str]] = field(default_factory=list)
    #: With the moment of each, and, by their places, since when they are on the disk for sure.
    _changes: list[tuple[int, _Change]] = field(default_factory=list)
    _sure: dict[int, int] = field(default_factory=dict)
    _names: dict[int, dict[str, int]] = field(default_factory=lambda: {_ROOT: {}})
    _symbolic: dict[int, str] = field(default_factory=dict)
    _content: dict[int, bytearray] = field(default_factory=dict)
    _places: dict[int, int] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    # Recording.

    def load(self, root: Path) -> None:
        """What is there is there for sure."""
        for path in sorted(root.rglob("*")):
            at = f"{self.root}/{path.relative_to(root)}"
            if path.is_symlink():
                self.do(Call(name="symlink", path=at, to=str(path.readlink())))
            elif path.is_dir():
                self.do(Call(name="mkdir", path=at))
            elif path.is_file():
                self.do(Call(name="open", path=at, flags=frozenset({"O_CREAT"})))
                self.do(Call(name="write", path=at, data=path.read_bytes(), number=0))
        self.do(Call(name="sync", path=self.root))

    def do(self, call: Call) -> None:  # noqa: C901, PLR0912 - a case for each call
        """Take up what was done."""
        if call.path == self.marks_path and call.name == "write":
            self.now += 1
            self.marks += [(self.now, mark) for mark in call.data.decode().splitlines()]
        if call.name == "sync":
            self._settle(range(len(self._changes)))
            return
        if not self._ours(call.path) and not (call.name in {"rename", "link"} and self._ours(call.to)):
            return
        match call.name:
            case "open":
                self._open(call)
            case "write":
                self._write(call)
            case "seek":
                if (file := self._find(call.path)) is not None:
                    self._places[file] = call.number or 0
            case "copy" if (source := self._find(call.to)) is not None:
                start = call.number or 0
                data = bytes(self._content[source][start : start + call.count])
                self._write(Call(name="write", path=call.path, data=data))
            case "truncate":
                if (file := self._find(call.path)) is not None:
                    self._change(_Data(file, call.number or 0, None))
            case "allocate":
                length = len(self._content.get(self._find(call.path) or 0, b""))
                more = bytes(max(0, (call.number or 0) - length))
                self._write(Call(name="write", path=call.path, data=more, number=length))
            case "mkdir":
                number = next(self._numbers)
                self._names[number] = {}
                self._rename((call.path, number))
            case "symlink":
                number = next(self._numbers)
                self._symbolic[number] = call.to
                self._rename((call.path, number))
            case "link":
                self._rename((call.to, self._there(call.path)))
            case "rename":
                self._rename((call.path, None), (call.to, self._there(call.path)))
            case "unlink":
                self._rename((call.path, None))
            case "fsync":
                self._fsync(call.path)
            case _:
                raise TraceError(f"{call.to} of {call.path}: the model of the disk does not know it")

    def _ours(self, path: str) -> bool:
        return path.startswith(f"{self.root}/") or path == self.root

    def _open(self, call: Call) -> None:
        file = self._find(call.path)
        if file is None:
            if "O_CREAT" not in call.flags:
                return
            file = next(self._numbers)
            self._content[file] = bytearray()
            self._rename((call.path, file))
        if file in self._names:
            return
        if "O_TRUNC" in call.flags and self._content[file]:
            self._change(_Data(file, 0, None))
        self._places[file] = len(self._content[file]) if "O_APPEND" in call.flags else 0

    def _write(self, call: Call) -> None:
        # Whoever writes to what has no name any more leaves nothing.
        if (file := self._find(call.path)) is None or not call.data:
            return
        offset = self._places.get(file, len(self._content[file])) if call.number is None else call.number
        self._change(_Data(file, offset, call.data))
        if call.number is None:
            self._places[file] = offset + len(call.data)

    def _rename(self, *changes: tuple[str, int | None]) -> None:
        found = []
        for path, number in changes:
            parent, name = self._parent(path), path.rpartition("/")[2]
            if number is None:
                self._names[parent].pop(name, None)
            else:
                self._names[parent][name] = number
            found.append((parent, name, number))
        self._change(_Names(tuple(found)))

    def _fsync(self, path: str) -> None:
        if (number := self._find(path)) is None:
            return
        if number not in self._names:
            self._settle(
                place
                for place, (_, change) in enumerate(self._changes)
                if isinstance(change, _Data) and change.file == number
            )
            return
        # What was done to two folders at once takes along whatever was done to the other one before.
        wanted, settled = {number}, []
        for place in reversed(range(len(self._changes))):
            _, change = self._changes[place]
            if isinstance(change, _Names) and change.folders & wanted and place not in self._sure:
                wanted |= change.folders
                settled.append(place)
        self._settle(settled)

    def _settle(self, places: Iterable[int]) -> None:
        self.now += 1
        for place in places:
            self._sure.setdefault(place, self.now)

    def _change(self, change: _Change) -> None:
        self.now += 1
        self._changes.append((self.now, change))
        if isinstance(change, _Data):
            change.apply(self._content[change.file])

    def _parent(self, path: str) -> int:
        return self._there(path.rpartition("/")[0])

    def _there(self, path: str) -> int:
        if (number := self._find(path)) is None:
            raise TraceError(f"{path} was never made")
        return number

    def _find(self, path: str) -> int | None:
        number: int | None = _ROOT
        for name in filter(None, path.removeprefix(self.root).split("/")):
            number = self._names.get(number, {}).get(name) if number is not None else None
        return number

    # Crashing.

    def states(self, moment: int, dice: random.Random, limit: int) -> Iterator[State]:
        """What the disk may hold if the power is cut right after ``moment``.

        All there are, if they are no more than ``limit`` (of torn writes one each); else so many, by chance, and in any
        case the one in which everything is there and the one in which nothing is that need not be.
        """
        made = [change for when, change in self._changes if when <= moment]
        left = {place for place in range(len(made)) if self._sure.get(place, moment + 1) > moment}
        folders: defaultdict[int, int] = defaultdict(int)
        writes: defaultdict[int, int] = defaultdict(int)
        for place in left:
            change = made[place]
            if isinstance(change, _Data):
                writes[change.file] += 1
            else:
                for folder in change.folders:
                    folders[folder] += 1
        kinds = [[(kept, False) for kept in range(number + 1)] for number in folders.values()]
        kinds += [
            [(kept, torn) for kept in range(number + 1) for torn in (False, True) if not torn or kept < number]
            for number in writes.values()
        ]
        if math.prod(map(len, kinds)) <= limit:
            chosen: Iterable[tuple[tuple[int, bool], ...]] = itertools.product(*kinds)
        else:
            extremes = [tuple(kind[0] for kind in kinds), tuple((max(kind)[0], False) for kind in kinds)]
            chosen = extremes + [tuple(dice.choice(kind) for kind in kinds) for _ in range(limit - 2)]
        for choice in chosen:
            yield self._state(made, left, dict(zip([*folders, *writes], choice, strict=True)), dice)

    def _state(
        self, made: Sequence[_Change], left: Container[int], kept: Mapping[int, tuple[int, bool]], dice: random.Random
    ) -> State:
        """What is there if of what need not be so much was ``kept``: whole changes, and whether a part of the next."""
        names: defaultdict[int, dict[str, int]] = defaultdict(dict)
        contents: defaultdict[int, bytearray] = defaultdict(bytearray)
        seen: defaultdict[int, int] = defaultdict(int)
        closed: set[int] = set()
        for place, change in enumerate(made):
            about = {change.file} if isinstance(change, _Data) else change.folders
            lost, part = False, None
            if place in left:
                lost = bool(closed & about) or any(seen[each] >= kept[each][0] for each in about)
                if isinstance(change, _Data) and lost and not closed & about and kept[change.file][1] and change.data:
                    lost, part = False, dice.randrange(0, len(change.data), _SECTOR)
                    closed |= about
                for each in about:
                    seen[each] += 1
            if lost:
                closed |= about
            elif isinstance(change, _Data):
                change.apply(contents[change.file], part)
            else:
                for folder, name, number in change.changes:
                    if number is None:
                        names[folder].pop(name, None)
                    else:
                        names[folder][name] = number
        return self._tree(names, contents)

    def _tree(self, names: Mapping[int, Mapping[str, int]], contents: Mapping[int, bytearray]) -> State:
        files: dict[str, bytes] = {}
        links: dict[str, str] = {}
        folders: set[str] = set()
        todo = [("", _ROOT)]
        while todo:
            path, folder = todo.pop()
            for name, number in names.get(folder, {}).items():
                at = f"{path}{name}"
                if number in self._names:
                    folders.add(at)
                    todo.append((f"{at}/", number))
                elif number in self._symbolic:
                    links[at] = self._symbolic[number]
                else:
                    files[at] = bytes(contents.get(number, b""))
        return State(files, links, frozenset(folders))
