"""The daemon's own log: readable at a terminal, JSON elsewhere, with priorities where the journal takes it."""

import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Final, TextIO

import structlog
from structlog.typing import Processor

from azaion import logs
from azaion.redaction import Redaction
from azaion.settings import LogFormat

#: syslog's, as the journal reads them at the beginning of a line.
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def configure(log_format: LogFormat, redaction: Redaction, stream: TextIO | None = None) -> None:
    """Log to standard error, or to another stream; see `azaion.logs.configure`."""
    where = sys.stderr if stream is None else stream
    logs.configure(renderer(log_format, where), redaction, where)


def renderer(log_format: LogFormat, stream: TextIO) -> Processor:
    """What makes a line of an event: for people where the format or the stream says so, else JSON."""
    if log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and stream.isatty()):
        # Plain: the traceback is text by now, and rich would show the local variables in it.
        return structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
        )
    line = structlog.processors.JSONRenderer(ensure_ascii=False)
    if not journal(stream):
        return line

    def prefixed(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        return f"<{_PRIORITIES.get(str(event.get('level')), 6)}>{line(logger, method, event)!s}"

    return prefixed


def journal(stream: TextIO) -> bool:
    """Whether a stream goes to systemd's journal. ``JOURNAL_STREAM`` alone does not say so: it is inherited, too."""
    with suppress(OSError, ValueError):
        told = os.fstat(stream.fileno())
        return os.environ.get("JOURNAL_STREAM") == f"{told.st_dev}:{told.st_ino}"
    return False
