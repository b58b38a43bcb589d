"""Whatever the broker or a producer sends, reading it ends in a message or in one of two errors, and in no more memory.

AZAION_FUZZ says how many cases are made, AZAION_SEED replays a run.
"""

import gc
import gzip
import os
import random
import re
import resource
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import cramjam
import msgspec
from rstream import AMQPMessage

from azaion.annotations import amqp, wire
from azaion.annotations.errors import BadMessageError
from azaion.annotations.message import decode
from azaion.annotations.wire import Chunk, ChunkError
from tests.tallies import tally

CASES: Final = int(os.environ.get("AZAION_FUZZ", "20000"))
#: What the allocator may keep, whatever the number of cases.
GROWTH_KIB: Final = 64 << 10
#: Where reading goes wrong: the ends of every kind of number, and the bytes that begin things.
EDGES: Final = (
    *(
        b"\x00",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xc0",
        b"\xc1",
        b"\xd0",
        b"\xd1",
        b"\xf0",
        b"\x40",
        b"\x53",
        b"\xdd",
        b"\xc9",
    ),
    *(b"\x00\x53\x75\xa0", b"\x00\x53\x74\xd1", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x00" * 8, b"\x80" + b"\x00" * 7),
)
DETECTIONS: Final = (
    '[{"cls":0,"x":0.5,"y":0.5,"w":0.1,"h":0.1,"confidence":0.9}]',
    '[{"classNum":1e999,"centerX":-0.0,"centerY":NaN,"width":1,"height":true}]',
    "[" * 3000,
    "null",
    '[{"x":null,"x":1}]',
)

Case = Callable[[random.Random], None]


def mutate(rng: random.Random, data: bytes, at_most: int = 4) -> bytes:
    """Some bytes changed, cut, doubled, moved or put in."""
    made = bytearray(data)
    for _ in range(rng.randrange(at_most + 1)):
        at = rng.randrange(len(made) + 1)
        length = rng.choice((1, 1, 2, 4, 8, rng.randrange(64)))
        match rng.randrange(7):
            case 0 if at < len(made):
                made[at] = rng.randrange(256)
            case 1 if at < len(made):
                made[at] ^= 1 << rng.randrange(8)
            case 2:
                del made[at : at + length]
            case 3:
                made[at:at] = made[at : at + length]
            case 4:
                edge = rng.choice(EDGES)
                made[at : at + len(edge)] = edge
            case 5:
                made[at:at] = rng.choice(EDGES)
            case _:
                del made[at:]
    return bytes(made)


def value(rng: random.Random) -> Any:
    """Something where something else was expected."""
    return rng.choice(
        (
            *(None, True, -1, 0, 10, 30, 1 << 63, -(1 << 63), 1.5, float("nan"), "", "a", "../x", "\u0000", "Created"),
            *(b"", b"\xff\xd8\xff", [], ["a"] * 40, [[]], {"a": 1}, datetime(2026, 1, 1, tzinfo=UTC)),
            *(datetime(1, 1, 1, tzinfo=UTC), msgspec.msgpack.Ext(-1, b"\xff" * 12), msgspec.msgpack.Ext(5, b"")),
        )
    )


def body(rng: random.Random) -> bytes:
    if rng.random() < 0.8:
        fields: list[Any] = [
            *(datetime(2026, 1, 1, tzinfo=UTC), "name", "media", 5, "jpg", DETECTIONS[0], b"\xff\xd8\xff"),
            *(20, "a@b.c", 1, 10),
        ]
    else:
        fields = [["a", "b"], 30, "a@b.c", datetime(2026, 1, 1, tzinfo=UTC)]
    if rng.random() < 0.2:
        fields[min(5, len(fields) - 1)] = rng.choice(DETECTIONS)
    for _ in range(rng.choice((0, 0, 1, 2))):
        fields[rng.randrange(len(fields))] = value(rng)
    del fields[rng.choice((99, 99, 99, rng.randrange(12))) :]
    return mutate(rng, msgspec.msgpack.encode(fields), rng.choice((0, 2)))


def message(rng: random.Random) -> bytes:
    status = rng.choice((10, 20, 30, 40, "Created", "deleted", "", -1, 1 << 40, None))
    properties = {"AnnotationStatus": status} if status is not None else {}
    content = body(rng) if rng.random() < 0.3 else b"body"
    return mutate(rng, bytes(AMQPMessage(body=content, application_properties=properties)), rng.choice((0, 3)))


def packed(rng: random.Random, data: bytes) -> tuple[int, bytes]:
    codec = rng.choice((0, 1, 1, 2, 2, 3, 4))
    if codec == 1:
        return codec, gzip.compress(data, 1)
    module, name = (
        (None, ""),
        (None, ""),
        (cramjam.snappy, rng.choice(("compress", "compress_raw"))),
        (cramjam.lz4, "compress"),
        (cramjam.zstd, "compress"),
    )[codec]
    return codec, bytes(getattr(module, name)(data)) if module is not None else data


def entry(rng: random.Random) -> tuple[bytes, int]:
    """An entry of a chunk, and how many messages it holds if nobody has touched it."""
    if rng.random() < 0.4:
        content = message(rng)
        return struct.pack(">I", len(content)) + content, 1
    count = rng.randrange(4)
    data = b"".join(struct.pack(">I", len(one)) + one for one in (message(rng) for _ in range(count)))
    if rng.random() < 0.2:
        data = mutate(rng, data)
    codec, content = packed(rng, data)
    if rng.random() < 0.3:
        content = mutate(rng, content)
    size = len(data) if rng.random() < 0.8 else rng.choice((len(data) + 1, rng.randrange(1 << 20), 0xFFFFFFFF))
    told = count if rng.random() < 0.9 else rng.randrange(1 << 16)
    return struct.pack(">BHII", 0x80 | codec << 4, told, size, len(content)) + content, told


def a_chunk(rng: random.Random) -> None:
    entries = [entry(rng) for _ in range(rng.randrange(4))]
    data = b"".join(content for content, _ in entries)
    if rng.random() < 0.2:
        data = mutate(rng, data)
    records = sum(count for _, count in entries)
    chunk = Chunk(
        first=rng.choice((0, 5, (1 << 64) - 1)),
        entries=len(entries) if rng.random() < 0.9 else rng.randrange(1 << 16),
        records=records if rng.random() < 0.9 else rng.choice((rng.randrange(20), 0xFFFFFFFF)),
        taken=0.0,
        crc=zlib.crc32(data),
        data=memoryview(bytearray(data)),
    )
    chunk.check()
    start, offset = rng.choice((0, chunk.first + rng.randrange(8))), chunk.first
    for found in chunk.messages(start):
        assert found.offset >= offset
        assert start < found.offset + found.count <= chunk.end
        offset = found.offset + found.count
        assert len(found.body) <= wire.MAX_BATCH_BYTES
        again = list(wire.expand(found))
        assert [one.problem is None for one in again] == [found.problem is None] * len(again)


def an_amqp_message(rng: random.Random) -> None:
    amqp.read(mutate(rng, message(rng)))


def a_body(rng: random.Random) -> None:
    decode(rng.choice((10, 20, 30, 40, "Created", "x", None)), memoryview(bytearray(body(rng))))


def forget_peak() -> None:
    """What other tests of this process have used is not ours (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_kib() -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def resident_kib() -> int:
    """What is in use now: a single case may need two batches' room for a moment."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def test_random_messages_end_in_one_of_two_errors() -> None:
    seed = int(os.environ.get("AZAION_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"AZAION_SEED={seed} AZAION_FUZZ={CASES}")
    ends: Counter[str] = Counter()
    began = time.monotonic()
    used: list[int] = []
    forget_peak()
    bound = resident_kib() + 2 * (wire.MAX_BATCH_BYTES >> 10) + GROWTH_KIB
    for number in range(CASES):
        # Each case has a seed of its own, so that the last one can be replayed alone.
        rng = random.Random(seed + number)
        case: Case = rng.choice((a_chunk, a_chunk, an_amqp_message, a_body))
        try:
            case(rng)
        except (BadMessageError, ChunkError) as error:
            ends[f"{case.__name__}: {type(error).__name__}"] += 1
        except BaseException:
            print(f"AZAION_SEED={seed + number} AZAION_FUZZ=1")
            raise
        else:
            ends[f"{case.__name__}: read"] += 1
        if number in {CASES // 2, CASES - 1}:
            used.append(resident_kib())
    assert used[-1] - used[0] < GROWTH_KIB
    assert peak_kib() < bound
    assert len(ends) == 6 or CASES < 1000, "each kind should be read sometimes, and refused sometimes"
    note = f"{time.monotonic() - began:.1f} s; peak {peak_kib() >> 10} MiB; {dict(sorted(ends.items()))}"
    tally("hostile messages and chunks", CASES, "read or refused, in bounded memory", note)
