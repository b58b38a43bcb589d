"""The publish worker: ``python -P -m workers.publish ATTEMPT_FOLDER``.

Encrypts a model, sends it, and leads consumers to it. It alone has the password of the API and the keys: it reads them
itself, from systemd's credentials or from ``.env`` in its working folder.
"""

from azaion.layout import AttemptFolder
from workers import assignment
from workers.attempt import conduct
from workers.publishing.session import Session
from workers.publishing.spec import Spec
from workers.training.stop import StopSwitch


def _begin(folder: AttemptFolder, stop: StopSwitch) -> Session:
    return Session(assignment.load(folder, Spec), folder, stop)


if __name__ == "__main__":
    conduct("publish", _begin)
