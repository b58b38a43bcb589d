"""What the product knows: no daemon, no child processes."""

from typing import Final

__version__ = "0.1.0"
#: git puts the commit in where it makes an archive of it (.gitattributes); a checkout is of none.
_COMMIT: Final = "$Format:%H$"
COMMIT: Final = "" if _COMMIT.startswith("$") else _COMMIT
#: Which build this is, for people and for the record of what a build has made.
BUILD: Final = f"{__version__} ({COMMIT[:12]})" if COMMIT else __version__
