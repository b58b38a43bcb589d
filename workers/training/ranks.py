"""Several GPUs: one process for each, which ultralytics keeps in step with torch's DistributedDataParallel.

The worker itself trains nothing then. It starts the processes, passes a stop on to the first of them, which writes the
checkpoints, and ends them all as soon as one has failed: the others would wait for it for hours.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from azaion import files
from azaion.layout import AttemptFolder
from azaion.progress import ExitCode
from workers.training.errors import TrainingError
from workers.training.stop import StopSwitch

#: What a process of a rank is started with; the attempt's folder and ultralytics' arguments follow.
COMMAND: Sequence[str] = (sys.executable, "-P", "-m", "workers.rank")

_LOOK_S: Final = 0.2
#: The others end within a moment of the first; what does not then waits for it.
_LINGER_S: Final = 5.0


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """The last word of a rank.

    Attributes:
        code: what it exits with.
        message: one line.
    """

    code: int
    message: str = ""


class RankError(TrainingError):
    """A rank has failed; it has said why."""

    def __init__(self, word: Word) -> None:
        super().__init__(word.message)
        self.exit_code = ExitCode(word.code)  # type: ignore[misc] # of this one error


def run(folder: AttemptFolder, arguments: Mapping[str, Any], count: int, stop: StopSwitch) -> None:
    """Train with so many processes until all of them are done.

    Raises:
        Interrupted: we were asked to stop, and the epoch has been brought to its end.
        RankError: one has failed; the others have been ended.
    """
    from ultralytics.utils.dist import find_free_network_port  # noqa: PLC0415 - after `environment.prepare`

    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_network_port()),
        "WORLD_SIZE": str(count),
    }
    ranks: list[subprocess.Popen[bytes]] = []
    stop.hold()
    try:
        command = [*COMMAND, str(folder.path), json.dumps(arguments)]
        # A stop must not kill the first one before it can tell a stop from an end.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        for number in range(count):
            own = {"RANK": str(number), "LOCAL_RANK": str(number)}
            ranks.append(subprocess.Popen(command, env=environment | own))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _watch(ranks, stop)
    finally:
        codes = [rank.poll() or 0 for rank in ranks]
        for rank in ranks:
            rank.kill()
            rank.wait()
    if codes[0] == ExitCode.INTERRUPTED:
        # Those that missed it then are not to blame.
        stop.requested = True
    elif any(codes):
        _fail(folder, codes)
    stop.check()


def _watch(ranks: Sequence[subprocess.Popen[bytes]], stop: StopSwitch) -> None:
    """Return when all have ended, or one has and the others do not follow."""
    asked = False
    deadline: float | None = None
    while any(rank.poll() is None for rank in ranks):
        if deadline is None and any(rank.returncode is not None for rank in ranks):
            # The others follow: they are done too, or they miss the one that has failed.
            deadline = time.monotonic() + _LINGER_S
        if deadline is not None and time.monotonic() > deadline:
            break
        if stop.requested and not asked:
            # Only the first knows when an epoch is whole.
            ranks[0].terminate()
            asked = True
        time.sleep(_LOOK_S)


def _fail(folder: AttemptFolder, codes: Sequence[int]) -> None:
    """Fail as the rank that is to blame: one that was killed, else one that knows more than that others are gone."""
    blame = sorted((code > 0, code == ExitCode.SOFTWARE, number) for number, code in enumerate(codes) if code)
    number = blame[0][-1]
    code = codes[number]
    if code < 0:
        # So that it is told of us what is true of it: killed for memory, for one.
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    try:
        word = msgspec.convert(files.read_json(folder.rank(number)), Word)
    except (OSError, files.FileError, msgspec.ValidationError):
        word = Word(code=ExitCode.SOFTWARE, message=f"it ended with {code} without a word; the log may say why")
    raise RankError(msgspec.structs.replace(word, message=f"on GPU {number}: {word.message}"))
