"""Where a command has the settings from, if it is not told."""

import os
from pathlib import Path

from azaion.layout import SERVER_SETTINGS


def env_file() -> Path | None:
    """The ``.env`` of the current folder, else the server's, wherever one is; None if there is neither."""
    return next((path for path in (Path(".env"), SERVER_SETTINGS) if os.path.lexists(path)), None)
