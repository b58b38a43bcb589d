"""The evaluation worker: ``python -P -m workers.evaluate ATTEMPT_FOLDER``.

Scores a model on the test images of a dataset and, where a gate is asked for, lets it take over or wait.
"""

from azaion.layout import AttemptFolder
from workers import assignment
from workers.attempt import conduct
from workers.evaluation.session import Session
from workers.evaluation.spec import Spec
from workers.training.stop import StopSwitch


def _begin(folder: AttemptFolder, stop: StopSwitch) -> Session:
    return Session(assignment.load(folder, Spec), folder, stop)


if __name__ == "__main__":
    conduct("evaluate", _begin)
