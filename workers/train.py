"""The training worker: ``python -P -m workers.train ATTEMPT_FOLDER``.

It is told what to do by ``spec.json`` of the folder and by SIGTERM (finish the epoch, then stop); it tells how far it
is in ``progress.json`` and ``metrics.jsonl``, and its last word is ``result.json``.
"""

import logging
import os
import sys
from pathlib import Path

from azaion import failpoints
from azaion.layout import AttemptFolder
from azaion.progress import ExitCode, Result, write_result
from workers.training import failures, spec
from workers.training.errors import TrainingError
from workers.training.session import Session
from workers.training.stop import StopSwitch

logger = logging.getLogger(__name__)


def main() -> int:
    """Run one attempt and return its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        (argument,) = sys.argv[1:]
    except ValueError:
        logger.error("usage: python -m workers.train ATTEMPT_FOLDER")  # noqa: TRY400 - there is no traceback worth a look
        return ExitCode.CONFIG
    folder = AttemptFolder(path=Path(argument).absolute())
    stop = StopSwitch()
    stop.install()
    nonce, session = "", None
    try:
        job = spec.load(folder)
        nonce, session = job.nonce, Session(job, folder, stop)
        session.run()
        code, message = ExitCode.SUCCEEDED, session.account.message
    except BaseException as error:  # every end has its exit code and its last word
        stop.ignore()
        code, message = failures.classify(error)
        traceback = not isinstance(error, TrainingError) and code is not ExitCode.INTERRUPTED
        logger.log(logging.INFO if code is ExitCode.INTERRUPTED else logging.ERROR, "%s", message, exc_info=traceback)
    result = Result(
        nonce=nonce,
        exit_code=code,
        message=message,
        resumed_from_epoch=session.account.resumed_from_epoch if session else None,
        verified_epoch=session.store.epoch if session else None,
        batch=session.account.batch if session else None,
        artifacts=session.account.artifacts if session else {},
    )
    try:
        failpoints.hit("result.begun")
        write_result(folder, result)
    except OSError as error:
        logger.error("the result could not be written: %s", error)  # noqa: TRY400 - the exit code still says it
    failpoints.hit("result.written")
    return code


def _flush() -> None:
    """Write out the log. On a full disk Python would give up on it at exit, and exit with 120 instead of our code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    exit_code = main()
    _flush()
    sys.exit(exit_code)
