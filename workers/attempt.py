"""What a worker's process is beside its work: from the attempt's folder to the exit code, with a last word always."""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from azaion import failpoints, files
from azaion.layout import AttemptFolder
from azaion.progress import ExitCode, Result, write_result
from workers.training import failures
from workers.training.errors import TrainingError
from workers.training.stop import StopSwitch

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Account:
    """What an attempt can say of itself, whichever way it ends: the fields of its `Result`, see there."""

    message: str = ""
    resumed_from_epoch: int | None = None
    verified_epoch: int | None = None
    batch: int | None = None
    artifacts: dict[str, Any] = field(default_factory=dict)


class Work(Protocol):
    """What an attempt does. It may be broken off anywhere, and begun again by another attempt.

    Attributes:
        nonce: that of the attempt's spec.
        scratch: a folder that is of no use any more when the work is done; None if all of it is kept.
        resumption: what the next attempt does if this one is asked to stop.
    """

    nonce: str
    scratch: Path | None
    resumption: str

    @property
    def account(self) -> Account:
        """What it can say of itself so far."""

    def run(self) -> None:
        """Do it, and say in the account what came of it."""


def conduct(name: str, begin: Callable[[AttemptFolder, StopSwitch], Work]) -> None:
    """Run one attempt and exit with its code.

    Args:
        name: of the worker's module.
        begin: reads what is to be done.
    """
    code = _run(name, begin)
    _flush()
    sys.exit(code)


def _run(name: str, begin: Callable[[AttemptFolder, StopSwitch], Work]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        (argument,) = sys.argv[1:]
    except ValueError:
        logger.error("usage: python -m workers.%s ATTEMPT_FOLDER", name)  # noqa: TRY400 - no traceback worth a look
        return ExitCode.CONFIG
    folder = AttemptFolder(path=Path(argument).absolute())
    stop = StopSwitch()
    work = None
    try:
        stop.install()
        work = begin(folder, stop)
        work.run()
        # It is done, and shall be told, whoever asks for an end from here on.
        stop.ignore()
        code, message = ExitCode.SUCCEEDED, work.account.message
    except BaseException as error:  # every end has its exit code and its last word
        stop.ignore()
        code, message = failures.classify(error)
        if code is ExitCode.INTERRUPTED and work is not None:
            message = f"{message}; {work.resumption}"
        traceback = not isinstance(error, TrainingError) and code is not ExitCode.INTERRUPTED
        logger.log(logging.INFO if code is ExitCode.INTERRUPTED else logging.ERROR, "%s", message, exc_info=traceback)
    account = replace(work.account if work is not None else Account(), message=message)
    result = Result(nonce=work.nonce if work is not None else "", exit_code=code, **asdict(account))
    try:
        failpoints.hit("result.begun")
        write_result(folder, result)
    except OSError as error:
        logger.error("the result could not be written: %s", error)  # noqa: TRY400 - the exit code still says it
    failpoints.hit("result.written")
    if work is not None and work.scratch is not None and code is ExitCode.SUCCEEDED:
        _clear(work.scratch)
    return code


def _clear(folder: Path) -> None:
    """Leave nothing that would count as a run to be kept. What cannot be removed is left to retention."""
    os.chdir("/")
    with suppress(OSError):
        files.remove_tree(folder)


def _flush() -> None:
    """Write out the log. On a full disk Python would give up on it at exit, and exit with 120 instead of our code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
