"""One of several processes that train together: ``python -P -m workers.rank ATTEMPT_FOLDER ARGUMENTS``.

It is started by `workers.training.ranks`, with torch's variables for distributed runs, everything that
`workers.training.environment` has set, and ultralytics' arguments as JSON. The first one alone writes checkpoints and
tells how far the run is.
"""

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from azaion import files
from azaion.layout import AttemptFolder
from azaion.progress import ExitCode
from workers.training import failures, nms, spec
from workers.training.checkpoint import CheckpointStore
from workers.training.errors import TrainingError
from workers.training.reporter import Reporter
from workers.training.stop import StopSwitch

logger = logging.getLogger(__name__)


class Silence:
    """A reporter that tells nobody."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def main() -> int:
    """Train, and return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    folder, number = AttemptFolder(path=Path(sys.argv[1])), int(os.environ["RANK"])
    stop = StopSwitch()
    if number == 0:
        stop.install()
    # Whoever has started us has held it back until now.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        _train(folder, stop, first=number == 0)
    except BaseException as error:  # every end has its exit code and its last word
        stop.ignore()
        code, message = failures.classify(error)
        traceback = not isinstance(error, TrainingError) and code is not ExitCode.INTERRUPTED
        logger.log(logging.INFO if code is ExitCode.INTERRUPTED else logging.ERROR, "%s", message, exc_info=traceback)
        files.write_json(folder.rank(number), {"code": code, "message": message}, durable=False)
        return code
    return ExitCode.SUCCEEDED


def _train(folder: AttemptFolder, stop: StopSwitch, *, first: bool) -> None:
    job = spec.load(folder)
    store = CheckpointStore(job.run_folder)
    start = store.open()
    nms.provide()
    from workers.training.trainer import Trainer, Wiring  # noqa: PLC0415 - slow, and nothing without a checkpoint

    reporter: Any = Reporter(folder) if first else Silence()
    wiring = Wiring(run=job.run_folder, store=store, stop=stop, reporter=reporter)
    trainer = Trainer(json.loads(sys.argv[2]), wiring, start)
    try:
        trainer.train()
    finally:
        trainer.close()


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    # Not by the way of destructors: those of a process group wait for ranks that have gone.
    os._exit(exit_code)
