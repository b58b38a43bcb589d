"""The annotation consumer as a process of its own, without a daemon."""

import asyncio
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from rstream import schema
from rstream.constants import OffsetType

from azaion import config, files
from azaion.annotations import offset
from azaion.annotations import record as records
from azaion.annotations.offset import Position
from azaion.annotations.record import Folder
from azaion.annotations.spool import Spool
from azaion.layout import Layout
from tests.annotation_messages import Event, expected, found
from tests.brokers import Broker, Publication
from tests.installations import Installation, installation
from tests.waiting import until


class Consuming:
    """An installation's root with its spool, and consumers that come and go."""

    def __init__(self, server: Installation) -> None:
        self.server = server
        self.layout = server.layout
        self.spool = Spool(self.layout.spool)
        self.processes: list[subprocess.Popen[bytes]] = []
        config.make_folders(self.layout)
        self.configure()

    def configure(self, **variables: str) -> None:
        config.write(config.settings(self.server.variables | variables, None), self.layout.config)

    def send(self, events: Iterable[Event]) -> None:
        self.spool.append((event.status, event.body) for event in events)

    def end(self) -> int:
        """The offset after the last message."""
        return self.spool.end()

    def start(self, failpoints: str = "") -> subprocess.Popen[bytes]:
        with (self.server.folder / "consumer.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.consumer", "--parent-pipe", "--config", str(self.layout.config)],
                cwd=self.server.folder,
                env=self.server.environment(AZAION_FAILPOINTS=failpoints, PYTHONPATH=str(self.server.code)),
                stdin=subprocess.PIPE,
                stderr=log,
            )
        self.processes.append(process)
        return process

    @property
    def log(self) -> str:
        return (self.server.folder / "consumer.log").read_text(encoding="utf-8")

    @property
    def status(self) -> dict[str, Any]:
        try:
            return files.read_json(self.layout.consumer_status)
        except FileNotFoundError:
            return {}

    @property
    def position(self) -> Position | None:
        return offset.read(self.layout.offset)

    @property
    def offset(self) -> int:
        position = self.position
        return position.offset if position is not None else 0

    def told(self, **wanted: object) -> dict[str, Any]:
        """Wait until the status says so."""

        def look() -> dict[str, Any] | None:
            status = self.status
            return status if wanted.items() <= status.items() else None

        found = until(look, f"the consumer tells {wanted}")
        assert found is not None
        return found

    def gone_or_at(self, process: subprocess.Popen[bytes], end: int, limit_s: float = 30.0) -> None:
        """Wait until everything before ``end`` is committed, or the consumer is dead."""
        until(lambda: self.offset == end or process.poll() is not None, f"offset {end}", limit_s)

    def consumed(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until everything that was sent is committed."""
        self.gone_or_at(process, self.end())
        assert process.poll() is None, self.log

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        assert process.wait(10) == 0, self.log

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


@contextmanager
def consuming() -> Iterator[Consuming]:
    """A root without a daemon."""
    with installation() as server:
        made = Consuming(server)
        try:
            yield made
        finally:
            made.close()


class Streaming(Consuming):
    """The same with a broker's stream instead of the spool.

    ``events`` is the publisher's own list: what the broker has confirmed, in order.
    """

    def __init__(self, server: Installation, rabbit: Broker, stream: str) -> None:
        super().__init__(server)
        self.rabbit = rabbit
        self.stream = stream
        self.events: list[Event] = []

    def send(self, events: Iterable[Event], *, sub_batch: str | None = None) -> None:
        events = list(events)
        self.publish([(event.status, event.body) for event in events], sub_batch=sub_batch)
        self.events += events

    def publish(self, publications: Iterable[Publication], *, sub_batch: str | None = None) -> None:
        """Publish what is no event."""
        self.rabbit.publish(publications, stream=self.stream, sub_batch=sub_batch)

    def end(self) -> int:
        return end_of(self.rabbit, self.stream)

    def settled(self, process: subprocess.Popen[bytes], limit_s: float = 30.0) -> None:
        """Wait until the consumer has done everything, stop it, and compare the tree with the publisher's own list."""
        end = self.end()
        self.gone_or_at(process, end, limit_s)
        # One that finds nothing to do must have come as far as to be asked to end.
        until(lambda: self.status.get("pid") == process.pid or process.poll() is not None, "it tells")
        assert process.poll() is None, self.log
        self.stop(process)
        assert self.offset == end
        self.compare()

    def compare(self) -> None:
        """The tree is what the publisher's own list says, byte for byte, and every record says the same."""
        tree = found(self.layout)
        assert tree == expected(self.events)
        folders = {Folder.SEED: self.layout.seed, Folder.DATA: self.layout.data, Folder.DELETED: self.layout.deleted}
        for name, lying in tree.items():
            record = records.read(self.layout.records / f"{name}.json")
            assert record is not None, f"{name} has no record"
            told = (folders[record.folder].path.name, record.extension, record.image_sha256, record.image_bytes)
            assert told == (lying.folder, lying.extension, sha256(lying.image).hexdigest(), len(lying.image)), name


def decide(layout: Layout, choice: str | int, position: Position | None) -> None:
    """What `azaionctl consumer resume` leaves for the consumer."""
    about = None if position is None else [position.incarnation, position.offset]
    files.write_json(layout.consumer_request, {"from": choice, "position": about}, durable=False)


def end_of(rabbit: Broker, stream: str) -> int:
    """The offset after the last message of a stream, which must have one, without the product's own reader."""

    async def look() -> int:
        async with rabbit._client() as client:
            client.add_handler(schema.Deliver, lambda _: None, name="0")
            await client.subscribe(stream, 0, schema.OffsetSpec(OffsetType.LAST), initial_credit=1)
            chunk = await asyncio.wait_for(client._frames[0].get(), 30)
            return int(chunk.chunk_first_offset) + len(list(chunk.get_messages()))

    return asyncio.run(look())


def broker_variables(
    rabbit: Broker, stream: str, *, address: tuple[str, int] | None = None, heartbeat_s: int = 5
) -> dict[str, str]:
    """The configuration of who reads this stream, by a proxy's address for one."""
    host, port = address or (rabbit.host, rabbit.port)
    return {
        "AZAION_SOURCE": "rabbitmq",
        "RABBITMQ_HOST": host,
        "RABBITMQ_PORT": str(port),
        "RABBITMQ_USER": rabbit.user,
        "RABBITMQ_PASSWORD": rabbit.password,
        "RABBITMQ_QUEUE_NAME": stream,
        "RABBITMQ_VHOST": rabbit.vhost,
        "RABBITMQ_HEARTBEAT": str(heartbeat_s),
    }


@contextmanager
def streaming(
    rabbit: Broker, stream: str, *, address: tuple[str, int] | None = None, heartbeat_s: int = 5
) -> Iterator[Streaming]:
    """A root without a daemon whose annotations come from a stream."""
    with installation(**broker_variables(rabbit, stream, address=address, heartbeat_s=heartbeat_s)) as server:
        made = Streaming(server, rabbit, stream)
        try:
            yield made
        finally:
            made.close()
