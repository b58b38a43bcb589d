"""The readers of what comes from the broker, fed by what a fuzzer that sees their branches makes up: ``make guided``.

Atheris (libFuzzer) keeps what reaches a branch that nothing has reached before and goes on from there, where the random
cases of ``test_wire_fuzz.py`` begin anew each time. It begins with messages and chunks of theirs. What it finds lies in
the folder that it names, to be given to it again as its only argument.
"""

import argparse
import random
import sys
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["azaion.annotations"]):
    from azaion.annotations import amqp, wire
    from azaion.annotations.errors import BadMessageError
    from azaion.annotations.message import decode
    from azaion.annotations.wire import Chunk, ChunkError

from tests.faults import test_wire_fuzz as cases

_STATUSES: Final = (10, 20, 30, 40, "Created", "Deleted", None)
_SEEDS: Final = 300
#: In MiB, with all that the fuzzer itself keeps; the random cases are held to less.
_MEMORY_MIB: Final = 1024


def read(data: bytes) -> None:
    """One case: its first byte says what is read, and as what."""
    if not data:
        return
    kind, rest = data[0], data[1:]
    # Whatever else comes out of it is found.
    with suppress(BadMessageError, ChunkError):
        match kind & 3:
            case 0:
                amqp.read(rest)
            case 1:
                decode(_STATUSES[(kind >> 2) % len(_STATUSES)], memoryview(bytearray(rest)))
            case _:
                read_chunk(kind >> 2, rest)


def read_chunk(count: int, data: bytes) -> None:
    """A chunk of so many entries and records, each message of which is expanded."""
    chunk = Chunk(
        first=5,
        entries=count & 7,
        records=count >> 1,
        taken=0.0,
        crc=zlib.crc32(data),
        data=memoryview(bytearray(data)),
    )
    chunk.check()
    for found in chunk.messages(5):
        for one in wire.expand(found):
            if one.problem is None:
                with suppress(BadMessageError):
                    amqp.read(bytes(one.body))


def begin(corpus: Path) -> None:
    """Put some cases there that are not far from good ones."""
    rng = random.Random(1)
    for number in range(_SEEDS):
        made = (
            b"\x00" + cases.message(rng),
            bytes([1 | rng.randrange(len(_STATUSES)) << 2]) + cases.body(rng),
            bytes([2 | 1 << 2]) + cases.entry(rng)[0],
        )[number % 3]
        (corpus / f"{number}").write_bytes(made)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.guided", description=__doc__)
    parser.add_argument("case", nargs="?", type=Path, help="replay only this one")
    parser.add_argument("--runs", type=int, default=1_000_000, help="so many cases (a million)")
    arguments = parser.parse_args()
    if arguments.case is not None:
        read(arguments.case.read_bytes())
        return
    with tempfile.TemporaryDirectory(prefix="az-guided-") as folder:
        begin(Path(folder))
        found = Path(tempfile.mkdtemp(prefix="az-found-"))
        print(f"what is found will be in {found}", flush=True)
        options = [f"-runs={arguments.runs}", f"-rss_limit_mb={_MEMORY_MIB}", f"-artifact_prefix={found}/"]
        atheris.Setup([sys.argv[0], *options, "-max_len=65536", "-timeout=10", "-print_final_stats=1", folder], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
