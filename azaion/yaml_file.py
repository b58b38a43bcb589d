"""Reading YAML that somebody may have damaged or made to hurt."""

from pathlib import Path
from typing import Any, Final

import yaml

from azaion import files
from azaion.errors import AzaionError

#: Ours have a few KiB.
_MAX_BYTES: Final = 256 << 10

_MAX_DEPTH: Final = 16


class YamlError(AzaionError):
    """A file is no YAML document of keys and values; the message says why, in one line without the file's name."""


def read(path: Path) -> dict[Any, Any]:
    """Read the keys and values of a YAML file.

    Aliases are refused, for a few lines of them grow to gigabytes.

    Raises:
        FileNotFoundError: there is no such file.
        YamlError: it is there, and is torn, hostile, a link, too large.
    """
    try:
        text = files.read_small(path, limit=_MAX_BYTES).decode()
        _refuse_wild(text)
        document = yaml.load(text, Loader=yaml.CSafeLoader)
    except FileNotFoundError:
        raise
    except UnicodeDecodeError:
        raise YamlError("it is not text in UTF-8") from None
    except yaml.YAMLError as error:
        raise YamlError(f"it is not YAML: {_where(error)}") from None
    except OSError as error:
        raise YamlError(f"it cannot be read: {error.strerror}") from None
    except (ValueError, files.FileError) as error:
        # ValueError: a date such as 2026-13-45.
        raise YamlError(str(error)) from None
    if not isinstance(document, dict):
        raise YamlError("it holds no keys and values")
    return document


def _refuse_wild(text: str) -> None:
    """Look at the events, which is done in constant memory, before anything is built from them."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            raise YamlError(f"line {line} has an alias (*name), which none of our files has")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise YamlError(f"line {line} is nested deeper than any file of ours")


def _where(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or "it cannot be parsed"
    line = getattr(getattr(error, "problem_mark", None), "line", None)
    return f"line {line + 1}: {problem}" if line is not None else str(problem)
