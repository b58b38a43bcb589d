"""``data-corrupted/``: copies of annotations that no dataset can take, for somebody to look at and mend.

One folder for each, named like its image, with ``reason.json`` beside the copies. The originals stay where they are.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from azaion import files
from azaion.dataset.errors import DatasetError, Reason
from azaion.dataset.staging import Staged
from azaion.layout import Layout

_REASON: Final = "reason.json"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An annotation that no dataset can take.

    Attributes:
        file: the name of its image, or of its label if there is no image.
        reason: why.
        detail: where exactly.
        image: the staged image file, if there is one to be copied.
        label: the name of the annotation whose staged label is to be copied.
    """

    file: str
    reason: Reason
    detail: str = ""
    image: str | None = None
    label: str | None = None

    def facts(self) -> dict[str, str]:
        """What a manifest says of it."""
        printable = self.file.encode(errors="backslashreplace").decode()
        return {"file": printable, "reason": self.reason, "detail": self.detail}


def set_aside(layout: Layout, staged: Staged, refusals: Iterable[Refusal]) -> None:
    """Copy what was refused, with the reason; what lies there already with the same content is left alone."""
    for refusal in refusals:
        sources = []
        if refusal.image is not None:
            sources.append(Path(staged.image(refusal.image)))
        if refusal.label is not None:
            sources.append(Path(staged.label(refusal.label)))
        _set_aside(layout.corrupted / refusal.file, refusal, [path for path in sources if not path.is_symlink()])


def _set_aside(folder: Path, refusal: Refusal, sources: list[Path]) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise DatasetError(f"{folder} is in the way: a folder of that name is needed. Remove it.")
    copies = {source.name: files.sha256(source) for source in sources}
    facts: dict[str, Any] = {**refusal.facts(), "sha256": copies}
    reason = folder / _REASON
    if _same(reason, facts) and all((folder / name).is_file() for name in copies):
        return
    files.make_folder(folder)
    for source in sources:
        temporary = files.temporary_for(folder / source.name)
        try:
            shutil.copyfile(source, temporary)
            temporary.replace(folder / source.name)
        finally:
            temporary.unlink(missing_ok=True)
    # Last of all: a folder without it is one that was not finished.
    files.write_json(reason, facts, durable=False)


def _same(path: Path, facts: dict[str, Any]) -> bool:
    try:
        return files.read_json(path) == facts
    except (OSError, files.FileError):
        return False
