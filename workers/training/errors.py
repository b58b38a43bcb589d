"""Why a run can end before its time; each cause has its own exit code."""

from typing import ClassVar

from azaion.errors import AzaionError
from azaion.progress import ExitCode


class TrainingError(AzaionError):
    """The run cannot go on, and the message says what to do about it."""

    exit_code: ClassVar[ExitCode] = ExitCode.SOFTWARE


class SpecError(TrainingError):
    """The job asks for something that cannot be done."""

    exit_code = ExitCode.CONFIG


class DataError(TrainingError):
    """The dataset is missing, empty, unreadable or damaged."""

    exit_code = ExitCode.DATA


class BaseModelError(TrainingError):
    """The model to begin with is missing or unreadable."""

    exit_code = ExitCode.NO_INPUT


class CheckpointError(TrainingError):
    """A checkpoint was completed once, and none can be trusted now."""

    exit_code = ExitCode.CHECKPOINT


class Interrupted(BaseException):
    """No error: the run was asked to stop. No ``except Exception`` in a library may swallow it, hence the base."""
