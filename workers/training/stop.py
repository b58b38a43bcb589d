"""SIGTERM: stop, but never in the middle of an epoch."""

import signal
from types import FrameType

from workers.training.errors import Interrupted


class StopSwitch:
    """Turns SIGTERM into `Interrupted`: at once, or, while it is held, at the next `check`.

    Only the first SIGTERM does anything.
    """

    def __init__(self) -> None:
        self.requested = False
        self._held = False

    def install(self) -> None:
        """Take over SIGTERM."""
        signal.signal(signal.SIGTERM, self._handle)

    def hold(self) -> None:
        """From now on what we do must be brought to its end.

        Raises:
            Interrupted: we were asked to stop already. A handler's exception can get lost, in a finalizer for one.
        """
        self._held = True
        self.check()

    def ignore(self) -> None:
        """From now on nothing stops us: we end as it is."""
        self._held = True

    def release(self) -> None:
        """From now on what we do may be broken off anywhere.

        Raises:
            Interrupted: we were asked to stop meanwhile.
        """
        self._held = False
        self.check()

    def check(self) -> None:
        """Stop here if we were asked to.

        Raises:
            Interrupted: we were.
        """
        if self.requested:
            raise Interrupted

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        first, self.requested = not self.requested, True
        if first and not self._held:
            raise Interrupted
