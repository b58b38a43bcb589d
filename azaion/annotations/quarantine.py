"""Messages that could not be applied: ``quarantine/OFFSET/`` with the raw bytes and the reason, complete or absent."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from azaion import failpoints, files
from azaion.annotations.spool import Message

_BODY: Final = "message.bin"
_REASON: Final = "reason.json"


class Quarantine:
    """The folder of messages that could not be applied."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def count(self) -> int:
        """How many messages are in it."""
        return sum(not path.name.startswith(files.TEMPORARY_PREFIX) for path in self._folder.iterdir())

    def put(self, message: Message, incarnation: int, reason: str) -> Path:
        """Keep a message, durably; one that is there already stays as it is.

        Raises:
            OSError: on a full disk and the like; nothing is kept then, and the offset must not pass it.
        """
        target = self._place(message.offset, incarnation)
        if target.exists():
            return target
        temporary = files.temporary_for(target)
        temporary.mkdir()
        try:
            _keep(message, temporary / _BODY)
            told = {
                "reason": reason,
                "incarnation": incarnation,
                "offset": message.offset,
                "status": message.status,
                "bytes": len(message.body),
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            # A path that is no text is named all the same: its escapes are those of JSON.
            (temporary / _REASON).write_text(
                json.dumps(told, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace"
            )
            files.fsync_tree(temporary)
            failpoints.hit("quarantine.written")
            files.rename(temporary, target)
        except BaseException:
            files.remove_tree(temporary)
            raise
        return target

    def _place(self, offset: int, incarnation: int) -> Path:
        """The offset names the folder; where another stream's message has that name, the stream is added."""
        plain = self._folder / str(offset)
        try:
            taken = files.read_json(plain / _REASON)["incarnation"] != incarnation
        except FileNotFoundError:
            taken = plain.exists()
        except (OSError, files.FileError, KeyError):
            taken = True
        return self._folder / f"{offset}-{incarnation}" if taken else plain


def _keep(message: Message, target: Path) -> None:
    """The raw bytes; those of a file that is too large to be read are not copied."""
    if message.path is not None and message.path.is_file() and not message.path.is_symlink():
        files.link_or_copy(str(message.path), str(target))
    else:
        target.write_bytes(message.body)
