"""How fast annotations come in: the consumer beside what the same messages cost otherwise, from the same broker.

Each contender reads the same stream from its beginning, in a process of its own, by turns:

=======  ==========================================================================================================
raw      rstream as it comes, with a callback that does nothing
old      the old product's way: decode, write image and label, write the offset, message by message, nothing durable
files    the same files (image, label, record) in groups, with our durability, from memory: no broker, no rules
ours     the consumer
=======  ==========================================================================================================

``--fsync-ms 5`` makes every fsync and syncfs of every contender that much slower, as a busy disk would.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import structlog
from PIL import Image
from rstream import Consumer as RstreamConsumer
from rstream import ConsumerOffsetSpecification, OffsetType

from azaion import config, files
from azaion.annotations import amqp
from azaion.annotations.consumer import Consumer
from azaion.annotations.link import quiet
from azaion.annotations.message import Annotation, Box, Origin, Role, Status, decode, encode
from azaion.annotations.rabbitmq import RabbitMQSource
from azaion.annotations.stream import GROUP_BYTES, GROUP_COUNT
from azaion.layout import Layout
from azaion.settings import RabbitMQ, SecretReference
from tests.brokers import Broker, broker

#: Bytes of an image, and how many messages of them.
SIZES: Final = {1: 12_000, 50: 3_000, 500: 600}
_REPLAY: Final = 360_000
CONTENDERS: Final = ("raw", "old", "files", "ours")
_COLOURS: Final = ("#b0b0b0", "#d98c5f", "#7fa7c9", "#2f7d4f")
_SLOW: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
#define SLOW(name) int name(int f) { \\
  static int (*real)(int); if (!real) real = dlsym(RTLD_NEXT, #name); \\
  usleep(atoi(getenv("SLOW_US"))); return real(f); }
SLOW(fsync) SLOW(fdatasync) SLOW(syncfs)
"""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one contender has to do."""

    contender: str
    folder: str
    port: int
    user: str
    password: str
    stream: str
    count: int
    kilobytes: int


# The messages.


def messages(kilobytes: int, count: int) -> Iterator[tuple[int, bytes]]:
    """Annotations with pictures of about that size, no two the same, from a fixed seed."""
    rng = random.Random(kilobytes)
    stream = BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 60)).save(stream, "JPEG", quality=30)
    picture = stream.getvalue()
    for number in range(count):
        padding = b""
        left = kilobytes * 1024 - len(picture)
        while left > 0:
            size = min(left, 60_000)
            # A comment, which every reader of JPEG steps over.
            padding += b"\xff\xfe" + (size + 2).to_bytes(2) + rng.randbytes(size)
            left -= size
        annotation = Annotation(
            status=Status.CREATED,
            name=f"{kilobytes}k-{number:06}",
            media="video",
            time=number,
            extension=".jpg",
            boxes=(Box(0, 0.5, 0.5, 0.2, 0.2), Box(1, 0.25, 0.25, 0.1, 0.1)),
            image=picture[:2] + padding + picture[2:],
            role=Role.VALIDATOR,
            email="someone@example.com",
            origin=Origin.MANUAL,
            created=datetime(2026, 1, 1, tzinfo=UTC),
        )
        yield int(Status.CREATED), encode(annotation)


# The contenders. Each returns when it is done with every message.


async def raw(task: Task) -> None:
    """Read and do nothing."""
    await _rstream(task, lambda _, __: None)


async def old(task: Task) -> None:
    """Write each message as the old product did."""
    root = Path(task.folder)
    images, labels = root / "images", root / "labels"
    images.mkdir()
    labels.mkdir()

    def handle(data: bytes, offset: int) -> None:
        status, body = amqp.read(data)
        event = decode(status, body)
        assert isinstance(event, Annotation)
        (images / f"{event.name}.jpg").write_bytes(event.image)
        (labels / f"{event.name}.txt").write_text("".join(box.label for box in event.boxes))
        (root / "offset.yaml").write_text(f"offset: {offset}\n")

    await _rstream(task, handle)


async def _rstream(task: Task, handle: Callable[[bytes, int], None]) -> None:
    done = asyncio.Event()

    async def callback(message: Any, context: Any) -> None:
        handle(message, context.offset)
        if context.offset == task.count - 1:
            done.set()

    consumer = RstreamConsumer("127.0.0.1", task.port, username=task.user, password=task.password)
    await consumer.subscribe(
        task.stream, callback, decoder=None, offset_specification=ConsumerOffsetSpecification(OffsetType.FIRST, None)
    )
    await done.wait()
    await consumer.close()


async def files_only(task: Task) -> None:
    """Write the same files in groups, each durable before its offset; the messages are in memory."""
    root = Path(task.folder)
    folders = [root / name for name in ("images", "labels", "records")]
    for folder in folders:
        folder.mkdir()
    label, record = b"0 0.5 0.5 0.2 0.2\n1 0.25 0.25 0.1 0.1\n", b"{" + b" " * 500 + b"}\n"
    image = os.urandom(task.kilobytes * 1024)
    group = min(GROUP_COUNT, GROUP_BYTES // len(image))

    def write(first: int) -> None:
        renames = [
            (files.write_temporary(target, data, durable=False), target)
            for number in range(first, min(first + group, task.count))
            for target, data in (
                (folders[0] / f"{number:06}.jpg", image),
                (folders[1] / f"{number:06}.txt", label),
                (folders[2] / f"{number:06}.json", record),
            )
        ]
        files.sync_filesystem(root)
        for temporary, target in renames:
            temporary.replace(target)
        files.fsync_folders(set(folders))
        files.replace(root / "offset.yaml", b"offset: %d\n" % first)

    for first in range(0, task.count, group):
        await asyncio.to_thread(write, first)


async def ours(task: Task) -> None:
    """The consumer as the daemon runs it, but for the process around it."""
    folder = Path(task.folder)
    layout = Layout(root=folder / "root", state=folder / "state", spool=folder / "spool", socket=folder / "socket")
    layout.root.mkdir()
    config.make_folders(layout)
    quiet()
    settings = RabbitMQ(
        host="127.0.0.1",
        port=task.port,
        user=task.user,
        password=SecretReference("RABBITMQ_PASSWORD"),
        queue_name=task.stream,
        vhost="/",
        tls=False,
        tls_ca=None,
        load_balancer=False,
        heartbeat=20,
    )
    stop = asyncio.Event()
    consumer = Consumer(layout, RabbitMQSource(settings, lambda: task.password), stop)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(consumer.run())
        while consumer.offset < task.count:  # noqa: ASYNC110 - it tells nobody, and should not for a benchmark
            await asyncio.sleep(0.005)
        stop.set()
    with os.scandir(layout.data.images) as entries:
        assert sum(1 for _ in entries) == task.count


_RUN: Final[dict[str, Callable[[Task], Coroutine[Any, Any, None]]]] = {
    "raw": raw,
    "old": old,
    "files": files_only,
    "ours": ours,
}


async def _measured(task: Task) -> dict[str, float]:
    """Run a contender beside a task that notices when the event loop is held."""
    stall = 0.0

    async def watch() -> None:
        nonlocal stall
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            stall = max(stall, time.perf_counter() - before - 0.001)

    watching = asyncio.create_task(watch())
    began = time.perf_counter()
    await _RUN[task.contender](task)
    seconds = time.perf_counter() - began
    watching.cancel()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rate": task.count / seconds, "stall_ms": 1000 * stall, "rss_mib": memory}


# The measurement.


def measure(rabbit: Broker, task: Task, parent: Path, environment: dict[str, str]) -> dict[str, float]:
    """One run of one contender, in a process and a folder of its own.

    The files are emptied afterwards, and deleted by who deletes ``parent``: an ext4 without a journal spares the
    inodes of deleted files for some minutes (``recently_deleted`` in its ialloc.c), and the next contender would pay
    half a millisecond for each new file to step over them.
    """
    folder = tempfile.mkdtemp(dir=parent)
    given = json.dumps(asdict(task) | {"folder": folder, "port": rabbit.port})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.consumer", "--task", given],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    for path in Path(folder).rglob("*"):
        if path.is_file():
            os.truncate(path, 0)
    os.sync()
    found: dict[str, float] = json.loads(done.stdout)
    return found


def slow_disk(folder: Path, milliseconds: float) -> dict[str, str]:
    """The environment in which every fsync takes that much longer.

    Raises:
        SystemExit: there is no C compiler to make the library with.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("--fsync-ms needs a C compiler (cc), and there is none")
    source, library = folder / "slow.c", folder / "slow.so"
    source.write_text(_SLOW)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SLOW_US": str(round(1000 * milliseconds))}


def run(
    *, runs: int, fsync_ms: float, part: float = 1.0, sizes: Sequence[int] = tuple(SIZES), replay: bool = False
) -> list[list[str]]:
    """The table: medians of ``runs`` runs, by turns."""
    rows = [["IMAGE", "", *CONTENDERS, "OURS/OLD", "OURS/MIN(RAW, FILES)"]]
    with tempfile.TemporaryDirectory(prefix="az-bench-") as folder, broker() as rabbit:
        environment = slow_disk(Path(folder), fsync_ms) if fsync_ms else {}
        for kilobytes in sizes:
            count = max(100, round(SIZES[kilobytes] * part))
            stream = rabbit.fresh()
            rabbit.publish(messages(kilobytes, count), stream=stream)
            names = ("ours",) if replay else CONTENDERS
            found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for _ in range(runs):
                for name in names:
                    task = Task(
                        contender=name,
                        folder="",
                        port=0,
                        user=rabbit.user,
                        password=rabbit.password,
                        stream=stream,
                        count=count,
                        kilobytes=kilobytes,
                    )
                    found[name].append(measure(rabbit, task, Path(folder), environment))
            rabbit.delete(stream)
            if replay:
                (done,) = found["ours"]
                told = f"{count} in {count / done['rate']:.0f} s: {done['rate']:.0f}/s"
                return [[f"{told}, loop held {done['stall_ms']:.0f} ms at most, RSS {done['rss_mib']:.0f} MiB"]]
            rows += _rows(kilobytes, found)
    return rows


def _rows(kilobytes: int, found: dict[str, list[dict[str, float]]]) -> list[list[str]]:
    def median(what: str) -> dict[str, float]:
        return {name: statistics.median(run[what] for run in runs) for name, runs in found.items()}

    rate, stall, memory = median("rate"), median("stall_ms"), median("rss_mib")
    ratios = [rate["ours"] / rate["old"], rate["ours"] / min(rate["raw"], rate["files"])]
    return [
        [f"{kilobytes} KB", "messages/s", *(f"{rate[name]:.0f}" for name in CONTENDERS), *(f"{x:.2f}" for x in ratios)],
        ["", "loop held, ms", *(f"{stall[name]:.0f}" for name in CONTENDERS), "", ""],
        ["", "RSS, MiB", *(f"{memory[name]:.0f}" for name in CONTENDERS), "", ""],
    ]


def plot(rows: list[list[str]], path: Path) -> None:
    """Draw the rates of a table of `run`: one group of bars for each size of images."""
    import matplotlib as mpl  # noqa: PLC0415 - not in the processes that are measured

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - the same

    rates = [row for row in rows if row[1] == "messages/s"]
    figure, axes = plt.subplots(figsize=(7.5, 3.2))
    for place, (name, colour) in enumerate(zip(CONTENDERS, _COLOURS, strict=True)):
        values = [float(row[2 + place]) for row in rates]
        bars = axes.bar([group + 0.2 * place for group in range(len(rates))], values, 0.19, label=name, color=colour)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=7)
    axes.set_yscale("log")
    axes.set_ylabel("messages/s")
    axes.set_xticks([group + 0.3 for group in range(len(rates))], [f"images of {row[0]}" for row in rates])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(ncols=len(CONTENDERS), frameon=False, fontsize=8, loc="upper right")
    figure.patch.set_facecolor("white")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run the benchmark, or the one contender that ``--task`` says."""
    from supervisor.commands.text import table  # noqa: PLC0415 - not in the processes that are measured

    parser = argparse.ArgumentParser(prog="python -m benchmarks.consumer", description=__doc__)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--replay", action="store_true", help="only ours: 360,000 messages from the beginning, once")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, choices=SIZES, action="append", help="KB of an image (default: all)")
    parser.add_argument("--part", type=float, default=1.0, help="of the messages")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the rates into an SVG")
    parser.add_argument("--fsync-ms", type=float, default=0.0, help="how much slower every fsync is made")
    arguments = parser.parse_args()
    if arguments.task is not None:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        json.dump(asyncio.run(_measured(Task(**json.loads(arguments.task)))), sys.stdout)
        return
    if arguments.replay:
        print(table(run(runs=1, fsync_ms=arguments.fsync_ms, part=_REPLAY / SIZES[1], sizes=[1], replay=True)))
        return
    rows = run(
        runs=arguments.runs,
        fsync_ms=arguments.fsync_ms,
        part=arguments.part,
        sizes=arguments.size or tuple(SIZES),
    )
    print(table(rows))
    if arguments.plot is not None:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
