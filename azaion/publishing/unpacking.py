"""From the two parts of a publication back to the model: what a consumer does."""

from pathlib import Path

from azaion.publishing import encryption, parts
from azaion.publishing.keyring import Keyring
from azaion.publishing.manifest import Manifest
from azaion.publishing.streams import Progress, unseen


def unpack(
    manifest: Manifest, small: Path, big: Path, target: Path, keyring: Keyring, *, on_progress: Progress = unseen
) -> None:
    """Check both parts, decrypt them as the manifest says and in no other way, and check what comes of it.

    Args:
        manifest: what `azaion.publishing.manifest.verify` has let through.
        small: the small part.
        big: the rest.
        target: where the model's file goes; what is there is replaced, by a file that only its owner can read.
        keyring: the keys.
        on_progress: told the bytes that are decrypted, and the size of the file.

    Raises:
        DamagedError: a part is not what was published, or cannot be decrypted; the target is then as it was.
        KeysError: the key is not here; the same.
        OSError: on a full disk and the like; the same.
    """
    opening = keyring.opening(manifest.format, manifest.keys)
    with parts.joined(small, big, manifest.parts) as whole:
        encryption.decrypt(whole, target, opening, plain=manifest.plain, on_progress=on_progress)
