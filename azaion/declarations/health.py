"""Section ``health`` of ``azaion.yaml``: how often each check looks, and from where on it warns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Final

from msgspec import Meta

from azaion.declarations.values import unknown, values

_Interval = Annotated[float, Meta(ge=1, le=86400, description="a number of seconds, 1 to 86400")]
_Level = Annotated[float, Meta(ge=0, le=1e9, description="a number from 0")]
_Flag = Annotated[bool, Meta(description="true or false")]

_WHERE: Final = "health.checks"


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """How one check looks.

    Attributes:
        interval_s: seconds between two looks while all is well.
        warning: from this value on it warns; None where nothing is measured, or nothing warns.
        critical: from this value on it is critical; the same.
        enabled: whether it looks at all.
    """

    interval_s: _Interval
    warning: _Level | None = None
    critical: _Level | None = None
    enabled: _Flag = True


#: Every check with its defaults, in the order in which people read them. Where ``critical`` is the smaller one,
#: less is worse.
CHECKS: Final[Mapping[str, CheckSettings]] = MappingProxyType(
    {
        "consumer": CheckSettings(interval_s=15),
        "offset": CheckSettings(interval_s=15, warning=1800, critical=7200),
        "quarantine": CheckSettings(interval_s=300, warning=10, critical=200),
        "broker": CheckSettings(interval_s=300),
        "publishing": CheckSettings(interval_s=3600),
        "certificate": CheckSettings(interval_s=21600, warning=21, critical=7),
        "gpu": CheckSettings(interval_s=300, warning=88, critical=95),
        "training": CheckSettings(interval_s=60, warning=50),
        "services": CheckSettings(interval_s=60),
        "disk": CheckSettings(interval_s=300, warning=80, critical=95),
        "inodes": CheckSettings(interval_s=300, warning=80, critical=95),
        "database": CheckSettings(interval_s=600, warning=1, critical=10),
        "memory": CheckSettings(interval_s=60, warning=90, critical=97),
        "pressure": CheckSettings(interval_s=60, warning=10, critical=40),
        "oom": CheckSettings(interval_s=60, warning=1),
        "clock": CheckSettings(interval_s=60, warning=2),
        "loop": CheckSettings(interval_s=60, warning=1, critical=10),
        "secrets": CheckSettings(interval_s=21600, warning=90),
    }
)


@dataclass(frozen=True, kw_only=True)
class HealthDeclaration:
    """What the user has declared of health.

    Attributes:
        checks: the settings of every check, by its name.
    """

    checks: Mapping[str, CheckSettings] = field(default_factory=lambda: CHECKS)


def section(given: object, problems: list[str]) -> HealthDeclaration:
    """What stands below ``health``; whatever is wrong joins the problems."""
    if not isinstance(given, dict):
        problems.append("health: expected `checks:` with names of checks")
        return HealthDeclaration()
    problems += unknown(given, ("checks",), "health.")
    checks = given.get("checks") or {}
    if not isinstance(checks, dict):
        problems.append(f"{_WHERE}: expected names of checks, each with what is to be different")
        return HealthDeclaration()
    problems += unknown(checks, tuple(CHECKS), f"{_WHERE}.")
    return HealthDeclaration(
        checks=MappingProxyType(
            {name: _settings(name, default, checks.get(name), problems) for name, default in CHECKS.items()}
        )
    )


def _settings(name: str, default: CheckSettings, given: object, problems: list[str]) -> CheckSettings:
    where = f"{_WHERE}.{name}"
    if given is None:
        return default
    if not isinstance(given, dict):
        problems.append(f"{where}: expected keys with values, such as `interval_s: 60`")
        return default
    # Only what stands there counts, so that nothing is missing.
    converted = values(CheckSettings, {"interval_s": default.interval_s, **given}, where, problems)
    problems += [
        f"{where}.{level}: this check has no such threshold; docs/health.md says what it has"
        for level in ("warning", "critical")
        if converted.get(level) is not None and getattr(default, level) is None
    ]
    settings = replace(default, **converted)
    if settings.warning is not None and settings.critical is not None and default.warning and default.critical:
        less, more = sorted((settings.warning, settings.critical))
        falling = default.critical < default.warning
        same = less == more and falling
        if same or (settings.warning, settings.critical) != ((more, less) if falling else (less, more)):
            problems.append(
                f"{where}: {'less' if falling else 'more'} is worse here, so critical ({settings.critical:g}) must lie "
                f"{'below' if falling else 'above'} warning ({settings.warning:g})"
            )
    return settings
