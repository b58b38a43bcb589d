"""Where values come from: ``.env``, the real environment, systemd's credentials."""

import io
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from dotenv.parser import Binding, parse_stream

from azaion import files
from azaion.settings import NAME, VARIABLES, ConfigError, SecretReference

#: A larger one is not an `.env`.
_MAX_BYTES: Final = 64 << 10

#: Set by systemd for a unit with LoadCredential=.
_CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
#: The credential that is a whole `.env`, so that nobody but root need be able to read the file itself.
_WHOLE: Final = "env"


def env_file(environ: Mapping[str, str]) -> Path | None:
    """The ``.env`` of this process: systemd's credential ``env``, else ``.env`` in the current folder, if any."""
    folder = environ.get(_CREDENTIALS)
    places = [Path(folder, _WHOLE)] if folder else []
    return next((path for path in (*places, Path(".env")) if os.path.lexists(path)), None)


def base(env_file: Path | None, environ: Mapping[str, str]) -> Path:
    """The folder from which relative paths count: that of ``.env``, unless that is a credential."""
    if env_file is None or str(env_file.parent) == environ.get(_CREDENTIALS):
        return Path().absolute()
    return env_file.parent.absolute()


def credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that systemd has handed over as credentials of their own, one file each.

    Raises:
        ConfigError: one is there and cannot be read.
    """
    if not (folder := environ.get(_CREDENTIALS)):
        return {}
    paths = {name: Path(folder, name) for name in _NAMES}
    return {name: _credential(path) for name, path in paths.items() if path.exists()}


def read_env_file(path: Path) -> tuple[dict[str, str], list[str]]:
    """Read ``.env``: its variables as they stand (nothing is expanded), and its problems, one line each.

    A problem names a variable or a line, never a value. An empty value counts as not given.

    Raises:
        ConfigError: the file cannot be read at all, or others can read it.
    """
    text = _text(path)
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    problems = []
    for binding in parse_stream(io.StringIO(text)):
        name, value, line = binding.key, binding.value, _line(binding)
        if binding.error or (name is not None and (value is None or not NAME.fullmatch(name))):
            # The line is not shown: it may be a piece of a secret.
            problems.append(f"line {line} is not NAME=value (NAME in capitals; quote a value that has spaces or #)")
        elif name is None or value is None:
            continue
        elif name in lines:
            problems.append(f"{name}: stands twice, in lines {lines[name]} and {line}; remove one")
        elif name not in _NAMES:
            problems.append(f"{name}: unknown (line {line}){_suggestion(name)}")
        else:
            lines[name] = line
            values[name] = value
    return {name: value for name, value in values.items() if value}, problems


def resolve(reference: SecretReference, environ: Mapping[str, str], env_file: Path | None) -> str:
    """Look up a secret: in systemd's credentials, else in the environment, else in ``.env``.

    Raises:
        ConfigError: it is nowhere, or a file that may hold it cannot be read.
    """
    if (value := find(reference, environ, env_file)) is not None:
        return value
    name = reference.variable
    raise ConfigError(
        f"The secret {name} was not found:",
        [f"it is in no credential of systemd (LoadCredential={name}:...), no environment variable and no .env"],
    )


def find(reference: SecretReference, environ: Mapping[str, str], env_file: Path | None) -> str | None:
    """The same for a secret that may be missing: None if it is.

    Raises:
        ConfigError: a file that may hold it cannot be read.
    """
    name = reference.variable
    if folder := environ.get(_CREDENTIALS):
        with suppress(FileNotFoundError):
            return _credential(Path(folder, name))
    if value := environ.get(name):
        return value
    if env_file is not None and env_file.exists():
        return read_env_file(env_file)[0].get(name)
    return None


def _credential(path: Path) -> str:
    try:
        return files.read_small(path, limit=_MAX_BYTES, follow_links=True).decode().removesuffix("\n")
    except FileNotFoundError:
        raise
    except (OSError, files.FileError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise ConfigError(f"{path.name} cannot be read from systemd's credentials:", [f"{path}: {reason}"]) from None


_NAMES: Final = frozenset(variable.name for variable in VARIABLES)


def _text(path: Path) -> str:
    headline = f"{path} cannot be used:"
    try:
        with files.opened(path, follow_links=True) as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(headline, ["there is no such file"], "Copy .env.example there and fill it in.") from None
    except (OSError, files.FileError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(headline, [str(reason)]) from None
    if mode & 0o007:
        raise ConfigError(headline, [f"others can read its secrets (mode {mode:o})"], f"Run: chmod 640 {path}")
    if len(data) > _MAX_BYTES:
        raise ConfigError(headline, [f"it is larger than {_MAX_BYTES} bytes"])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(headline, ["it is not text in UTF-8"]) from None
    if "\0" in text:
        raise ConfigError(headline, ["it is not text: it holds zero bytes"])
    return text


def _line(binding: Binding) -> int:
    """The line on which the binding itself begins; blank lines before it belong to it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _suggestion(name: str) -> str:
    close = get_close_matches(name, sorted(_NAMES), n=1)
    return f"; did you mean {close[0]}?" if close else "; see .env.example for those there are"
