"""What goes with every published model: what it is, how it is encrypted, what must come of it; signed."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta

from azaion.models import Model
from azaion.publishing import envelope
from azaion.publishing.envelope import SigningKey
from azaion.publishing.errors import DamagedError, PublishingError, UntrustedError
from azaion.publishing.parts import Parts, small_size
from azaion.publishing.streams import Measure
from azaion.settings import ModelFormat

#: What the signature says that it is, so that nothing else that is signed can pass for it.
KIND: Final = "application/vnd.azaion.model+json"
#: A manifest of another version is not read: it may mean something else by the same words.
VERSION: Final = 1

#: A name that leads nowhere else, on any system.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")]
Text = Annotated[str, Meta(min_length=1, max_length=1000)]


class Lineage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a model comes from; None is what nobody knows.

    Attributes:
        weights: SHA-256 of the trained weights.
        trained: when they were registered, RFC 3339.
        job: which job has made them.
        release: by which release of Azaion Training.
        dataset: the dataset that it was trained on.
        dataset_digest: what tells that from another of the same name.
        base: SHA-256 of the weights that the training began with.
        previous: the model that was in use then.
    """

    weights: str | None = None
    trained: str | None = None
    job: int | None = None
    release: str | None = None
    dataset: str | None = None
    dataset_digest: str | None = None
    base: str | None = None
    previous: str | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A publication.

    Attributes:
        publication: its id; no two share one.
        model: the model's name.
        file: what the model's file is called.
        created: when, RFC 3339 in UTC.
        format: how it is encrypted.
        keys: by what the keys are known that it is encrypted with or for.
        plain: the file itself.
        whole: its encrypted form.
        small: the small part of that.
        big: the rest.
        lineage: where the model comes from.
        version: of this form.
    """

    publication: Name
    model: Name
    file: Name
    created: Text
    format: ModelFormat
    keys: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=1000)]
    plain: Measure
    whole: Measure
    small: Measure
    big: Measure
    lineage: Lineage
    version: int = VERSION

    @property
    def parts(self) -> Parts:
        """Both parts."""
        return Parts(small=self.small, big=self.big)


class _Version(msgspec.Struct, frozen=True):
    version: int


def lineage_of(model: Model) -> Lineage:
    """Where a model comes from, as its card tells; no path of this machine."""
    card = model.card
    return Lineage(
        weights=_at(card, str, "weights", "sha256"),
        trained=_at(card, str, "created"),
        job=_at(card, int, "job"),
        release=_at(card, str, "release"),
        dataset=_at(card, str, "dataset", "name"),
        dataset_digest=_at(card, str, "dataset", "digest"),
        base=_at(card, str, "lineage", "base", "sha256"),
        previous=_at(card, str, "lineage", "previous"),
    )


def sign(manifest: Manifest, signers: Sequence[SigningKey]) -> bytes:
    """The signed manifest: the same bytes for the same manifest and keys.

    Raises:
        PublishingError: nobody could read it again.
    """
    payload = msgspec.json.encode(manifest, order="sorted")
    if problem := _problem(payload):
        raise PublishingError(f"the manifest of {manifest.publication} cannot be signed: {problem}")
    return envelope.seal(KIND, payload, signers)


def verify(data: bytes, trusted: Mapping[str, Ed25519PublicKey]) -> Manifest:
    """Read a signed manifest.

    Args:
        data: its bytes.
        trusted: public keys of those whom we believe, by their ids.

    Raises:
        DamagedError: it is no manifest, was changed, contradicts itself, or is of a version that we do not know.
        UntrustedError: none of the keys that have signed it is trusted.
    """
    try:
        payload = envelope.unseal(KIND, data, trusted)
    except (DamagedError, UntrustedError) as error:
        raise type(error)(f"the manifest cannot be believed: {error}") from None
    if problem := _problem(payload):
        raise DamagedError(f"the manifest is signed, and cannot be used: {problem}")
    return _DECODER.decode(payload)


_DECODER: Final = msgspec.json.Decoder(Manifest)


def _problem(payload: bytes) -> str:
    """Why a manifest cannot be used; empty if it can be."""
    try:
        version = msgspec.json.decode(payload, type=_Version).version
        if version != VERSION:
            return f"it is of version {version}, and this release knows {VERSION}; install a newer release"
        manifest = _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return str(error)
    whole, small, big = manifest.whole.size, manifest.small.size, manifest.big.size
    if small != small_size(whole) or small + big != whole:
        return f"parts of {small} and {big} bytes do not make up {whole}"
    return ""


def _at(card: Mapping[str, Any], kind: type[Any], *keys: str) -> Any:
    """What stands in a card, if it is what it should be; cards are files that people may have touched."""
    found: Any = card
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, kind) and not isinstance(found, bool) else None
