"""Which release this process is of, whatever has been switched to since it began."""

import os
import sys
from pathlib import Path
from typing import Final

from azaion.layout import ReleaseFolder

# Looked up once: a link on the way here may lead elsewhere later. Of the interpreter only its folder, since behind the
# interpreter itself lies that of the system, without our libraries.
_INTERPRETER: Final = str(Path(os.path.realpath(Path(sys.executable).parent), Path(sys.executable).name))
_FOLDER: Final = ReleaseFolder(path=Path(os.path.realpath(sys.prefix)))


def interpreter() -> str:
    """This process's interpreter, by the folder of its release."""
    return _INTERPRETER


def release() -> str | None:
    """The name of the release that this process is of; None in a checkout."""
    return _FOLDER.path.name if _FOLDER.record.exists() else None
