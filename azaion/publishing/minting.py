"""New keys. None is ever replaced: a new one gets the next number, and what was there before still decrypts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from azaion import failpoints, files
from azaion.layout import KeysFolder
from azaion.publishing import age, keyring
from azaion.publishing.envelope import SigningKey
from azaion.publishing.errors import KeysError
from azaion.publishing.keyring import Keyring


class Kind(StrEnum):
    """What keys are for."""

    SIGNING = "signing"
    AGE = "age"
    LEGACY = "legacy"


def generate(folder: Path, *, recipients: Sequence[str] = (), legacy: str | None = None) -> list[Path]:
    """Make what is needed to publish: a pair of signing keys, if there is none, and a key to encrypt with.

    Args:
        folder: where; it is made if it is not there.
        recipients: encrypt for these; without any a new age identity is made here.
        legacy: encrypt with this key string, in the legacy format; a secret.

    Returns:
        The files that were made.

    Raises:
        KeysError: there is such a key already, or what was given is none; nothing was made.
        OSError: on a full disk and the like.
    """
    with _making(folder) as (tree, known):
        if legacy is not None:
            _refuse_second([entry.path for entry in known.legacy], Kind.LEGACY)
            make = _legacy(tree, known, legacy)
        else:
            _refuse_second([entry.path for entry in known.recipients], Kind.AGE)
            make = _age(tree, recipients)
        made = _signing(tree)() if not known.signing else []
        return [*made, *make()]


def rotate(
    folder: Path, kind: Kind, *, recipients: Sequence[str] = (), legacy: str | None = None
) -> tuple[list[Path], list[Path]]:
    """Make another key of a kind, which is used from now on.

    Args:
        folder: where.
        kind: of which kind.
        recipients: for `Kind.AGE`: encrypt for these; without any a new age identity is made here.
        legacy: for `Kind.LEGACY`: the key string; a secret.

    Returns:
        The files that were made, and those whose place they take.

    Raises:
        KeysError: there is none yet, or what was given cannot be used; nothing was made.
        OSError: on a full disk and the like.
    """
    with _making(folder) as (tree, known):
        before: list[Path]
        match kind:
            case Kind.SIGNING:
                before, make = [entry.path for entry in known.signing], _signing(tree)
            case Kind.AGE:
                before = [entry.path for entry in known.recipients]
                if not recipients:
                    _refuse_others(known)
                make = _age(tree, recipients)
            case Kind.LEGACY:
                before = [entry.path for entry in known.legacy]
                if legacy is None:
                    raise KeysError(
                        "the platform decides on the legacy key: give the new key string with --legacy FILE"
                    )
                make = _legacy(tree, known, legacy)
        if not before:
            raise KeysError(f"{folder} has no {kind} key to rotate: run `azaionctl keys generate` first")
        return make(), before[:1]


@contextmanager
def _making(folder: Path) -> Iterator[tuple[KeysFolder, Keyring]]:
    """Alone in the folder, and with what is there already."""
    files.make_folder(folder.absolute().parent)
    if not folder.exists():
        folder.mkdir(mode=0o700)
        files.fsync_folder(folder.absolute().parent)
    # Whatever is wrong with the folder is told before anything is made there.
    keyring.load(folder)
    tree = KeysFolder(path=folder)
    with files.locked(tree.lock):
        yield tree, keyring.load(folder)


def _refuse_second(there: list[Path], kind: Kind) -> None:
    if there:
        option = " --legacy FILE" if kind is Kind.LEGACY else ""
        raise KeysError(
            f"there is a key for {kind} already, {there[0]}: to use another one from now on, run "
            f"`azaionctl keys rotate {kind}{option}`"
        )


def _refuse_others(known: Keyring) -> None:
    """Whoever encrypts for others must say so again: a new identity here would not help them."""
    own = {key.recipient for entry in known.identities for key in entry.key.keys}
    others = [each for each in (known.recipients[0].key.ids if known.recipients else ()) if each not in own]
    if others:
        raise KeysError(
            f"models are encrypted for {', '.join(others)}, whose identity is not here: name all new recipients with "
            "--recipient age1..."
        )


def _signing(tree: KeysFolder) -> Callable[[], list[Path]]:
    def make() -> list[Path]:
        number, key = _next(tree.signing, tree.public), Ed25519PrivateKey.generate()
        name = SigningKey(key=key).id
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return [
            # A public half alone does no harm.
            _write(tree.public(number), f"# id: {name}\n", public.decode()),
            _write(tree.signing(number), f"# id: {name}\n", private.decode()),
        ]

    return make


def _age(tree: KeysFolder, texts: Sequence[str]) -> Callable[[], list[Path]]:
    wanted = keyring.recipients(texts) if texts else None

    def make() -> list[Path]:
        number = _next(tree.identity, tree.recipients)
        made, recipients = [], wanted.ids if wanted else ()
        if wanted is None:
            identity = age.generate()
            recipients = (identity.recipient,)
            # Before anything can be encrypted for it. As `age-keygen` writes it.
            made.append(_write(tree.identity(number), f"# public key: {identity.recipient}\n", f"{identity.text}\n"))
        return [*made, _write(tree.recipients(number), "", "".join(f"{each}\n" for each in recipients))]

    return make


def _legacy(tree: KeysFolder, known: Keyring, text: str) -> Callable[[], list[Path]]:
    key = keyring.legacy(text)
    for entry in known.legacy:
        if entry.key.id == key.id:
            raise KeysError(f"this key string is here already, as {entry.path}; the highest number is the one in use")
    return lambda: [_write(tree.legacy(_next(tree.legacy)), f"# id: {key.id}\n", f"{text}\n")]


def _next(*patterns: Callable[[str], Path]) -> int:
    return 1 + max((number for pattern in patterns for number, _ in keyring.numbered(pattern)), default=0)


def _write(path: Path, head: str, body: str) -> Path:
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    files.replace(path, f"# created: {created}\n{head}{body}".encode(), mode=0o600)
    failpoints.hit("keys.written")
    return path
