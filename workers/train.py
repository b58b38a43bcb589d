"""The training worker: ``python -P -m workers.train ATTEMPT_FOLDER``.

It is told what to do by ``spec.json`` of the folder and by SIGTERM (finish the epoch, then stop); it tells how far it
is in ``progress.json`` and ``metrics.jsonl``, and its last word is ``result.json``.
"""

from azaion.layout import AttemptFolder
from workers.attempt import conduct
from workers.training import spec
from workers.training.session import Session
from workers.training.stop import StopSwitch


def _begin(folder: AttemptFolder, stop: StopSwitch) -> Session:
    return Session(spec.load(folder), folder, stop)


if __name__ == "__main__":
    conduct("train", _begin)
