"""The signed manifest: what was published is what is read, or nothing is."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from azaion.models import Model
from azaion.publishing import age, encryption, envelope, parts
from azaion.publishing.age import Identities, Recipients
from azaion.publishing.encryption import Sealing
from azaion.publishing.envelope import SigningKey
from azaion.publishing.errors import DamagedError, KeysError, PublishingError, UntrustedError
from azaion.publishing.keyring import Entry, Keyring
from azaion.publishing.legacy import LegacyKey
from azaion.publishing.manifest import KIND, Lineage, Manifest, lineage_of, sign, verify
from azaion.publishing.streams import Measure
from azaion.publishing.unpacking import unpack
from azaion.settings import ModelFormat

SIGNER = SigningKey(key=Ed25519PrivateKey.generate())
OTHER = SigningKey(key=Ed25519PrivateKey.generate())
TRUSTED = {SIGNER.id: SIGNER.key.public_key()}
BOTH = {**TRUSTED, OTHER.id: OTHER.key.public_key()}

SOME = Measure(size=20, sha256="0" * 64)
TOLD = Manifest(
    publication="azaion-2026-11-23-0123456789abcdef",
    model="azaion-2026-11-23",
    file="azaion.onnx",
    created="2026-11-23T06:00:00+00:00",
    format=ModelFormat.AGE,
    keys=("age1one", "age1two"),
    plain=SOME,
    whole=SOME,
    small=Measure(size=4, sha256="1" * 64),
    big=Measure(size=16, sha256="2" * 64),
    lineage=Lineage(dataset="azaion-2026-11-22", job=7),
)


def test_what_is_signed_is_read() -> None:
    data = sign(TOLD, [SIGNER, OTHER])
    assert verify(data, TRUSTED) == TOLD
    assert verify(data, {OTHER.id: OTHER.key.public_key()}) == TOLD
    assert envelope.signers(data) == (SIGNER.id, OTHER.id)
    assert sign(TOLD, [SIGNER, OTHER]) == data
    payload = base64.b64decode(json.loads(data)["payload"])
    assert payload == json.dumps(json.loads(payload), sort_keys=True, separators=(",", ":")).encode()


def test_a_changed_byte_is_found() -> None:
    data = sign(TOLD, [SIGNER])
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        try:
            # A space for the line's end is no change of what is said.
            assert verify(bytes(changed), TRUSTED) == TOLD, place
            assert not data[place : place + 1].strip(), place
        except (DamagedError, UntrustedError):
            continue
    for cut in range(len(data) - 1):
        with pytest.raises(DamagedError):
            verify(data[:cut], TRUSTED)


def test_whom_nobody_trusts() -> None:
    with pytest.raises(UntrustedError, match=rf"signed by {OTHER.id}, and trusted are {SIGNER.id}: .*signing-N.pub"):
        verify(sign(TOLD, [OTHER]), TRUSTED)
    with pytest.raises(UntrustedError, match="trusted are none"):
        verify(sign(TOLD, [SIGNER]), {})
    # Somebody who never removes an old key is read all the same.
    assert verify(sign(TOLD, [SIGNER, *[OTHER] * 30]), TRUSTED) == TOLD
    with pytest.raises(UntrustedError, match="signed by none"):
        verify(sign(TOLD, []), TRUSTED)


def resigned(**changes: Any) -> bytes:
    """What somebody with the key would sign, were it not for the checks."""
    return envelope.seal(KIND, json.dumps({**msgspec.to_builtins(TOLD), **changes}).encode(), [SIGNER])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": 2}, "version 2, .* install a newer release"),
        ({"version": "1"}, "version"),
        ({"file": "../azaion.onnx"}, "file"),
        ({"file": ".hidden"}, "file"),
        ({"model": "a\n"}, "model"),
        ({"format": "none"}, "format"),
        ({"more": 1}, "more"),
        ({"keys": []}, "keys"),
        ({"small": {"size": 5, "sha256": "1" * 64}, "big": {"size": 15, "sha256": "1" * 64}}, "do not make up 20"),
        ({"big": {"size": 17, "sha256": "1" * 64}}, "do not make up 20"),
        ({"plain": {"size": -1, "sha256": "1" * 64}}, "size"),
        ({"plain": {"size": 1, "sha256": "1" * 63}}, "sha256"),
    ],
)
def test_a_signed_manifest_may_be_nonsense(changes: dict[str, Any], why: str) -> None:
    assert verify(resigned(), TRUSTED) == TOLD
    with pytest.raises(DamagedError, match=why):
        verify(resigned(**changes), TRUSTED)


def test_nonsense_is_not_even_signed() -> None:
    with pytest.raises(PublishingError, match="cannot be signed"):
        sign(msgspec.structs.replace(TOLD, file="../azaion.onnx"), [SIGNER])


def test_a_signature_holds_for_one_kind_of_thing_and_one_envelope() -> None:
    with pytest.raises(DamagedError, match="text/plain"):
        verify(envelope.seal("text/plain", b"{}", [SIGNER]), TRUSTED)
    one, two = (json.loads(sign(each, [SIGNER])) for each in (TOLD, msgspec.structs.replace(TOLD, model="b")))
    for name in ("payload", "signatures"):
        with pytest.raises(DamagedError, match="was changed"):
            verify(json.dumps({**one, name: two[name]}).encode(), TRUSTED)
    # One bad signature of somebody trusted is one too many.
    mixed = {**one, "signatures": one["signatures"] + two["signatures"]}
    with pytest.raises(DamagedError, match="was changed"):
        verify(json.dumps(mixed).encode(), TRUSTED)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"payload": 1}', b"null"])
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(DamagedError, match="no signed envelope"):
        verify(data, TRUSTED)


def test_the_envelope_is_that_of_dsse(tmp_path: Path) -> None:
    """The example of its specification; and openssl finds the signature good."""
    signed = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    told = json.loads(envelope.seal("http://example.com/HelloWorld", b"hello world", [SIGNER]))
    assert told["payload"] == "aGVsbG8gd29ybGQ="
    public = SIGNER.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for name, data in (("m", signed), ("p", public), ("s", base64.b64decode(told["signatures"][0]["sig"]))):
        (tmp_path / name).write_bytes(data)
    argv = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "p", "-rawin", "-in", "m", "-sigfile", "s"]
    assert subprocess.run(argv, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_the_lineage_names_no_path() -> None:
    card = {
        "job": 7,
        "release": "1.2.3",
        "created": "2026-11-23T05:00:00+00:00",
        "weights": {"size": 1, "sha256": "ab"},
        "dataset": {"name": "azaion-2026-11-22", "path": "/secret/place", "digest": "cd"},
        "lineage": {"base": {"path": "/secret/base.pt", "source": "/secret/base.pt", "sha256": "ef"}, "previous": None},
    }
    found = lineage_of(Model(name="azaion-2026-11-23", path=Path("/secret"), card=card))
    assert found == Lineage(
        weights="ab",
        trained="2026-11-23T05:00:00+00:00",
        job=7,
        release="1.2.3",
        dataset="azaion-2026-11-22",
        dataset_digest="cd",
        base="ef",
    )
    assert lineage_of(Model(name="a", path=Path(), card={"dataset": "?", "lineage": None, "job": "x"})) == Lineage()


def test_from_the_manifest_to_the_model_and_only_by_its_format(tmp_path: Path) -> None:
    identity, legacy = age.generate(), LegacyKey(text="key")
    (tmp_path / "azaion.onnx").write_bytes(b"model" * 5000)
    ring = Keyring(
        folder=tmp_path,
        identities=(Entry(path=tmp_path, number=1, created=None, key=Identities(keys=(identity,))),),
        legacy=(Entry(path=tmp_path, number=1, created=None, key=legacy),),
    )
    small, big, back = tmp_path / "small", tmp_path / "big", tmp_path / "back"
    ways: dict[ModelFormat, Sealing] = {
        ModelFormat.AGE: Recipients(ids=(identity.recipient,)),
        ModelFormat.LEGACY: legacy,
    }
    for wanted, sealing in ways.items():
        made = encryption.encrypt(tmp_path / "azaion.onnx", tmp_path / "whole", sealing)
        cut = parts.split(tmp_path / "whole", small, big)
        told = msgspec.structs.replace(
            TOLD, format=wanted, keys=sealing.ids, plain=made.plain, whole=made.whole, small=cut.small, big=cut.big
        )
        told = verify(sign(told, [SIGNER]), TRUSTED)
        unpack(told, small, big, back, ring)
        assert back.read_bytes() == b"model" * 5000
        back.unlink()

        # Whoever holds one of two keys opens it, whoever holds none is told whose it is.
        with pytest.raises(KeysError, match=sealing.ids[0]):
            unpack(told, small, big, back, Keyring(folder=tmp_path))
        # Even somebody who could sign cannot have the one format read as the other.
        other = next(each for each in ways if each is not wanted)
        lying = msgspec.structs.replace(told, format=other, keys=ways[other].ids)
        with pytest.raises(DamagedError):
            unpack(lying, small, big, back, ring)
        for damaged, why in ((small, "small part"), (big, "big part")):
            data = damaged.read_bytes()
            damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            with pytest.raises(DamagedError, match=why):
                unpack(told, small, big, back, ring)
            damaged.write_bytes(data)
        # Parts that are as they should be, and something else comes of them: a manifest of another file.
        with pytest.raises(DamagedError, match="not what was published"):
            unpack(msgspec.structs.replace(told, plain=SOME), small, big, back, ring)
        assert not back.exists()
