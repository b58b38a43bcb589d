"""The folder of the keys: what may lie there, who may read it, what is made and never replaced."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from azaion.publishing import age, keyring, minting
from azaion.publishing.errors import KeysError
from azaion.publishing.keyring import Keyring
from azaion.publishing.minting import Kind
from azaion.settings import ModelFormat

ROOT = Path(__file__).parents[2]
STRANGER = age.generate().recipient
SECOND = age.generate().recipient


def made(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*")) if folder.exists() else []


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "var" / "keys"
    minting.generate(folder)
    return folder


def test_what_is_made_can_be_used_at_once(keys: Path) -> None:
    assert made(keys) == ["age-1.txt", "recipients-1.txt", "signing-1.pem", "signing-1.pub"]
    assert keys.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in keys.glob("[!.]*"))
    ring = keyring.load(keys)
    (signer,) = ring.signers()
    assert list(ring.trusted) == [signer.id]
    sealing = ring.sealing(ModelFormat.AGE)
    assert sealing.ids == (ring.identities[0].key.keys[0].recipient,)
    ring.opening(ModelFormat.AGE, [STRANGER, *sealing.ids])
    with pytest.raises(KeysError, match=r"has none of these keys"):
        ring.opening(ModelFormat.AGE, [STRANGER])


def test_an_empty_folder_and_none_at_all_say_what_to_do(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path / "empty"):
        ring = keyring.load(folder)
        for ask in (ring.signers, lambda ring=ring: ring.sealing(ModelFormat.AGE)):
            with pytest.raises(KeysError, match="run `azaionctl keys generate`"):
                ask()
        with pytest.raises(KeysError, match="keys generate --legacy FILE"):
            ring.sealing(ModelFormat.LEGACY)
        (tmp_path / "empty").mkdir(mode=0o700, exist_ok=True)


def test_nothing_is_replaced(keys: Path) -> None:
    before = {path: path.read_bytes() for path in keys.iterdir()}
    with pytest.raises(KeysError, match=r"recipients-1.txt: .* `azaionctl keys rotate age`"):
        minting.generate(keys)
    with pytest.raises(KeysError, match="rotate age"):
        minting.generate(keys, recipients=[STRANGER])
    minting.generate(keys, legacy="the platform's")
    with pytest.raises(KeysError, match="rotate legacy --legacy FILE"):
        minting.generate(keys, legacy="another one")
    for kind in Kind:
        minting.rotate(keys, kind, legacy="the next one" if kind is Kind.LEGACY else None)
    assert {path: path.read_bytes() for path in before} == before
    assert made(keys) == sorted(
        f"{name}-{number}.{end}"
        for name, end in (
            ("age", "txt"),
            ("legacy", "key"),
            ("recipients", "txt"),
            ("signing", "pem"),
            ("signing", "pub"),
        )
        for number in (1, 2)
    )


def test_after_a_rotation_the_new_key_is_used_and_the_old_one_still_holds(keys: Path) -> None:
    minting.generate(keys, legacy="the first, ключ")
    # The tenth is newer than the ninth, whatever their names' order.
    for number in range(9):
        old = keyring.load(keys)
        for kind in Kind:
            minting.rotate(keys, kind, legacy=f"{number}" if kind is Kind.LEGACY else None)
        new = keyring.load(keys)
        assert [key.id for key in new.signers()[1:]] == [key.id for key in old.signers()]
        assert set(old.trusted) < set(new.trusted)
        for wanted in ModelFormat:
            before, now = old.sealing(wanted).ids, new.sealing(wanted).ids
            assert before != now
            new.opening(wanted, before)
            new.opening(wanted, now)
            with pytest.raises(KeysError):
                old.opening(wanted, now)
    assert new.legacy[0].path.name == "legacy-10.key"
    assert new.legacy[-1].key.text == "the first, ключ"


def test_the_identity_need_not_be_here(tmp_path: Path) -> None:
    minting.generate(tmp_path / "k", recipients=[STRANGER, SECOND, STRANGER.upper()])
    assert made(tmp_path / "k") == ["recipients-1.txt", "signing-1.pem", "signing-1.pub"]
    assert keyring.load(tmp_path / "k").sealing(ModelFormat.AGE).ids == (STRANGER, SECOND)
    with pytest.raises(KeysError, match=f"encrypted for {STRANGER}, {SECOND}.*--recipient"):
        minting.rotate(tmp_path / "k", Kind.AGE)
    minting.rotate(tmp_path / "k", Kind.AGE, recipients=[SECOND])
    assert keyring.load(tmp_path / "k").sealing(ModelFormat.AGE).ids == (SECOND,)


# Named, since the stranger is another one in each process.
@pytest.mark.parametrize(
    "recipient",
    [
        "",
        "age1abc",
        STRANGER[:-1] + ("q" if STRANGER.endswith("x") else "x"),
        STRANGER.upper()[:-1],
        "AGE-SECRET-KEY-1",
    ],
    ids=["empty", "short", "mistyped", "cut", "secret"],
)
def test_a_recipient_that_is_none(recipient: str, tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="is no recipient of age"):
        minting.generate(tmp_path / "k", recipients=[STRANGER, recipient])
    assert made(tmp_path / "k") == []


@pytest.mark.parametrize("text", ["", "two\nlines", "a\0", "tab\t"])
def test_a_key_string_that_is_none_is_not_shown(text: str, tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="no key string") as caught:
        minting.generate(tmp_path / "k", legacy=text)
    assert not text or text not in str(caught.value)
    assert made(tmp_path / "k") == []


def test_a_key_string_is_kept_to_the_letter(tmp_path: Path) -> None:
    for number, text in enumerate(["# no comment", " blanks around ", "-----", "ключ", "x" * 1000]):
        minting.generate(tmp_path / str(number), legacy=text)
        assert keyring.load(tmp_path / str(number)).legacy[0].key.text == text


def test_rotate_what_is_not_there(tmp_path: Path) -> None:
    for kind in Kind:
        with pytest.raises(KeysError, match="keys generate"):
            minting.rotate(tmp_path / "k", kind, legacy="text" if kind is Kind.LEGACY else None)
    minting.generate(tmp_path / "k", legacy="text")
    with pytest.raises(KeysError, match="--legacy FILE"):
        minting.rotate(tmp_path / "k", Kind.LEGACY)
    with pytest.raises(KeysError, match="is here already"):
        minting.rotate(tmp_path / "k", Kind.LEGACY, legacy="text")
    assert made(tmp_path / "k") == ["legacy-1.key", "signing-1.pem", "signing-1.pub"]


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o755, 0o710])
def test_a_folder_that_others_can_reach_into(mode: int, keys: Path) -> None:
    keys.chmod(mode)
    for use in (keyring.load, minting.generate, lambda folder: minting.rotate(folder, Kind.SIGNING)):
        with pytest.raises(KeysError, match=f"mode {mode:o}.*chmod 700 {keys}"):
            use(keys)


@pytest.mark.parametrize("name", ["signing-1.pem", "age-1.txt", "legacy-1.key", "recipients-1.txt", "signing-1.pub"])
def test_a_key_that_others_can_read(name: str, keys: Path) -> None:
    minting.generate(keys, legacy="text")
    (keys / name).chmod(0o640)
    if name in {"recipients-1.txt", "signing-1.pub"}:
        assert keyring.load(keys).trusted
        (keys / name).chmod(0o620)
    with pytest.raises(KeysError, match=f"others can .* {keys / name} .*chmod 600"):
        keyring.load(keys)


@pytest.mark.parametrize("name", ["signing-1.pem", "age-1.txt", "legacy-1.key", "recipients-1.txt", "signing-1.pub"])
def test_a_file_that_holds_no_key(name: str, keys: Path) -> None:
    minting.generate(keys, legacy="AGE-SECRET-KEY-1OF-SOMEBODY")
    path, other = keys / name, next(keys.glob("signing-1.pub" if name != "signing-1.pub" else "*.pem"))
    for data in (
        b"",
        b"\xff\xfe",
        b"# only this\n",
        b"x" * 100_000,
        other.read_bytes() if "legacy" not in name else b"",
    ):
        path.write_bytes(data)
        if name == "legacy-1.key" and data == b"# only this\n":
            continue
        with pytest.raises(KeysError, match=name) as caught:
            keyring.load(keys)
        assert "PRIVATE" not in str(caught.value)
    path.unlink()
    path.symlink_to(other)
    with pytest.raises(KeysError, match="is a link"):
        keyring.load(keys)


def test_somebody_else_is_trusted_by_a_file(keys: Path, tmp_path: Path) -> None:
    minting.generate(tmp_path / "other")
    other = keyring.load(tmp_path / "other")
    (keys / "signing-their-server.pub").write_bytes((tmp_path / "other" / "signing-1.pub").read_bytes())
    ring = keyring.load(keys)
    assert set(ring.trusted) == {ring.signers()[0].id, other.signers()[0].id}
    # It signs nothing for us, and is in nobody's way.
    minting.rotate(keys, Kind.SIGNING)
    assert len(keyring.load(keys).signers()) == 2


def test_a_removed_private_half_signs_no_more_and_is_still_trusted(keys: Path) -> None:
    minting.rotate(keys, Kind.SIGNING)
    first, second = reversed(keyring.load(keys).signers())
    (keys / "signing-1.pem").unlink()
    ring = keyring.load(keys)
    assert [key.id for key in ring.signers()] == [second.id]
    assert set(ring.trusted) == {first.id, second.id}


def test_no_secret_shows_in_a_repr(keys: Path) -> None:
    minting.generate(keys, legacy="the platform's")
    ring = keyring.load(keys)
    secrets = [ring.legacy[0].key.text, ring.identities[0].key.keys[0].text]
    assert not [secret for secret in secrets if secret in repr(ring)]


STEPS = 4


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_while_keys_are_made(step: int, tmp_path: Path) -> None:
    """After each file: what is there can be read, and running it again makes the rest."""
    folder = tmp_path / "keys"
    code = f"from pathlib import Path; from azaion.publishing import minting; minting.generate(Path({str(folder)!r}))"
    environment = {**os.environ, "AZAION_FAILPOINTS": f"keys.written={step}:kill", "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    before: Keyring = keyring.load(folder)
    assert len(made(folder)) == step
    if step < STEPS:
        minting.generate(folder)
    ring = keyring.load(folder)
    assert set(before.trusted) <= set(ring.trusted)
    sealing = ring.sealing(ModelFormat.AGE)
    assert ring.signers()
    ring.opening(sealing.format, sealing.ids)
