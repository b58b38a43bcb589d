"""What the doctor knows, and what he says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from azaion.config import Config
from azaion.declarations import Declarations
from supervisor.health.model import Verdict


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What is looked at.

    Attributes:
        config: the configuration; None if it is wrong.
        declarations: what ``azaion.yaml`` declares; None if it is wrong.
        problems: what is wrong with either.
        environ: the environment.
        env_file: the ``.env``; None if there is none here.
        socket: where the daemon listens.
    """

    config: Config | None
    declarations: Declarations | None
    problems: tuple[str, ...]
    environ: Mapping[str, str]
    env_file: Path | None
    socket: Path


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is so with one thing.

    Attributes:
        name: of the thing.
        text: one line.
        cure: the command that mends it; empty if it is well.
    """

    name: str
    verdict: Verdict
    text: str
    cure: str = ""


def well(name: str, text: str) -> Diagnosis:
    """Nothing is wrong."""
    return Diagnosis(name=name, verdict=Verdict.OK, text=text)


def ill(name: str, text: str, cure: str) -> Diagnosis:
    """It cannot work like that."""
    return Diagnosis(name=name, verdict=Verdict.CRITICAL, text=text, cure=cure)


def weak(name: str, text: str, cure: str) -> Diagnosis:
    """It works, and not as well as it should."""
    return Diagnosis(name=name, verdict=Verdict.WARNING, text=text, cure=cure)
