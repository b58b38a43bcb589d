"""The default format: age, version 1 (https://age-encryption.org/v1), which authenticates every piece."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import pyrage  # type: ignore[import-untyped] # it ships no types
from pyrage import x25519

from azaion.publishing.errors import DamagedError, KeysError
from azaion.publishing.streams import Readable, Writable
from azaion.settings import ModelFormat


@dataclass(frozen=True, kw_only=True)
class Recipients:
    """Those who can decrypt.

    Attributes:
        ids: their public keys, ``age1...``.
    """

    ids: tuple[str, ...]

    @property
    def format(self) -> ModelFormat:
        """What is encrypted to."""
        return ModelFormat.AGE

    def encrypt(self, source: Readable, target: Writable) -> None:
        """Encrypt a stream."""
        with _failing():
            pyrage.encrypt_io(source, target, [recipient(each) for each in self.ids])


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A private key, ``AGE-SECRET-KEY-1...``; a secret."""

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            x25519.Identity.from_str(self.text)
        except pyrage.IdentityError:
            raise KeysError("it is no age identity (AGE-SECRET-KEY-1...)") from None

    @cached_property
    def recipient(self) -> str:
        """The public key that belongs to it."""
        return str(self._key.to_public())

    @property
    def _key(self) -> x25519.Identity:
        return x25519.Identity.from_str(self.text)


@dataclass(frozen=True, kw_only=True)
class Identities:
    """Private keys, of which one may fit."""

    keys: tuple[Identity, ...]

    def decrypt(self, source: Readable, target: Writable) -> None:
        """Decrypt a stream.

        Raises:
            DamagedError: it is no age file, was cut or changed; some of what is written may be right.
            KeysError: it is encrypted for others.
        """
        with _failing():
            pyrage.decrypt_io(source, target, [each._key for each in self.keys])  # noqa: SLF001 - of this module


def generate() -> Identity:
    """A new identity."""
    return Identity(text=str(x25519.Identity.generate()))


def recipient(text: str) -> x25519.Recipient:
    """Read a public key.

    Raises:
        KeysError: it is none.
    """
    try:
        return x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise KeysError(f"{text[:80]!r} is no recipient of age (age1..., 62 characters)") from None


@contextmanager
def _failing() -> Iterator[None]:
    """Give the library's errors our names."""
    try:
        yield
    except pyrage.DecryptError as error:
        if "No matching keys" in str(error):
            raise KeysError("it is encrypted for others: none of the age identities here fits") from None
        raise DamagedError(f"it is no whole age file ({error})") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise DamagedError(f"it was cut or changed ({error})") from None
