"""The format of the system before this one: AES-256-CBC, of which docs/publishing.md tells every bit.

It is not authenticated. That it is what somebody has published, the signed manifest says.
"""

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from azaion.publishing.errors import DamagedError
from azaion.publishing.streams import PIECE_BYTES, Readable, Writable
from azaion.settings import ModelFormat

_BLOCK: Final = 16


@dataclass(frozen=True, kw_only=True)
class LegacyKey:
    """A key string.

    Attributes:
        text: the string; a secret.
    """

    text: str = field(repr=False)

    @property
    def format(self) -> ModelFormat:
        """What it encrypts to."""
        return ModelFormat.LEGACY

    @cached_property
    def id(self) -> str:
        """By what it is known. The AES key cannot be told from it."""
        return hmac.new(_aes_key(self.text), b"azaion legacy key id", hashlib.sha256).hexdigest()[:16]

    @property
    def ids(self) -> tuple[str, ...]:
        """The same, as every way to encrypt has it."""
        return (self.id,)

    def encrypt(self, source: Readable, target: Writable) -> None:
        """Encrypt a stream."""
        start = os.urandom(_BLOCK)
        cipher, padding = Cipher(AES(_aes_key(self.text)), CBC(start)).encryptor(), PKCS7(AES.block_size).padder()
        target.write(start)
        while piece := source.read(PIECE_BYTES):
            target.write(cipher.update(padding.update(piece)))
        target.write(cipher.update(padding.finalize()) + cipher.finalize())

    def decrypt(self, source: Readable, target: Writable) -> None:
        """Decrypt a stream. What is written is right only if its SHA-256 is.

        Raises:
            DamagedError: it was cut, or encrypted with another key.
        """
        try:
            cipher = Cipher(AES(_aes_key(self.text)), CBC(source.read(_BLOCK))).decryptor()
            padding = PKCS7(AES.block_size).unpadder()
            while piece := source.read(PIECE_BYTES):
                target.write(padding.update(cipher.update(piece)))
            target.write(padding.update(cipher.finalize()) + padding.finalize())
        except ValueError:
            raise DamagedError(
                f"it cannot be decrypted with the legacy key {self.id}: it was cut, or encrypted with another key"
            ) from None


def decrypt_bytes(data: bytes, text: str) -> bytes:
    """Decrypt something small with a key string.

    Raises:
        ValueError: it was cut, or encrypted with another key.
    """
    cipher, padding = Cipher(AES(_aes_key(text)), CBC(data[:_BLOCK])).decryptor(), PKCS7(AES.block_size).unpadder()
    return padding.update(cipher.update(data[_BLOCK:]) + cipher.finalize()) + padding.finalize()


def _aes_key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
