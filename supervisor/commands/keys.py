"""``azaionctl keys``: what models are encrypted and signed with. Works on the files, without the daemon."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from azaion.errors import AzaionError
from supervisor.commands import text
from supervisor.commands.settings import env_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from azaion.publishing.keyring import Entry, Keyring

# `azaion.config` and the libraries of the keys cost more than all else: they are imported where they are used.

_STANDARD_INPUT: Final = Path("-")
#: No key string comes near it.
_MAX_BYTES: Final = 64 << 10


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``keys`` with its actions."""
    parser = commands.add_parser("keys", help="what models are encrypted and signed with")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    generate = actions.add_parser("generate", help="make what is needed to publish; never replaces a key")
    generate.set_defaults(run=_generate)

    rotate = actions.add_parser("rotate", help="use another key from now on; the old ones still decrypt and verify")
    rotate.add_argument("kind", choices=("signing", "age", "legacy"), help="which key")
    rotate.set_defaults(run=_rotate)

    show = actions.add_parser("show", help="fingerprints, ages and public halves; never a secret")
    show.set_defaults(run=_show)

    for making in (generate, rotate):
        making.add_argument(
            "--recipient",
            action="append",
            default=[],
            metavar="age1...",
            help="encrypt for this one, whose identity stays where it is; may be given again (default: a new identity)",
        )
        making.add_argument(
            "--legacy", type=Path, metavar="FILE", help="the key string of the legacy format; - is the standard input"
        )
    for action in (generate, rotate, show):
        action.add_argument("--keys", type=Path, metavar="DIR", help="the folder (default: AZAION_KEYS_DIR)")


def _generate(arguments: argparse.Namespace) -> int:
    from azaion.publishing import minting  # noqa: PLC0415 - see above

    if arguments.recipient and arguments.legacy:
        arguments.usage_error("--recipient is for age, --legacy for the legacy format: make one after the other")
    folder, secret = _folder(arguments), _given(arguments)
    made = minting.generate(folder, recipients=arguments.recipient, legacy=secret)
    _tell(arguments, folder, made)
    return 0


def _rotate(arguments: argparse.Namespace) -> int:
    from azaion.publishing import minting  # noqa: PLC0415 - see above

    if (arguments.recipient and arguments.kind != "age") or (arguments.legacy and arguments.kind != "legacy"):
        arguments.usage_error(f"that is no option for {arguments.kind}")
    folder, secret = _folder(arguments), _given(arguments)
    made, before = minting.rotate(folder, minting.Kind(arguments.kind), recipients=arguments.recipient, legacy=secret)
    _tell(arguments, folder, made, before)
    return 0


def _tell(arguments: argparse.Namespace, folder: Path, made: list[Path], before: Sequence[Path] = ()) -> None:
    from azaion.publishing import keyring  # noqa: PLC0415 - see above

    record = {
        "made": [str(path) for path in made],
        "instead_of": [str(path) for path in before],
        **_record(keyring.load(folder)),
    }
    if arguments.json:
        text.put_json(record)
        return
    for path in made:
        print(f"made {path}")
    for path in before:
        old = "signs too, until you remove it" if path.suffix == ".pem" else "stays for what is published already"
        print(f"it takes the place of {path}, which {old}")
    for line in _next_steps(made):
        print(line)


def _next_steps(made: list[Path]) -> Iterator[str]:
    for path in made:
        if path.suffix == ".pub":
            yield f"give {path} to those who use the models: by it they know what is yours"
        elif path.suffix == ".pem":
            yield f"keep a copy of {path} where nobody else finds it: who has it can sign in your name"
        elif path.name.startswith("age-"):
            yield f"keep a copy of {path}, and give it to those who use the models: it decrypts them"


def _show(arguments: argparse.Namespace) -> int:
    from azaion.publishing import keyring  # noqa: PLC0415 - see above

    record = _record(keyring.load(_folder(arguments)))
    if arguments.json:
        text.put_json(record)
        return 0
    rows = [["KEY", "MADE", "FILE", "USE"]]
    rows += [[each["id"], _age(each["created"]), Path(each["file"]).name, each["use"]] for each in record["keys"]]
    if len(rows) == 1:
        print(f"no keys in {record['folder']} yet; `azaionctl keys generate` makes them")
        return 0
    print(f"in {record['folder']}:\n{text.table(rows)}")
    for each in record["keys"]:
        if each["kind"] in {"signing", "trusted"}:
            print(f"public half of {each['id']}: {each['public']}")
    return 0


def _record(keyring: "Keyring") -> dict[str, Any]:
    """All that may be known of the keys; nothing secret."""
    return {"folder": str(keyring.folder), "keys": list(_keys(keyring))}


def _keys(keyring: "Keyring") -> Iterator[dict[str, Any]]:
    yield from _signing_keys(keyring)
    yield from _age_keys(keyring)
    for place, legacy in enumerate(keyring.legacy):
        use = "encrypts and decrypts (legacy)" if place == 0 else "decrypts what is older (legacy)"
        yield _one("legacy", legacy, legacy.key.id, use)


def _signing_keys(keyring: "Keyring") -> Iterator[dict[str, Any]]:
    from azaion.publishing.envelope import key_id  # noqa: PLC0415 - see above

    own = set()
    for place, entry in enumerate(keyring.signing):
        own.add(entry.key.id)
        use = "signs" if place == 0 else "signs too, while its file is here"
        yield _one("signing", entry, entry.key.id, use, public=_base64(entry.key.key.public_key()))
    for public in keyring.publics:
        if (name := key_id(public.key)) not in own:
            yield _one("trusted", public, name, "is trusted", public=_base64(public.key))


def _age_keys(keyring: "Keyring") -> Iterator[dict[str, Any]]:
    own = {key.recipient for entry in keyring.identities for key in entry.key.keys}
    current = keyring.recipients[0].key.ids if keyring.recipients else ()
    for name in current:
        use = "encrypts; its identity is " + ("here" if name in own else "elsewhere")
        yield _one("recipient", keyring.recipients[0], name, use, public=name)
    for entry in keyring.identities:
        for key in entry.key.keys:
            use = "decrypts" if key.recipient in current else "decrypts what is older"
            yield _one("identity", entry, key.recipient, use, public=key.recipient)


def _base64(key: "Ed25519PublicKey") -> str:
    import base64  # noqa: PLC0415 - only for whoever asks

    return base64.b64encode(key.public_bytes_raw()).decode()


def _one(kind: str, entry: "Entry[Any]", name: str, use: str, *, public: str | None = None) -> dict[str, Any]:
    return {
        "kind": kind,
        "id": name,
        "file": str(entry.path),
        "created": entry.created,
        "use": use,
        **({} if public is None else {"public": public}),
    }


def _age(created: str | None) -> str:
    try:
        return f"{text.since(created)} ago" if created else "?"
    except (ValueError, TypeError):
        return "?"


def _given(arguments: argparse.Namespace) -> str | None:
    """The key string; it comes by no argument, which everybody on the machine could read."""
    from azaion import files  # noqa: PLC0415 - see above

    path: Path | None = arguments.legacy
    if path is None:
        return None
    if path == _STANDARD_INPUT:
        if sys.stdin.isatty():
            from getpass import getpass  # noqa: PLC0415 - only at a terminal

            return getpass("key string (it is not shown): ")
        data = sys.stdin.buffer.read(_MAX_BYTES)
    else:
        data = files.read_small(path, limit=_MAX_BYTES, follow_links=True)
    try:
        return data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise AzaionError(f"{path} is no text in UTF-8, so it holds no key string") from None


def _folder(arguments: argparse.Namespace) -> Path:
    if arguments.keys is not None:
        return Path(arguments.keys)
    from azaion import config  # noqa: PLC0415 - see above

    settings = config.settings(os.environ, env_file())
    return settings.publishing.keys
