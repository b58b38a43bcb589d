"""A model made ready for its way: encrypted, cut in two, described by a signed manifest; and opened again."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from azaion import failpoints, files
from azaion.layout import StagingFolder
from azaion.models import Model
from azaion.publishing import encryption, keyring, manifest, parts, unpacking
from azaion.publishing.manifest import Manifest
from azaion.publishing.streams import Progress
from azaion.settings import Config, ModelFormat

#: A publication is called after its model, and so many digits of the SHA-256 of what is sent.
_DIGITS: Final = 16


class Packer:
    """Makes packages with the keys of this installation, and opens what was made with them.

    Args:
        settings: say where the keys lie, and which format is wanted.

    Every method raises:
        PublishingError: a key is missing or cannot be used; says what to do.
    """

    def __init__(self, settings: Config) -> None:
        self._keys = keyring.load(settings.publishing.keys)
        self._format: ModelFormat = settings.publishing.format

    def seal_of(self) -> dict[str, Any]:
        """All that a package is encrypted and signed with now, by ids: another one is another package."""
        sealing, signers = self._keys.sealing(self._format), self._keys.signers()
        return {
            "format": str(sealing.format),
            "keys": list(sealing.ids),
            "signers": [each.id for each in signers],
        }

    def pack(self, model: Model, source: Path, folder: StagingFolder, on_progress: Progress) -> Manifest:
        """Encrypt, cut, describe and sign a file: ``small``, ``big`` and ``manifest`` of the folder.

        Raises:
            OSError: on a full disk and the like.
        """
        sealing, signers = self._keys.sealing(self._format), self._keys.signers()
        made = encryption.encrypt(source, folder.whole, sealing, on_progress=on_progress)
        failpoints.hit("publish.encrypted")
        cut = parts.split(folder.whole, folder.small, folder.big)
        folder.whole.unlink()
        failpoints.hit("publish.parted")
        told = Manifest(
            publication=f"{model.name}-{made.whole.sha256[:_DIGITS]}",
            model=model.name,
            file=source.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            format=sealing.format,
            keys=sealing.ids,
            plain=made.plain,
            whole=made.whole,
            small=cut.small,
            big=cut.big,
            lineage=manifest.lineage_of(model),
        )
        files.replace(folder.manifest, manifest.sign(told, signers))
        return told

    def read(self, data: bytes) -> Manifest:
        """What a manifest says, if somebody has signed it whom we trust."""
        return manifest.verify(data, self._keys.trusted)

    def unpack(self, told: Manifest, folder: StagingFolder, on_progress: Progress) -> None:
        """Make ``whole`` of the folder of its ``small`` and ``big``: the file as it was, durable, or nothing.

        Raises:
            DamagedError: the parts are not those of the manifest.
            OSError: on a full disk and the like.
        """
        unpacking.unpack(told, folder.small, folder.big, folder.whole, self._keys, on_progress=on_progress)
