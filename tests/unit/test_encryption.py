"""Both formats: proved by other programs, whole or refused, there completely or not at all.

The vectors were made once, by the commands ``openssl`` and ``age`` (1.1.1), with the key string `TEXT` and a fresh key
of ``age-keygen``::

    K=$(printf %s "$TEXT" | sha256sum | cut -d' ' -f1) IV=000102030405060708090a0b0c0d0e0f
    (printf %s $IV | xxd -r -p; seq 1 100 | openssl enc -aes-256-cbc -K $K -iv $IV) > seq-100.legacy
    (printf %s $IV | xxd -r -p; printf '' | openssl enc -aes-256-cbc -K $K -iv $IV) > empty.legacy
    age-keygen -o age-identity.txt
    seq 1 13000 | age -r SOMEBODY-ELSE -r OUR-RECIPIENT > seq-13000.age
    printf '' | age -r OUR-RECIPIENT > empty.age
"""

import hashlib
import io
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azaion.publishing import age, encryption, parts
from azaion.publishing.age import Identities, Identity, Recipients
from azaion.publishing.encryption import Opening, Sealing
from azaion.publishing.errors import DamagedError, KeysError, PublishingError
from azaion.publishing.legacy import LegacyKey, decrypt_bytes
from azaion.publishing.streams import Measure, measured

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"
TEXT = "a legacy key string, ключ"

PIECE = 64 << 10
LEGACY = LegacyKey(text=TEXT)
IDENTITY = Identity(text=(VECTORS / "age-identity.txt").read_text().splitlines()[2])
OURS = Recipients(ids=(IDENTITY.recipient,))
#: How to encrypt and how to decrypt, by the name of the format.
WAYS: Final[dict[str, tuple[Sealing, Opening]]] = {
    "age": (OURS, Identities(keys=(IDENTITY,))),
    "legacy": (LEGACY, LEGACY),
}

both = pytest.mark.parametrize("way", WAYS)


def seq(last: int) -> bytes:
    return "".join(f"{number}\n" for number in range(1, last + 1)).encode()


def measure(data: bytes) -> Measure:
    return Measure(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def sealed(way: str, data: bytes) -> bytes:
    made = io.BytesIO()
    WAYS[way][0].encrypt(io.BytesIO(data), made)
    return made.getvalue()


def opened(way: str, data: bytes, folder: Path, plain: bytes) -> bytes:
    """What it decrypts to, if it is that."""
    target = folder / "opened"
    target.unlink(missing_ok=True)
    encryption.decrypt(io.BytesIO(data), target, WAYS[way][1], plain=measure(plain))
    return target.read_bytes()


@pytest.mark.parametrize(
    ("name", "plain"),
    [("empty.age", b""), ("seq-13000.age", seq(13000)), ("empty.legacy", b""), ("seq-100.legacy", seq(100))],
)
def test_what_other_programs_have_encrypted(name: str, plain: bytes, tmp_path: Path) -> None:
    data = (VECTORS / name).read_bytes()
    assert opened(name.split(".")[1], data, tmp_path, plain) == plain
    if name.endswith(".legacy"):
        assert decrypt_bytes(data, TEXT) == plain


def test_what_openssl_makes_of_the_legacy_format() -> None:
    for plain in (b"", seq(20000)):
        data = sealed("legacy", plain)
        key = hashlib.sha256(TEXT.encode()).hexdigest()
        argv = ["openssl", "enc", "-d", "-aes-256-cbc", "-K", key, "-iv", data[:16].hex()]
        assert subprocess.run(argv, input=data[16:], capture_output=True, check=True).stdout == plain


def test_what_age_makes_of_the_age_format() -> None:
    program = shutil.which("age", path=f"{ROOT / '.venv' / 'age' / 'bin'}:{os.environ['PATH']}")
    if program is None:
        reason = "no age: make test fetches it"
        if os.environ.get("CI") or os.environ.get("AZAION_REQUIRE_AGE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    for plain in (b"", seq(20000)):
        argv = [program, "--decrypt", "--identity", str(VECTORS / "age-identity.txt")]
        done = subprocess.run(argv, input=sealed("age", plain), capture_output=True, check=True)
        assert done.stdout == plain


@both
@given(data=st.data())
def test_there_and_back(way: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    border = data.draw(st.sampled_from([0, 16, PIECE - 16, PIECE, 2 * PIECE]))
    plain = os.urandom(max(0, border + data.draw(st.integers(-17, 17))))
    folder = tmp_path_factory.mktemp("there")
    (folder / "plain").write_bytes(plain)
    made = encryption.encrypt(folder / "plain", folder / "whole", WAYS[way][0])
    assert (made.plain, made.whole) == (measure(plain), measured(folder / "whole"))
    cut = parts.split(folder / "whole", folder / "small", folder / "big")
    assert (cut.small, cut.big) == (measured(folder / "small"), measured(folder / "big"))
    assert cut.small.size == min(3072, int(0.2 * made.whole.size))
    assert (folder / "small").read_bytes() + (folder / "big").read_bytes() == (folder / "whole").read_bytes()
    with parts.joined(folder / "small", folder / "big", cut) as whole:
        encryption.decrypt(whole, folder / "back", WAYS[way][1], plain=made.plain)
    assert (folder / "back").read_bytes() == plain
    assert (folder / "back").stat().st_mode & 0o777 == 0o600
    assert not list(folder.glob(".tmp-*"))


@both
def test_every_encryption_is_another(way: str) -> None:
    assert sealed(way, b"the same") != sealed(way, b"the same")


@both
def test_every_single_byte_counts(way: str, tmp_path: Path) -> None:
    plain = seq(100)
    data = sealed(way, plain)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        with pytest.raises((DamagedError, KeysError)):
            opened(way, bytes(changed), tmp_path, plain)
    assert not list(tmp_path.iterdir())


def pieces(data: bytes) -> tuple[bytes, list[bytes]]:
    """The head of an age file and its pieces."""
    end = re.search(rb"\n--- [^\n]+\n", data)
    assert end is not None
    start, size = end.end() + 16, PIECE + 16
    return data[:start], [data[at : at + size] for at in range(start, len(data), size)]


CHANGES: Final[dict[str, Callable[[list[bytes]], list[bytes]]]] = {
    "exchanged": lambda found: [found[1], found[0], *found[2:]],
    "doubled": lambda found: [found[0], found[0], *found[1:]],
    "left out": lambda found: found[1:],
    "cut between two": lambda found: found[:-1],
    "cut inside": lambda found: [*found[:-1], found[-1][:-1]],
    "cut inside the first": lambda found: [found[0][:-1]],
    "nothing left": lambda _: [],
    "prolonged": lambda found: [*found, b"\0"],
    "the last one twice": lambda found: [*found, found[-1]],
    "cut at the authentication": lambda found: [*found[:-1], found[-1][:-16]],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [2 * PIECE + 100, 3 * PIECE])
def test_the_pieces_of_age_hang_together(change: str, size: int, tmp_path: Path) -> None:
    plain = os.urandom(size)
    head, found = pieces(sealed("age", plain))
    assert opened("age", head + b"".join(found), tmp_path, plain) == plain
    # Not even what has been decrypted up to there would do, and the hash is not what notices it.
    for expected in (plain, plain[:PIECE]):
        with pytest.raises(DamagedError, match=r"cut or changed|no whole age file"):
            opened("age", head + b"".join(CHANGES[change](found)), tmp_path, expected)
    other, _ = pieces(sealed("age", plain))
    with pytest.raises(DamagedError):
        opened("age", other + b"".join(found), tmp_path, plain)


def test_pieces_of_the_legacy_format_are_not_mixed_up_either(tmp_path: Path) -> None:
    plain = seq(20000)
    data = sealed("legacy", plain)
    found = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    for change, make in CHANGES.items():
        with pytest.raises(DamagedError):
            opened("legacy", b"".join(make(found)), tmp_path, plain)
        assert not list(tmp_path.iterdir()), change


def test_a_wrong_key(tmp_path: Path) -> None:
    plain = seq(100)
    stranger = Identities(keys=(age.generate(), age.generate()))
    with pytest.raises(KeysError, match="for others"):
        encryption.decrypt(io.BytesIO(sealed("age", plain)), tmp_path / "a", stranger, plain=measure(plain))
    # A wrong key gives valid padding once in 256 times, and is found out all the same.
    for number in range(300):
        key = LegacyKey(text=f"another {number}")
        with pytest.raises(DamagedError):
            encryption.decrypt(io.BytesIO(sealed("legacy", plain)), tmp_path / "a", key, plain=measure(plain))
    assert not list(tmp_path.iterdir())


def test_one_format_is_never_taken_for_the_other(tmp_path: Path) -> None:
    plain = seq(100)
    for way, data in (("age", sealed("legacy", plain)), ("legacy", sealed("age", plain))):
        with pytest.raises(DamagedError):
            opened(way, data, tmp_path, plain)


@both
def test_what_fails_leaves_what_was_there(way: str, tmp_path: Path) -> None:
    plain, target = seq(100), tmp_path / "opened"
    target.write_bytes(b"of before")
    with pytest.raises(DamagedError):
        encryption.decrypt(io.BytesIO(sealed(way, plain)), target, WAYS[way][1], plain=measure(b"something else"))
    with pytest.raises(FileNotFoundError):
        encryption.encrypt(tmp_path / "absent", target, WAYS[way][0])
    assert target.read_bytes() == b"of before"
    assert [path.name for path in tmp_path.iterdir()] == ["opened"]


class Enough(BaseException):
    """Not even a library that catches every Exception makes another one of it."""


@both
@pytest.mark.parametrize("kind", [Enough, ValueError, OSError, PublishingError])
def test_whoever_watches_may_end_it(way: str, kind: type[BaseException], tmp_path: Path) -> None:
    plain = seq(40000)
    (tmp_path / "plain").write_bytes(plain)
    seen: list[tuple[int, int]] = []

    def watch(done: int, size: int) -> None:
        seen.append((done, size))
        if done > PIECE:
            raise kind("it is enough")

    with pytest.raises(kind, match="it is enough"):
        encryption.encrypt(tmp_path / "plain", tmp_path / "whole", WAYS[way][0], on_progress=watch)
    assert seen[0] == (PIECE, len(plain))
    with pytest.raises(kind, match="it is enough"):
        encryption.decrypt(
            io.BytesIO(sealed(way, plain)), tmp_path / "a", WAYS[way][1], plain=measure(plain), on_progress=watch
        )
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


@contextmanager
def little_room() -> Iterator[None]:
    """No file can grow beyond 100 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@both
def test_a_full_disk_is_told_as_such(way: str, tmp_path: Path) -> None:
    plain = seq(20_000)
    (tmp_path / "plain").write_bytes(plain)
    with little_room(), pytest.raises(OSError, match="File too large"):
        encryption.encrypt(tmp_path / "plain", tmp_path / "whole", WAYS[way][0])
    with little_room(), pytest.raises(OSError, match="File too large"):
        opened(way, sealed(way, plain), tmp_path, plain)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


CHILD = """
import sys
from pathlib import Path
from azaion.publishing import encryption, parts
from azaion.publishing.legacy import LegacyKey
from azaion.publishing.streams import measured
folder = Path(sys.argv[1])
made = encryption.encrypt(folder / "plain", folder / "whole", LegacyKey(text="key"))
cut = parts.split(folder / "whole", folder / "small", folder / "big")
with parts.joined(folder / "small", folder / "big", cut) as whole:
    encryption.decrypt(whole, folder / "back", LegacyKey(text="key"), plain=made.plain)
"""

#: Where it is killed, and the files that are whole then.
DEATHS: Final[dict[str, list[str]]] = {
    "files.written.rename=1": [],
    "encryption.written=1": ["whole"],
    "files.written.rename=2": ["whole"],
    "parts.small=1": ["whole", "small"],
    "files.written.rename=3": ["whole", "small"],
    "parts.big=1": ["whole", "small", "big"],
    "files.written.rename=4": ["whole", "small", "big"],
}


@pytest.mark.parametrize("death", DEATHS)
def test_killed_while_it_is_done(death: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(seq(20000))

    def run(failpoints: str) -> int:
        environment = {**os.environ, "AZAION_FAILPOINTS": failpoints, "PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], env=environment, check=False).returncode

    assert run(f"{death}:kill") == -9
    there = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".tmp-"))
    assert there == sorted(["plain", *DEATHS[death]])
    sizes = {"whole": 108_912, "small": 3072, "big": 105_840}
    assert all((tmp_path / name).stat().st_size == sizes[name] for name in DEATHS[death])
    assert run("") == 0
    assert (tmp_path / "back").read_bytes() == seq(20000)


def test_a_part_that_is_not_the_one(tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(os.urandom(20_000))
    small, big = tmp_path / "small", tmp_path / "big"
    cut = parts.split(tmp_path / "whole", small, big)
    for path, data in ((small, small.read_bytes()), (big, big.read_bytes())):
        for changed in (data[:-1], data + b"\0", b"", data[1:] + data[:1], bytes([data[0] ^ 1]) + data[1:]):
            path.write_bytes(changed)
            why = "SHA-256" if len(changed) == len(data) else f"{len(changed)} bytes, and {len(data)} were published"
            with (
                pytest.raises(DamagedError, match=f"the {path.name} part .*{why}.* fetch it again"),
                parts.joined(small, big, cut),
            ):
                pytest.fail("it was let through")
        path.write_bytes(data)
    with pytest.raises(DamagedError), parts.joined(big, small, cut):
        pytest.fail("they were let through")


@pytest.mark.parametrize("whole", [0, 1, 4, 5, 32, 999, 15_355, 15_359, 15_360, 15_361, 2 << 30])
def test_the_size_of_the_small_part(whole: int) -> None:
    assert parts.small_size(whole) == min(3 * 1024, int(0.2 * whole))
