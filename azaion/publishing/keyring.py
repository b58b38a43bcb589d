"""The folder of the keys, as it is read: what signs, what is trusted, what encrypts, what decrypts."""

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from azaion import files
from azaion.layout import KeysFolder
from azaion.publishing.age import Identities, Identity, Recipients, recipient
from azaion.publishing.encryption import Opening, Sealing
from azaion.publishing.envelope import SigningKey, key_id
from azaion.publishing.errors import KeysError
from azaion.publishing.legacy import LegacyKey
from azaion.settings import ModelFormat

#: No key comes near it.
_MAX_BYTES: Final = 64 << 10
#: What the group or others may do with what is secret: nothing.
_OTHERS: Final = 0o077
#: What they may not do with what is public: change it.
_WRITE: Final = 0o022

_CREATED: Final = re.compile(r"^# created: (\S+)", re.MULTILINE)

Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[Key]):
    """A key with its file.

    Attributes:
        path: the file.
        number: that of its name; 0 if it has another name.
        created: when it was made, RFC 3339, as the file tells.
        key: the key.
    """

    path: Path
    number: int
    created: str | None
    key: Key


@dataclass(frozen=True, kw_only=True)
class Keyring:
    """The keys; of each kind the one in use first.

    Attributes:
        folder: where they lie.
        signing: private signing keys; a manifest is signed with all of them.
        publics: public ones that are trusted.
        recipients: for whom is encrypted: the first entry says it now.
        identities: what decrypts what is encrypted for us.
        legacy: key strings of the legacy format.
    """

    folder: Path
    signing: tuple[Entry[SigningKey], ...] = ()
    publics: tuple[Entry[Ed25519PublicKey], ...] = ()
    recipients: tuple[Entry[Recipients], ...] = ()
    identities: tuple[Entry[Identities], ...] = ()
    legacy: tuple[Entry[LegacyKey], ...] = ()

    def signers(self) -> tuple[SigningKey, ...]:
        """What manifests are signed with.

        Raises:
            KeysError: there is nothing.
        """
        if not self.signing:
            raise KeysError(f"{self.folder} has no signing key: run `azaionctl keys generate`")
        return tuple(entry.key for entry in self.signing)

    @property
    def trusted(self) -> Mapping[str, Ed25519PublicKey]:
        """Whose manifests are believed: by their ids the public keys that lie here, our own among them."""
        own = [entry.key.key.public_key() for entry in self.signing]
        return {key_id(key): key for key in (*own, *(entry.key for entry in self.publics))}

    def sealing(self, wanted: ModelFormat) -> Sealing:
        """How models are encrypted now.

        Raises:
            KeysError: there is no key for this format.
        """
        entries: Sequence[Entry[Recipients] | Entry[LegacyKey]]
        entries = self.recipients if wanted is ModelFormat.AGE else self.legacy
        if not entries:
            option = "" if wanted is ModelFormat.AGE else " --legacy FILE"
            raise KeysError(f"{self.folder} has no key for the format {wanted}: run `azaionctl keys generate{option}`")
        return entries[0].key

    def opening(self, wanted: ModelFormat, ids: Sequence[str]) -> Opening:
        """How that is decrypted which was encrypted with or for these keys.

        Raises:
            KeysError: none of them is here.
        """
        if wanted is ModelFormat.LEGACY:
            found = next((entry.key for entry in self.legacy if entry.key.id in ids), None)
            if found is not None:
                return found
            lacks = "keep its key string here: `azaionctl keys generate --legacy FILE`, or `keys rotate legacy`"
        else:
            known = tuple(key for entry in self.identities for key in entry.key.keys if key.recipient in ids)
            if known:
                return Identities(keys=known)
            lacks = "decrypt it where one of these identities is, or put its file here as age-NAME.txt"
        raise KeysError(
            f"the model is encrypted for {', '.join(ids)}, and {self.folder} has none of these keys: {lacks}"
        )


def load(folder: Path) -> Keyring:
    """Read the keys. A folder that is not there holds none.

    Raises:
        KeysError: others can read a key, we cannot, or it is none; says which file.
    """
    if not _is_there(folder):
        return Keyring(folder=folder)
    tree = KeysFolder(path=folder)
    return Keyring(
        folder=folder,
        signing=_read(tree.signing, _signing),
        publics=_read(tree.public, _public, secret=False),
        recipients=_read(tree.recipients, lambda text: recipients(_lines(text)), secret=False),
        identities=_read(tree.identity, _identities),
        legacy=_read(tree.legacy, lambda text: legacy(text.removesuffix("\n").rpartition("\n")[2])),
    )


def recipients(texts: Sequence[str]) -> Recipients:
    """Those whom models shall be encrypted for.

    Raises:
        KeysError: there are none, or one is no recipient.
    """
    if not texts:
        raise KeysError("it names no recipient (age1...)")
    # Whoever wrote one in capitals meant the same.
    return Recipients(ids=tuple(dict.fromkeys(str(recipient(each)) for each in texts)))


def legacy(text: str) -> LegacyKey:
    """A key string.

    Raises:
        KeysError: it cannot be one; it is not shown.
    """
    if not text or not text.isprintable():
        raise KeysError("it is no key string: that is one line of characters that can be printed")
    return LegacyKey(text=text)


def _is_there(folder: Path) -> bool:
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise KeysError(f"{folder} is out of reach ({error.strerror}): {_whose()}") from None
    if not stat.S_ISDIR(mode):
        raise KeysError(f"{folder} is no folder: move it away, or name another one in AZAION_KEYS_DIR")
    if mode & _OTHERS:
        raise KeysError(f"others can reach into {folder} (mode {stat.S_IMODE(mode):o}): run `chmod 700 {folder}`")
    return True


def _read(
    pattern: Callable[[str], Path], parse: Callable[[str], Key], *, secret: bool = True
) -> tuple[Entry[Key], ...]:
    """Every file whose path is like that, the highest number first."""
    entries = []
    for number, path in numbered(pattern):
        text = _text(path, secret=secret)
        try:
            key = parse(text)
        except KeysError as error:
            raise KeysError(f"{path} cannot be used: {error}; restore it, or move it away") from None
        created = _CREATED.search(text)
        entries.append(Entry(path=path, number=number, created=created[1] if created else None, key=key))
    return tuple(sorted(entries, key=lambda entry: (-entry.number, entry.path)))


def numbered(pattern: Callable[[str], Path]) -> Iterator[tuple[int, Path]]:
    """The files whose path is like that, each with the number in its name; 0 if that is no number."""
    example = pattern("*")
    begin, end = example.name.split("*")
    try:
        for path in example.parent.glob(example.name):
            name = path.name.removeprefix(begin).removesuffix(end)
            yield int(name) if name.isascii() and name.isdecimal() else 0, path
    except OSError as error:
        raise KeysError(f"{example.parent} is out of reach ({error.strerror}): {_whose()}") from None


def _text(path: Path, *, secret: bool) -> str:
    try:
        with files.opened(path) as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(_MAX_BYTES + 1)
    except files.FileError as error:
        raise KeysError(f"{error}: put the key itself there, or move that away") from None
    except OSError as error:
        raise KeysError(f"{path} cannot be read ({error.strerror}): {_whose()}") from None
    if not secret and mode & _WRITE:
        raise KeysError(f"others can change {path} (mode {stat.S_IMODE(mode):o}): check it, then `chmod 600 {path}`")
    if secret and mode & _OTHERS:
        raise KeysError(
            f"others can read {path} (mode {stat.S_IMODE(mode):o}): run `chmod 600 {path}`; if somebody may have read "
            "it, make a new key with `azaionctl keys rotate`"
        )
    if len(data) > _MAX_BYTES:
        raise KeysError(f"{path} is too large for a key: move it away")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise KeysError(f"{path} is no text, so it is no key: restore it, or move it away") from None


def _whose() -> str:
    return f"we are user {os.geteuid()}; use the commands as the user that the daemon runs as, or give it the files"


def _signing(text: str) -> SigningKey:
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeysError("it is no private Ed25519 key in PEM")
    return SigningKey(key=key)


def _public(text: str) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise KeysError("it is no public Ed25519 key in PEM")
    return key


def _identities(text: str) -> Identities:
    found = tuple(Identity(text=line) for line in _lines(text))
    if not found:
        raise KeysError("it holds no age identity (AGE-SECRET-KEY-1...)")
    return Identities(keys=found)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
