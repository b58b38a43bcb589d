"""The user's own ``azaion.yaml``: what has more structure than a variable can hold."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from azaion import yaml_file
from azaion.declarations import alerts, gate, health, retrain, services
from azaion.declarations.alerts import AlertsDeclaration
from azaion.declarations.gate import GateDeclaration
from azaion.declarations.health import HealthDeclaration
from azaion.declarations.retrain import RetrainDeclaration
from azaion.declarations.services import Declaration
from azaion.declarations.values import unknown
from azaion.settings import ConfigError

_SECTIONS: Final = ("services", "health", "alerts", "gate", "retrain")
_ADVICE: Final = (
    "Mend it there; docs/services.md, docs/health.md, docs/alerts.md, docs/models.md and docs/retraining.md"
    " show every key."
)


@dataclass(frozen=True, kw_only=True)
class Declarations:
    """What the user has declared.

    Attributes:
        services: each after those that it comes after.
        health: how each check looks.
        alerts: who is told when something is not.
        gate: when a new model may take over by itself.
        retrain: when a training is filed by itself.
    """

    services: tuple[Declaration, ...] = ()
    health: HealthDeclaration = field(default_factory=HealthDeclaration)
    alerts: AlertsDeclaration = field(default_factory=AlertsDeclaration)
    gate: GateDeclaration = field(default_factory=GateDeclaration)
    retrain: RetrainDeclaration = field(default_factory=RetrainDeclaration)


def read(path: Path, *, required: bool) -> Declarations:
    """Read a user's ``azaion.yaml``.

    Args:
        path: the file.
        required: whether it is wrong that there is no such file; else nothing is declared then.

    Raises:
        ConfigError: names everything that is wrong with the file in one go.
    """
    headline = f"{path} cannot be used:"
    try:
        document = yaml_file.read(path)
    except FileNotFoundError:
        if not required:
            return Declarations()
        raise ConfigError(headline, ["there is no such file"], "Make it, or mend AZAION_DECLARATIONS.") from None
    except yaml_file.YamlError as error:
        raise ConfigError(headline, [str(error)], _ADVICE) from None
    problems = list(unknown(document, _SECTIONS, ""))
    found = Declarations(
        services=services.section(document.get("services") or {}, problems),
        health=health.section(document.get("health") or {}, problems),
        alerts=alerts.section(document.get("alerts") or {}, problems),
        gate=gate.section(document.get("gate") or {}, problems),
        retrain=retrain.section(document.get("retrain") or {}, problems),
    )
    if problems:
        raise ConfigError(headline, problems, _ADVICE)
    return found
