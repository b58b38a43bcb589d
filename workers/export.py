"""The export worker: ``python -P -m workers.export ATTEMPT_FOLDER``.

Writes a model in another format, compares it with the model, and only then puts it beside it.
"""

from azaion.layout import AttemptFolder
from workers import assignment
from workers.attempt import conduct
from workers.exporting.session import Session
from workers.exporting.spec import Spec
from workers.training.stop import StopSwitch


def _begin(folder: AttemptFolder, stop: StopSwitch) -> Session:
    return Session(assignment.load(folder, Spec), folder, stop)


if __name__ == "__main__":
    conduct("export", _begin)
