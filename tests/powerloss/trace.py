"""What a command does to files, seen by strace: every process that it starts, with every byte that they write."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: What changes a file or a folder, or brings it to the disk. Sockets and mapped memory are not looked at: of what is in
#: use only SQLite's `-shm` is mapped, and nothing in that is expected to be there after a crash.
_CALLS: Final = (
    *(
        "open",
        "openat",
        "creat",
        "lseek",
        "write",
        "pwrite64",
        "writev",
        "ftruncate",
        "truncate",
        "fallocate",
        "sendfile",
    ),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "rmdir", "fsync", "fdatasync", "syncfs", "sync"),
    # Not understood here, and refused where it writes below the root.
    *("pwritev", "pwritev2", "copy_file_range"),
)
_LINE: Final = re.compile(r"(\d+) +(.*)")
_BEGUN: Final = re.compile(r"(.*) <unfinished \.\.\.>")
_RESUMED: Final = re.compile(r"<\.\.\. \w+ resumed>(.*)")
_CALL: Final = re.compile(r"(\w+)\((.*)\) += (-?\d+)(?:<([^>]*)>)?(?:\(deleted\))?")
_TOKEN: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"|(\w+)<((?:\\x[0-9a-f]{2})*)>(?:\(deleted\))?|([\w|]+)')


class TraceError(Exception):
    """The trace tells of something that the model does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One system call that has succeeded.

    Attributes:
        name: of the call, the variants of one meaning under one name.
        path: of the file that it is about.
        to: the other path of a rename, a link or a copy, or what a symbolic link holds.
        data: what is written.
        number: the offset or the length; of a write None where it goes on after the one before.
        count: how much is copied.
        flags: of an open.
    """

    name: str
    path: str = ""
    to: str = ""
    data: bytes = b""
    number: int | None = None
    count: int = 0
    flags: frozenset[str] = frozenset()


def strace() -> str | None:
    """The program, of the machine's or of the tests' own; None if there is none."""
    own = Path(sys.prefix, "strace", "bin")
    return shutil.which("strace", path=f"{own}{os.pathsep}{os.environ.get('PATH', os.defpath)}")


def traced(argv: Sequence[str], environment: Mapping[str, str], cwd: Path) -> list[Call]:
    """Run a command to its end, and tell what it and all that it has started did, in order."""
    with tempfile.TemporaryDirectory(prefix="az-") as folder:
        output = Path(folder, "trace")
        program = strace()
        if program is None:
            raise TraceError("there is no strace: apt-get install strace")
        options = ["-f", "-qq", "-y", "-xx", "-s", str(1 << 28), "-e", "signal=none", "-e", f"trace={','.join(_CALLS)}"]
        command = [program, *options, "-o", str(output), *argv]
        subprocess.run(command, env=dict(environment), cwd=cwd, check=True)
        with output.open(encoding="ascii") as lines:
            return [call for line in _whole(lines) if (call := _read(line)) is not None]


def _whole(lines: Iterator[str]) -> Iterator[str]:
    """The calls, those that others came between put together at the place of their end."""
    begun: dict[str, str] = {}
    for line in lines:
        if (match := _LINE.fullmatch(line.rstrip("\n"))) is None:
            raise TraceError(line[:200])
        process, text = match.groups()
        if (first := _BEGUN.fullmatch(text)) is not None:
            begun[process] = first[1]
        elif (rest := _RESUMED.fullmatch(text)) is not None:
            yield begun.pop(process) + rest[1]
        else:
            yield text


def _read(text: str) -> Call | None:  # noqa: C901, PLR0912 - a case for each call
    if (match := _CALL.match(text)) is None:
        # It failed, or its process was killed in it.
        return None
    name, arguments, result, opened = match.groups()
    if int(result) < 0:
        return None
    tokens = list(_TOKEN.finditer(arguments))
    strings = [_bytes(each[1]) for each in tokens if each[1] is not None]
    folders = [os.fsdecode(_bytes(each[3])) for each in tokens if each[3] is not None]
    words = [each[4] for each in tokens if each[4] is not None]
    paths = [os.fsdecode(each) for each in strings]
    if name in {"open", "openat", "creat"}:
        flags = frozenset(next((word for word in words if word.startswith("O_")), "O_CREAT|O_TRUNC").split("|"))
        return Call(name="open", path=os.fsdecode(_bytes(opened or "")), flags=flags)
    if name.endswith("at") or name == "renameat2":
        paths = [os.path.join(folder, path) for folder, path in zip(folders, paths, strict=False)]  # noqa: PTH118 - text
    match name:
        case "write" | "writev":
            return Call(name="write", path=folders[0], data=b"".join(strings)[: int(result)])
        case "pwrite64":
            return Call(name="write", path=folders[0], data=strings[0][: int(result)], number=int(words[-1]))
        case "lseek":
            return Call(name="seek", path=folders[0], number=int(result))
        case "ftruncate":
            return Call(name="truncate", path=folders[0], number=int(words[-1]))
        case "fallocate" if words[-3] == "0":
            return Call(name="allocate", path=folders[0], number=int(words[-2]) + int(words[-1]))
        case "sendfile" if words[0].isdigit():
            return Call(name="copy", path=folders[0], to=folders[1], number=int(words[0]), count=int(result))
        case "truncate":
            return Call(name="truncate", path=paths[0], number=int(words[-1]))
        case "rename" | "renameat" | "renameat2" | "link" | "linkat":
            return Call(name=name[:6].removesuffix("at"), path=paths[0], to=paths[1])
        case "symlink" | "symlinkat":
            target = os.fsdecode(strings[1])
            at = os.path.join(folders[0], target) if folders else target  # noqa: PTH118 - text
            return Call(name="symlink", path=at, to=os.fsdecode(strings[0]))
        case "unlink" | "unlinkat" | "rmdir" | "mkdir" | "mkdirat":
            return Call(name=name.removesuffix("at").replace("rmdir", "unlink"), path=paths[0])
        case "fsync" | "fdatasync":
            return Call(name="fsync", path=folders[0])
        case "sync" | "syncfs":
            return Call(name="sync", path=folders[0] if folders else "/")
        case _:
            return Call(name="unknown", path=folders[-1] if name == "copy_file_range" else folders[0], to=name)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
