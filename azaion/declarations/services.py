"""Section ``services`` of ``azaion.yaml``: what is kept alive beside the jobs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Final

from msgspec import Meta

from azaion.declarations.values import brief, values
from azaion.settings import SecretReference

#: The annotation consumer is a service, too, and not the user's to declare.
CONSUMER: Final = "consumer"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")

_Word = Annotated[str, Meta(pattern=r"^[^\x00]*\Z")]
_Command = Annotated[
    tuple[_Word, ...],
    Meta(min_length=1, max_length=1000, description="a list of words (put numbers in quotes), the program first"),
]
_Environment = Annotated[
    dict[Annotated[str, Meta(pattern=r"^[^=\x00]+\Z")], _Word | SecretReference],
    Meta(
        description="names with texts (put numbers in quotes), or with `{variable: NAME}` for a secret",
        extra={"private": True},
    ),
]
_Folder = Annotated[str, Meta(pattern=r"^/[^\x00]*\Z", description="an absolute path")]
_Names = Annotated[tuple[str, ...], Meta(max_length=100, description="a list of names of services")]
_Flag = Annotated[bool, Meta(description="true or false")]
_Grace = Annotated[float, Meta(ge=0, le=3600, description="a number of seconds up to 3600")]
_Timeout = Annotated[float, Meta(gt=0, le=600, description="a number of seconds up to 600")]
_Port = Annotated[
    int | Annotated[str, Meta(pattern=r"^[^\s:/]+:[0-9]{1,5}\Z")], Meta(description="a port, or HOST:PORT")
]
_Address = Annotated[str, Meta(pattern=r"^https?://[^\s]+\Z", description="an address that begins with http")]


class Restart(StrEnum):
    """When a service that has ended by itself is started again."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class Check:
    """How to see whether a service is ready: exactly one of ``tcp``, ``http`` and ``command``.

    Attributes:
        tcp: a port that takes connections, on this machine unless a host stands before it.
        http: an address that answers with a status below 400.
        command: a command that ends with 0.
        timeout_s: how long one look may take, in seconds.
    """

    tcp: _Port | None = None
    http: _Address | None = None
    command: _Command | None = None
    timeout_s: _Timeout = 5.0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of a ``tcp`` check."""
        host, _, port = str(self.tcp).rpartition(":")
        return host or "127.0.0.1", int(port)


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """A service that the daemon keeps alive, and that outlives the daemon.

    Attributes:
        argv: what to run.
        env: what it finds in its environment beside the daemon's own PATH, HOME and the like.
        cwd: where it runs.
        ready: how to see that it is ready; without it, it is as soon as it runs.
        after: the services that must be ready before it starts.
        restart: when it is started again.
        holds_gpu: whether it uses the GPUs, and is stopped while a job does.
        grace_s: seconds that it may take to end after SIGTERM.
        enabled: whether it is to run at all.
    """

    name: str
    argv: _Command
    env: _Environment = field(default_factory=dict)
    cwd: _Folder = "/"
    ready: Check | None = None
    after: _Names = ()
    restart: Restart = Restart.ALWAYS
    holds_gpu: _Flag = False
    grace_s: _Grace = 30.0
    enabled: _Flag = True


def section(given: object, problems: list[str]) -> tuple[Declaration, ...]:
    """The services that stand below ``services``, each after those that it comes after.

    Args:
        given: what stands there.
        problems: whatever is wrong joins them. What stands in ``env`` is not shown.
    """
    if not isinstance(given, dict):
        problems.append("services: expected names with what is declared of each")
        return ()
    found = {name: declared for name in given if (declared := _declaration(name, given[name], problems)) is not None}
    return tuple(found[name] for name in _order(found, {str(name) for name in given}, problems))


def _declaration(name: object, given: object, problems: list[str]) -> Declaration | None:
    where = f"services.{brief(name)}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problems.append(f"{where}: a name has small letters, digits, - and _, 40 at the most")
        return None
    if name == CONSUMER:
        problems.append(f"{where}: that is the annotation consumer, which is there already; choose another name")
        return None
    if not isinstance(given, dict):
        problems.append(f"{where}: expected keys with values, such as `argv: [...]`")
        return None
    converted = values(Declaration, given, where, problems, leave_out=("name", "ready"))
    if given.get("ready") is not None:
        converted["ready"] = _check(given["ready"], f"{where}.ready", problems)
    # One that is wrong is made all the same, so that what is wrong between the services is told, too.
    return Declaration(name=name, **{"argv": (), **converted})


def _check(given: object, where: str, problems: list[str]) -> Check | None:
    if not isinstance(given, dict):
        problems.append(f"{where}: expected one of `tcp: PORT`, `http: ADDRESS` and `command: [...]`")
        return None
    count = len(problems)
    converted = values(Check, given, where, problems)
    if len(problems) > count:
        return None
    if sum(converted.get(kind) is not None for kind in ("tcp", "http", "command")) != 1:
        problems.append(f"{where}: expected exactly one of tcp, http and command")
        return None
    check = Check(**converted)
    if check.tcp is not None and not 1 <= check.address[1] <= _LAST_PORT:
        problems.append(f"{where}.tcp: expected a port, 1 to {_LAST_PORT}, got {check.address[1]}")
        return None
    return check


_LAST_PORT: Final = 65535


def _order(found: Mapping[str, Declaration], names: set[str], problems: list[str]) -> list[str]:
    """Each service after those that it comes after."""
    for declared in found.values():
        for other in declared.after:
            if other not in names:
                close = get_close_matches(other, sorted(names), n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                problems.append(f"services.{declared.name}.after: there is no service {brief(other)}{hint}")
    graph = {name: [other for other in declared.after if other in found] for name, declared in found.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        problems.append(f"services: each of these is to come after the one before it: {' -> '.join(error.args[1])}")
        return []
