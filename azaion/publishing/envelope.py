"""Signed bytes: DSSE (https://github.com/secure-systems-lab/dsse) with Ed25519.

The signature covers the bytes as they are, and their type, so nobody need agree on how JSON is written.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta

from azaion.publishing.errors import DamagedError, UntrustedError

#: Nobody has more signing keys, and each costs a verification.
_MAX_SIGNATURES: Final = 16


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """A private key that signs."""

    key: Ed25519PrivateKey = field(repr=False)

    @property
    def id(self) -> str:
        """By what it is known."""
        return key_id(self.key.public_key())


class _Signature(msgspec.Struct, frozen=True, kw_only=True):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    payload: str
    payload_type: str = msgspec.field(name="payloadType")
    signatures: Annotated[list[_Signature], Meta(max_length=_MAX_SIGNATURES)]


def key_id(key: Ed25519PublicKey) -> str:
    """By what a key is known: the first half of the SHA-256 of its 32 bytes, in hex."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]


def seal(kind: str, payload: bytes, signers: Sequence[SigningKey]) -> bytes:
    """Sign bytes of a type with each of the keys; of very many with the first ones."""
    signed = _signed(kind, payload)
    used = signers[:_MAX_SIGNATURES]
    signatures = [_Signature(keyid=each.id, sig=_base64(each.key.sign(signed))) for each in used]
    return msgspec.json.encode(_Envelope(payload=_base64(payload), payload_type=kind, signatures=signatures)) + b"\n"


def unseal(kind: str, data: bytes, trusted: Mapping[str, Ed25519PublicKey]) -> bytes:
    """The bytes, if one of the trusted keys has signed them.

    Raises:
        DamagedError: it is no such envelope, or was changed.
        UntrustedError: none of the keys that have signed it is trusted.
    """
    envelope = _read(data)
    if envelope.payload_type != kind:
        raise DamagedError(f"it is a {envelope.payload_type[:80]!r}, not a {kind!r}")
    payload = _bytes(envelope.payload)
    signed, known = _signed(kind, payload), False
    for signature in envelope.signatures:
        if (key := trusted.get(signature.keyid)) is None:
            continue
        try:
            key.verify(_bytes(signature.sig), signed)
        except InvalidSignature:
            raise DamagedError(f"it was changed after it was signed (key {signature.keyid}): fetch it again") from None
        known = True
    if not known:
        raise UntrustedError(
            f"it is signed by {_listed(each.keyid for each in envelope.signatures)}, and trusted are "
            f"{_listed(trusted)}: if it comes from whom it should, put its signing-N.pub into AZAION_KEYS_DIR"
        )
    return payload


def signers(data: bytes) -> tuple[str, ...]:
    """The keys that are said to have signed it; nothing is verified.

    Raises:
        DamagedError: it is no such envelope.
    """
    return tuple(each.keyid for each in _read(data).signatures)


def _read(data: bytes) -> _Envelope:
    try:
        return msgspec.json.decode(data, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(f"it is no signed envelope ({error})") from None


def _signed(kind: str, payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DamagedError("it is no signed envelope (something in it is not base64)") from None


def _listed(ids: Iterable[str]) -> str:
    return ", ".join(each[:80] for each in ids) or "none"
