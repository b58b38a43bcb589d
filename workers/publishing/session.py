"""One attempt at a publication, from the spec to what consumers see.

It may be broken off anywhere: what has been sent is not sent again.
"""

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Final

from azaion import models
from azaion.environment import env_file
from azaion.errors import AzaionError
from azaion.gate import Outcome as Judged
from azaion.layout import AttemptFolder, ModelFolder
from azaion.logs import secrets
from azaion.models import Model
from azaion.progress import ExitCode
from azaion.publishing import contents, targets
from azaion.publishing.contents import ContentsError
from azaion.publishing.errors import DamagedError, KeysError, PublishingError, UnreachableError
from azaion.publishing.package import Packer
from azaion.publishing.procedure import Order, Outcome, Procedure
from azaion.redaction import Redaction
from azaion.settings import Config
from azaion.words import size
from workers import subject
from workers.attempt import Account
from workers.publishing.spec import Spec
from workers.training.errors import BaseModelError, SpecError, TrainingError
from workers.training.reporter import Reporter
from workers.training.stop import StopSwitch

logger = logging.getLogger(__name__)


class NetworkError(TrainingError):
    """The target cannot be reached now. Nothing is wrong with the model: it is tried again for as long as it takes."""

    exit_code: ClassVar[ExitCode] = ExitCode.UNREACHABLE


class ArrivalError(TrainingError):
    """What has arrived is not what was sent."""

    exit_code: ClassVar[ExitCode] = ExitCode.PROTOCOL


class RefusalError(TrainingError):
    """The target does not let us, or the keys cannot be used: another attempt changes nothing."""

    exit_code: ClassVar[ExitCode] = ExitCode.REFUSED


#: What an error of publishing is to the daemon; the first that fits.
_KINDS: Final[tuple[tuple[type[AzaionError], type[TrainingError]], ...]] = (
    (UnreachableError, NetworkError),
    (DamagedError, ArrivalError),
    (ContentsError, BaseModelError),
    (KeysError, SpecError),
    (PublishingError, RefusalError),
    (AzaionError, SpecError),
)


class _Stopping:
    """Tells how far it is, and stops there if asked to.

    The handler's own exception is lost where asyncio calls back: it takes down any that passes.
    """

    def __init__(self, reporter: Reporter, stop: StopSwitch) -> None:
        self._reporter = reporter
        self._stop = stop

    def phase(self, phase: str, *, batches: int = 0) -> None:
        """See `Reporter`."""
        self._stop.check()
        self._reporter.phase(phase, batches=batches)

    def step(self, done: int, total: int) -> None:
        """See `Reporter`."""
        self._stop.check()
        self._reporter.step(done, total)


class Session:
    """One attempt at a publication."""

    def __init__(self, spec: Spec, folder: AttemptFolder, stop: StopSwitch) -> None:
        self.nonce = spec.nonce
        self.resumption = "another attempt goes on from here"
        self.account = Account()
        self.scratch: Path | None = None
        self._spec = spec
        self._reporter = _Stopping(Reporter(folder), stop)

    def run(self) -> None:
        """Publish the model.

        Raises:
            NetworkError: the target cannot be reached now.
            ArrivalError: what has arrived is not what was sent.
            RefusalError: the target does not let us, or the keys cannot be used.
            Interrupted: we were asked to stop.
            Exception: `workers.training.failures` says what each means.
        """
        self._reporter.phase("starting")
        settings = subject.configuration(self._spec.config)
        wanted = self._spec.publish
        model = subject.find(settings.layout, of=wanted.of, name=wanted.model)
        self.account.artifacts = {"model": model.name, "published": False}
        if withheld := self._withheld(settings, model):
            self._tell_withheld(model, withheld)
            return
        with _discreetly(settings):
            source = contents.source(settings, model, wanted.export)
            with targets.opened(settings, os.environ, env_file(os.environ), wanted.target) as target:
                procedure = Procedure(settings.layout, target, Packer(settings), self._reporter)
                order = Order(
                    model=model,
                    source=source,
                    job=self._spec.job,
                    keep=settings.publishing.keep,
                    allowed=lambda: self._withheld(settings, model),
                )
                outcome = procedure.run(order)
                self._tell(model, outcome, target.place)

    def _withheld(self, settings: Config, model: Model) -> str:
        """Why consumers shall not get it: what follows a training only publishes the model in use."""
        if self._spec.publish.of is None:
            return ""
        current = models.current(settings.layout)
        if current == model.name:
            return ""
        gate = contents.verdict(ModelFolder(path=model.path))
        if gate is not None and gate.outcome is Judged.WAITS:
            return f"it waits for `models promote`: {gate.reason}"
        return f"{current or 'no model'} is in use, and not this one"

    def _tell_withheld(self, model: Model, why: str) -> None:
        self.account.message = (
            f"{model.name} is not published: {why}; once it is in use, run `azaionctl publish {model.name}`"
        )

    def _tell(self, model: Model, outcome: Outcome, place: str) -> None:
        """The last word."""
        told = outcome.told
        self.account.artifacts |= {
            "publication": told.publication,
            "target": place,
            "file": told.file,
            "format": str(told.format),
            "keys": list(told.keys),
            "sent": outcome.sent,
            "published": not outcome.withheld,
        }
        if outcome.withheld:
            self._tell_withheld(model, outcome.withheld)
            return
        sent = f"{size(outcome.sent)} sent" if outcome.sent else "nothing had to be sent"
        pruned = f"; {len(outcome.pruned)} old publications removed there" if outcome.pruned else ""
        self.account.message = f"{told.file} of {model.name} is published at {place} ({told.format}, {sent}){pruned}"


@contextmanager
def _discreetly(settings: Config) -> Iterator[None]:
    """Give every error its cause, and let no secret into the log or into the last word, whoever has put it there."""
    try:
        redaction = Redaction(secrets(settings, environment=os.environ, env_file=env_file(os.environ)))
    except AzaionError as error:
        raise SpecError(" ".join(str(error).split())) from None
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Discreet(handler.formatter, redaction))
    try:
        yield
    except (TrainingError, OSError, MemoryError):
        raise
    except AzaionError as error:
        kind = next(ours for theirs, ours in _KINDS if isinstance(error, theirs))
        raise kind(redaction.text(" ".join(str(error).split()))) from None
    except Exception as error:  # noqa: BLE001 - whatever a library says may show what it was given
        logger.error("%s", traceback.format_exc())  # noqa: TRY400 - the formatter would not see the traceback
        raise TrainingError(redaction.text(f"{type(error).__name__}: {error}; the traceback is in the log")) from None


class _Discreet(logging.Formatter):
    """Writes what another formatter does, without secrets."""

    def __init__(self, formatter: logging.Formatter | None, redaction: Redaction) -> None:
        super().__init__()
        self._formatter = formatter or logging.Formatter()
        self._redaction = redaction

    def format(self, record: logging.LogRecord) -> str:
        return self._redaction.text(self._formatter.format(record))
