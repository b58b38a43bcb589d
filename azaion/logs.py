"""How a long-running process of ours writes its log: every line, whoever it comes from, without secrets."""

import logging
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

import structlog
from structlog.typing import Processor

from azaion.environment import resolve
from azaion.redaction import Redaction, secret_name
from azaion.settings import ConfigError, SecretReference

_FIRST: Final = ("timestamp", "level", "logger", "event")
_LEVELS: Final = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO)


def configure(renderer: Processor, redaction: Redaction, stream: TextIO | None = None) -> None:
    """Have everything logged in one form: by structlog, by the standard library, and what nobody has caught.

    A line carries what is bound to its context (`structlog.contextvars`). Tracebacks are without local variables. A log
    that cannot be written, as on a full disk, is no reason to end.

    Args:
        renderer: makes one line of an event.
        redaction: takes the secrets out of it before that.
        stream: where it goes; standard error without.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name,
            structlog.processors.format_exc_info,
            redaction,
            _in_order,
            renderer,
        ],
        logger_factory=_Factory(stream if stream is not None else sys.stderr),
        # What is known of secrets may grow.
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Handler()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda told: _uncaught(told.exc_type, told.exc_value, told.exc_traceback)


def secrets(*sources: object, environment: Mapping[str, str], env_file: Path | None) -> set[str]:
    """The secrets that this process can know: what the configuration refers to, and what its environment holds.

    Args:
        sources: configurations and declarations that may refer to secrets, however deep.
        environment: of the process.
        env_file: the ``.env``, if there is one.
    """
    found = {value for name, value in environment.items() if secret_name(name)}
    for reference in {each for source in sources for each in _references(source)}:
        # Whoever needs one that is missing says so.
        with suppress(ConfigError):
            found.add(resolve(reference, environment, env_file))
    return found


def _references(value: object) -> Iterator[SecretReference]:
    if isinstance(value, SecretReference):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _references(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _references(inner)


class _Writer:
    """What structlog calls a logger: writes finished lines."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self.name = name

    def msg(self, line: str) -> None:
        with suppress(OSError, ValueError):
            # In one piece, so that lines of several threads do not mix.
            self._stream.write(f"{line}\n")
            self._stream.flush()

    log = debug = info = warning = warn = error = critical = fatal = exception = failure = msg


class _Factory:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, *names: Any) -> _Writer:
        return _Writer(self._stream, str(names[0]) if names else "azaion")


class _Handler(logging.Handler):
    """Passes on what libraries log by the standard library."""

    def emit(self, record: logging.LogRecord) -> None:
        level = next((level for level in _LEVELS if record.levelno >= level), logging.DEBUG)
        structlog.get_logger(record.name).log(level, record.getMessage(), exc_info=record.exc_info)


def _name(writer: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.setdefault("logger", writer.name)
    return event


def _in_order(_writer: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: event[name] for name in _FIRST if name in event} | dict(event)


def _uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if error is None or issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    structlog.get_logger("azaion").critical("unhandled", exc_info=(kind, error, traceback))
