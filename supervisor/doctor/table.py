"""Every examination, and how they are made: all at once, none for ever."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from azaion import config, declarations
from azaion.config import ConfigError
from azaion.declarations import Declarations
from azaion.errors import AzaionError
from supervisor.doctor import machine, reach, software, storage
from supervisor.doctor.model import Diagnosis, Patient
from supervisor.health.apart import Apart
from supervisor.health.model import Verdict

_LIMIT_S: Final = 75.0

Examination = Callable[[Patient], list[Diagnosis] | Awaitable[list[Diagnosis]]]

#: In the order in which people read them: what explains others comes first.
EXAMINATIONS: Final[Sequence[Examination]] = (
    software.configuration,
    machine.user,
    storage.permissions,
    storage.secrets,
    storage.disks,
    software.python,
    software.packages,
    software.gpus,
    machine.memory,
    machine.pressure,
    machine.limits,
    machine.cgroups,
    machine.clock,
    software.systemd,
    reach.broker,
    reach.publishing,
    reach.alerts,
    software.daemon,
)


def patient_of(environ: Mapping[str, str], env_file: Path | None, socket: Path) -> Patient:
    """What is to be examined, as far as it can be made out."""
    problems: list[str] = []
    settings: config.Config | None = None
    declared: Declarations | None = None
    try:
        settings = config.settings(environ, env_file)
    except ConfigError as error:
        problems += error.problems or [str(error)]
    if settings is not None:
        try:
            declared = declarations.read(settings.daemon.declarations, required=settings.declarations_required)
        except ConfigError as error:
            problems += error.problems or [str(error)]
        except (AzaionError, OSError) as error:
            problems.append(str(error))
    return Patient(
        config=settings,
        declarations=declared,
        problems=tuple(problems),
        environ=environ,
        env_file=env_file,
        socket=socket,
    )


async def examine(patient: Patient, examinations: Sequence[Examination] = EXAMINATIONS) -> list[Diagnosis]:
    """Everything, in the order of the examinations."""
    found = await asyncio.gather(*(_made(each, patient) for each in examinations))
    return [diagnosis for each in found for diagnosis in each]


async def _made(examination: Examination, patient: Patient) -> list[Diagnosis]:
    name = getattr(examination, "__name__", "examination")
    try:
        async with asyncio.timeout(_LIMIT_S):
            if inspect.iscoroutinefunction(examination):
                found: list[Diagnosis] = await examination(patient)
                return found
            # What hangs at a dead filesystem hangs alone.
            return await Apart(partial(_called, examination, patient), f"doctor {name}")()
    except TimeoutError:
        text = f"could not be examined within {_LIMIT_S:g} s"
    except Exception as error:  # noqa: BLE001 - one that fails must not hide what the others have found
        text = f"could not be examined: {type(error).__name__}: {error}"
    return [Diagnosis(name=name, verdict=Verdict.UNKNOWN, text=text, cure="look by hand: docs/alerts.md#the-doctor")]


def _called(examination: Examination, patient: Patient) -> list[Diagnosis]:
    found = examination(patient)
    if not isinstance(found, list):
        raise TypeError("an examination that waits must be a coroutine function")
    return found
