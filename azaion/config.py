"""The configuration: from ``.env`` and the environment, checked, to ``config.yaml`` and back.

Whoever needs a setting takes it from a `Config`; nobody reads the environment by himself.
"""

import difflib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any, Final

import yaml

from azaion import files, yaml_file
from azaion.environment import base, credentials, read_env_file, resolve
from azaion.layout import Layout
from azaion.settings import (
    SECTIONS,
    VARIABLES,
    Config,
    ConfigError,
    LauncherName,
    LogFormat,
    ModelFormat,
    PublishTarget,
    SecretReference,
    Source,
    Variable,
)

__all__ = [
    "VARIABLES",
    "Config",
    "ConfigError",
    "LauncherName",
    "LogFormat",
    "ModelFormat",
    "PublishTarget",
    "SecretReference",
    "Source",
    "Variable",
    "check_root",
    "diff",
    "load",
    "make_folders",
    "make_state_folder",
    "render",
    "resolve",
    "settings",
    "write",
]

#: `sun_path` holds 108 bytes, the last of them zero.
_MAX_SOCKET_BYTES: Final = 107

_HEAD: Final = """\
# The configuration of Azaion Training, made by `azaionctl config render` from .env and the environment.
# Change those and render again; what is written here by hand is lost. It holds no secret, only where each is found.
"""


def settings(environ: Mapping[str, str], env_file: Path | None) -> Config:
    """Check every setting: of ``.env``, of the environment, which beats it, of systemd's credentials, which beat both.

    A relative path counts from the folder of ``.env``. An empty value counts as not given.

    Raises:
        ConfigError: names every missing, unknown and malformed variable in one go, and shows no secret.
    """
    found, problems = read_env_file(env_file) if env_file is not None else ({}, [])
    here = base(env_file, environ)
    given = {**found, **{name: value for name, value in environ.items() if value}, **credentials(environ)}
    texts = {variable.name: given.get(variable.name) for variable in VARIABLES}
    values: dict[str, Any] = {}
    for variable in VARIABLES:
        text = texts[variable.name] or _default(variable, values)
        if text is None and not (variable.secret and variable.optional):
            # Whether a secret that may be missing is there, only its owner sees.
            continue
        try:
            # The value of a secret is not even looked at.
            value = SecretReference(variable.name) if variable.secret else variable.convert(text, strict=False)
        except ValueError as error:
            origin = "the environment" if environ.get(variable.name) else env_file
            problems.append(f"{variable.name}: {error} (in {origin})")
            value = None
        if isinstance(value, Path) and variable.key != "root":
            value = Path(os.path.normpath(here / value))
        values[variable.name] = value
    problems += [f"{variable.name}: missing. {variable.doc}" for variable in _missing(values)]
    problems += _conflicts(values, lambda variable: variable.name)
    if problems:
        raise ConfigError(
            f"The configuration has {_count(problems)}:",
            problems,
            f"Mend them in {env_file or '.env'} or in the environment; .env.example shows every variable.",
        )
    return _config(values)


def render(config: Config) -> str:
    """The text of ``config.yaml``: every setting with its comment, every secret as a reference."""
    lines = [_HEAD]
    for section in SECTIONS:
        part = getattr(config, section)
        if part is None:
            continue
        lines.append(f"\n{section}:\n")
        for variable in _of(section):
            text = yaml.safe_dump(
                {variable.key: _plain(getattr(part, variable.key))}, allow_unicode=True, width=1 << 20
            )
            lines.append(indent(f"# {variable.name}: {variable.doc}\n{text}", "  "))
    return "".join(lines)


def write(config: Config, path: Path) -> None:
    """Replace ``path`` by the rendered configuration, atomically and durably."""
    files.replace(path, render(config).encode())


def load(path: Path) -> Config:
    """Read a rendered ``config.yaml``.

    Raises:
        ConfigError: names every missing, unknown and malformed key in one go.
    """
    document = _document(path)
    values: dict[str, Any] = {}
    problems = [f"{_brief(section)}: unknown section" for section in document if section not in SECTIONS]
    for section in SECTIONS:
        part = document.get(section, {})
        if not isinstance(part, dict):
            problems.append(f"{section}: expected keys with values")
            part = {}
        problems += _read_section(section, part, values)
    problems += [f"{_key(variable)}: missing" for variable in _missing(values)]
    problems += _conflicts(values, _key)
    problems += [
        f"{_key(variable)}: {value} is not absolute"
        for variable in VARIABLES
        if isinstance(value := values.get(variable.name), Path) and not value.is_absolute() and variable.key != "root"
    ]
    if problems:
        raise ConfigError(f"{path} has {_count(problems)}:", problems, "Make it anew: azaionctl config render")
    return _config(values)


def diff(old: str, new: str) -> str:
    """How the text of one ``config.yaml`` differs from another; empty if it does not."""
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), "config.yaml now", "config.yaml rendered", lineterm=""
    )
    return "".join(f"{line}\n" for line in lines)


def check_root(config: Config) -> None:
    """Make sure that the root of the data is there. It is never made: an absent one may be an unmounted disk.

    Raises:
        ConfigError: it is absent, no folder, or may not be written.
    """
    root = config.directories.root
    if not root.exists():
        raise ConfigError(
            "The root of the data is absent:",
            [f"AZAION_ROOT_DIR: {root} does not exist"],
            f"If it lies on a disk of its own, mount that disk; on a new server make the folder: mkdir {root}",
        )
    if not root.is_dir():
        raise ConfigError("The root of the data is no folder:", [f"AZAION_ROOT_DIR: {root}"])
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(
            "The root of the data is out of reach:",
            [f"AZAION_ROOT_DIR: user {os.getuid()} may not read and write {root}"],
            "Give the folder to the user that the daemon runs as.",
        )


def make_folders(layout: Layout) -> None:
    """Make every folder below the root and the state folder that is not there yet, but never the root.

    Raises:
        ConfigError: the root is absent, or a folder cannot be made.
    """
    if not layout.root.is_dir():
        raise ConfigError("The root of the data is absent:", [f"{layout.root} is no folder"])
    for folder in (layout.state, *layout.folders()):
        _make(folder)


def make_state_folder(layout: Layout) -> None:
    """Make the folder that has the lock, and nothing else.

    Raises:
        ConfigError: it cannot be made.
    """
    _make(layout.state)


def _make(folder: Path) -> None:
    try:
        files.make_folder(folder)
    except OSError as error:
        raise ConfigError("A folder cannot be made:", [f"{folder}: {error.strerror}"]) from None


# The one pass over the values, wherever they come from.


def _of(section: str) -> list[Variable]:
    return [variable for variable in VARIABLES if variable.section == section]


def _key(variable: Variable) -> str:
    return f"{variable.section}.{variable.key}"


def _default(variable: Variable, values: Mapping[str, Any]) -> str | None:
    if not callable(variable.default):
        return variable.default
    state = values.get("AZAION_STATE_DIR")
    return str(variable.default(state)) if state is not None else None


def _needed(section: str, values: Mapping[str, Any]) -> bool:
    match section:
        case "rabbitmq":
            return values.get("AZAION_SOURCE") is Source.RABBITMQ
        case "api":
            return values.get("AZAION_PUBLISH_TARGET") is PublishTarget.AZAION
        case _:
            return True


def _missing(values: Mapping[str, Any]) -> list[Variable]:
    """What should have been given and was not; a malformed value stands as None and is not missing."""
    return [
        variable
        for variable in VARIABLES
        if variable.name not in values
        and not variable.optional
        and not callable(variable.default)
        and _needed(variable.section, values)
    ]


def _conflicts(values: Mapping[str, Any], name: Callable[[Variable], str]) -> list[str]:
    """What is wrong between settings that are good each by itself."""
    by_key = {_key(variable): (name(variable), values.get(variable.name)) for variable in VARIABLES}
    problems = []
    label, root = by_key["directories.root"]
    if root is not None and not root.is_absolute():
        problems.append(f"{label}: {root} is not absolute")
    label, socket = by_key["daemon.socket"]
    if socket is not None and (size := len(os.fsencode(socket))) > _MAX_SOCKET_BYTES:
        problems.append(
            f"{label}: {socket} has {size} bytes, and the system allows {_MAX_SOCKET_BYTES}; choose a shorter path",
        )
    folders = [by_key[f"directories.{key}"] for key in ("data", "data_seed", "data_deleted")]
    count = Counter(folder for _, folder in folders)
    for label, folder in folders:
        if folder in _RESERVED:
            problems.append(f"{label}: {folder} is the name of another folder of the product; choose another")
        elif folder is not None and count[folder] > 1:
            problems.append(f"{label}: {folder} is the name of another of the three folders too; choose another")
    return problems


def _reserved() -> frozenset[str]:
    """The names below the root that the product uses itself."""
    tree = Layout(root=Path("/"), state=Path("/"), spool=Path("/"), socket=Path("/"))
    used = (tree.corrupted, tree.records, tree.quarantine, tree.offset, tree.classes, tree.datasets, tree.models)
    return frozenset(path.name for path in used)


_RESERVED: Final = _reserved()


def _config(values: Mapping[str, Any]) -> Config:
    sections: dict[str, Any] = {}
    for section, kind in SECTIONS.items():
        found = {variable.key: values.get(variable.name) for variable in _of(section)}
        whole = all(variable.optional or found[variable.key] is not None for variable in _of(section))
        sections[section] = kind(**found) if whole else None
    return Config(**sections)


def _plain(value: object) -> object:
    """A value as YAML knows it."""
    match value:
        case SecretReference(variable=variable):
            return {"variable": variable}
        case Path() | str():
            return str(value)
        case _:
            return value


# The file.


def _document(path: Path) -> dict[Any, Any]:
    try:
        return yaml_file.read(path)
    except FileNotFoundError:
        reason = "there is no such file"
    except yaml_file.YamlError as error:
        reason = str(error)
    raise ConfigError(f"{path} cannot be used:", [reason], "Make it anew: azaionctl config render")


def _read_section(section: str, part: dict[Any, Any], values: dict[str, Any]) -> list[str]:
    """Add the values of a section to ``values``; returns its problems."""
    known = {variable.key: variable for variable in _of(section)}
    problems = [f"{section}.{_brief(key)}: unknown key" for key in part if key not in known]
    for key, variable in known.items():
        if key not in part:
            if part or callable(variable.default):
                problems.append(f"{section}.{key}: missing")
                values[variable.name] = None
            continue
        try:
            values[variable.name] = variable.convert(part[key])
        except ValueError as error:
            problems.append(f"{section}.{key}: {error}")
            values[variable.name] = None
    return problems


def _brief(key: object) -> str:
    text = str(key) if isinstance(key, str | int | float | None) else type(key).__name__
    return text[:60]


def _count(problems: list[str]) -> str:
    return "one problem" if len(problems) == 1 else f"{len(problems)} problems"
