"""Throwaway RabbitMQ brokers with streams: started, killed, silenced and cut off as a test likes.

All methods block. In an asynchronous test call them as `await asyncio.to_thread(rabbit.kill)`, or use the one that
is asynchronous itself, `apublish`.
"""

import asyncio
import base64
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

import cramjam
import pytest
from rstream import AMQPMessage, ConfirmationStatus, Producer, RawMessage, schema
from rstream.client import Client
from rstream.compression import CompressionHelper, CompressionType, ICompressionCodec
from rstream.connection import ConnectionClosed
from rstream.constants import OffsetType
from rstream.exceptions import ClientError, ServerError
from rstream.producer import _MessageNotification
from rstream.recovery import BackOffRecoveryStrategy

from tests.certificates import certify
from tests.guards import Guard
from tests.ports import HOST, free_ports
from tests.waiting import until

#: The largest frame that a broker takes unless told otherwise.
_FRAME = 1 << 20

#: What can go wrong with a broker that is not there, or not yet.
_ABSENT = (OSError, TimeoutError, ConnectionClosed, ServerError, ClientError)

#: What a test publishes: a status for the application property `AnnotationStatus` (None: no such property) and a body,
#: or the bytes of a whole message, which need not be AMQP.
Publication = tuple[int | str | None, bytes] | bytes


@dataclass(frozen=True)
class Retention:
    """What a stream keeps; a whole segment is dropped at a time, when a new one begins."""

    max_age: str | None = None
    max_length_bytes: int | None = None
    segment_bytes: int | None = None

    @property
    def arguments(self) -> dict[str, str | int]:
        named = {
            "max-age": self.max_age,
            "max-length-bytes": self.max_length_bytes,
            "stream-max-segment-size-bytes": self.segment_bytes,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class User:
    """A user of the broker."""

    name: str
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))

    @property
    def definition(self) -> dict[str, Any]:
        salt = secrets.token_bytes(4)
        digest = hashlib.sha256(salt + self.password.encode()).digest()
        return {
            "name": self.name,
            "password_hash": base64.b64encode(salt + digest).decode(),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "",
        }


@dataclass(frozen=True)
class Installed:
    """Where RabbitMQ's own files and Erlang's programs are."""

    home: Path
    programs: Path


def installed() -> Installed | None:
    """The machine's RabbitMQ, else the one that `make test` has fetched; None if there is none with streams."""
    fetched = Path(sys.prefix) / "rabbitmq"
    for root, programs in ((Path("/"), Path("/usr/bin")), (fetched, fetched / "bin")):
        for home in sorted(root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*"), reverse=True):
            if list(home.glob("plugins/rabbitmq_stream-*")) and (programs / "erl").exists():
                return Installed(home, programs)
    return None


def required() -> Installed:
    """Where RabbitMQ is; skips the test without it, and fails it where it must be there."""
    if (found := installed()) is not None:
        return found
    return _missing(
        "no RabbitMQ 3.9 or newer with streams: `make test` fetches it on Debian; else install rabbitmq-server"
    )


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") or os.environ.get("AZAION_REQUIRE_RABBITMQ") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=5).close()
    except OSError:
        return False
    return True


async def hang_up(client: Client) -> None:
    """End a connection; rstream itself takes 0.2 s for it, and leaves one that has broken open."""
    connection = client._conn
    client._is_not_closed = False
    for task in list(client._tasks):
        await client.stop_task(task)
    if connection is not None:
        with suppress(OSError):
            await connection.close()


class _DirectProducer(Producer):
    """Stays with the broker that it was given; rstream's own goes where the broker says, perhaps through a proxy."""

    async def _get_or_create_client(self, stream: str) -> Client:
        if stream not in self._clients:
            self._clients[stream] = await self._pool.get(
                connection_name="tests", connection_closed_handler=self._on_connection_closed, stream=stream
            )
        return self._clients[stream]

    async def send_entry(self, stream: str, entry: ICompressionCodec, confirmed: Any) -> None:
        """As `send_sub_entry`, without its wait of half a second, and also for what a broken producer would send."""
        await self._send_batch_async(stream, [_MessageNotification(entry=entry, callback=confirmed)])


@dataclass
class Entry(ICompressionCodec):
    """A sub-batch as it goes over the wire, true or false: its compression (0 to 4), how many messages, how large."""

    kind: int
    content: bytes
    count: int
    size: int

    def compress(self, messages: Sequence[Any]) -> None:
        raise NotImplementedError

    def uncompress(self, compressed_data: bytes, uncompressed_data_size: int) -> bytes:
        raise NotImplementedError

    def compressed_size(self) -> int:
        return len(self.content)

    def uncompressed_size(self) -> int:
        return self.size

    def messages_count(self) -> int:
        return self.count

    def compression_type(self) -> int:
        return self.kind

    def data(self) -> bytes:
        return self.content


def _sub_batch(messages: Sequence[Any], compression: str) -> ICompressionCodec:
    kind = ("none", "gzip", "snappy", "lz4", "zstd").index(compression)
    if kind < CompressionType.Snappy.value:
        return CompressionHelper.compress(messages, CompressionType(kind))
    # rstream leaves these three to its users.
    plain = CompressionHelper.compress(messages, CompressionType.No).data()
    content = bytes(getattr(cramjam, compression).compress(plain))
    return Entry(kind, content, len(messages), len(plain))


def _message(publication: Publication) -> Any:
    if isinstance(publication, bytes):
        return RawMessage(publication)
    status, body = publication
    properties = {"AnnotationStatus": status} if status is not None else None
    return AMQPMessage(body=body, application_properties=properties)


class Broker:
    """One broker with everything it has in a folder of its own.

    Args:
        streams: that it starts with.
        vhost: where they are.
        retention: theirs.
        tls: whether `tls_port` and `ca` are to be there too.
        advertised: where the broker sends clients that ask for a stream, a proxy's address for one.
        advertised_tls: the same for those that came over TLS.
        frame_max: the largest frame it takes, in bytes.
        heartbeat_s: how often it wants a sign of life.
    """

    host = HOST

    def __init__(
        self,
        streams: Sequence[str] = ("annotations",),
        *,
        vhost: str = "/",
        retention: Retention | None = None,
        tls: bool = False,
        advertised: tuple[str, int] | None = None,
        advertised_tls: tuple[str, int] | None = None,
        frame_max: int | None = None,
        heartbeat_s: int | None = None,
    ) -> None:
        self._server = required()
        self.vhost = vhost
        self.user, self.password = (owner := User("annotator")).name, owner.password
        #: May read and nothing else.
        self.reader = User("reader")
        self.streams: dict[str, Retention] = dict.fromkeys(streams, retention or Retention())
        self.stream = streams[0] if streams else ""
        self.port, self.tls_port, self._epmd_port, self._node_port = free_ports(4)
        self._frame_max = frame_max or _FRAME
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        self._cleanup = ExitStack()
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="az-rabbit-"))
            self._cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._guard = Guard(self.folder)
            self._cleanup.callback(self._guard.release)
            self._link_home()
            self.ca = certify(self.folder) if tls else self.folder / "no-ca.pem"
            self._define(owner)
            self._configure(
                {
                    "listeners.tcp": "none",
                    "log.console": "false",
                    "log.file.level": "info",
                    "disk_free_limit.absolute": "1MB",
                    "load_definitions": self.folder / "definitions.json",
                    "stream.listeners.tcp.1": f"{HOST}:{self.port}",
                    **_advertise("", advertised or (HOST, self.port)),
                    **({"stream.frame_max": frame_max} if frame_max is not None else {}),
                    **({"stream.heartbeat": heartbeat_s} if heartbeat_s is not None else {}),
                    **(self._tls(advertised_tls or (HOST, self.tls_port)) if tls else {}),
                }
            )
            self._epmd = self._start_epmd()
        except BaseException:
            self._cleanup.close()
            raise

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def credentials(self) -> dict[str, Any]:
        """What rstream's `Consumer` and `Producer` want to know."""
        return {
            "host": HOST,
            "port": self.port,
            "vhost": self.vhost,
            "username": self.user,
            "password": self.password,
        }

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What the broker says of itself, the newest last."""
        return "".join(
            path.read_text(encoding="utf-8", errors="replace")
            for path in [self.folder / "console", *sorted((self.folder / "log").glob("*.log"))]
            if path.exists()
        )

    # Its life.

    def launch(self) -> None:
        """Start the broker and do not wait for it."""
        assert self._process is None or self._process.poll() is not None, "the broker runs already"
        self._let_go()
        with (self.folder / "console").open("ab") as console:
            self._process = subprocess.Popen(
                [self.folder / "home" / "sbin" / "rabbitmq-server"],
                env=self._environment(),
                cwd=self.folder,
                # Its shell ends the broker when nobody holds the other end any more.
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self._paused = False
        self._guard.tell(self._epmd, self._process)

    def start(self) -> None:
        """Start the broker, on the same data and ports if it ran before, and wait until it serves its streams."""
        self.launch()
        self.wait_ready()

    def wait_ready(self, limit_s: float = 90.0) -> None:
        """Wait until a client can log in and publish to every stream; streams that do not exist yet are created."""
        assert self._process is not None
        process = self._process
        until(lambda: _answers(self.port) or process.poll() is not None, "the broker's port opens", limit_s)
        assert process.poll() is None, f"the broker has ended: {self.log[-4000:]}"
        asyncio.run(self._serves(time.monotonic() + limit_s))

    def kill(self) -> None:
        """SIGKILL the broker."""
        # Killed within half a second of its first stream, RabbitMQ 3.10 never serves a stream again.
        if self.streams:
            until(self._coordinated, "the broker has noted on disk that it has streams")
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Let the broker end in its own way."""
        self.resume()
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Silence the broker: connections stay open, and nothing comes."""
        os.kill(self.pid, signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Let a silenced broker go on."""
        if self._paused:
            os.kill(self.pid, signal.SIGCONT)
            self._paused = False

    def close(self) -> None:
        """End the broker and remove what it had."""
        if self._process is not None and self._process.poll() is None:
            self._end(signal.SIGKILL)
        self._let_go()
        self._cleanup.close()

    # Its streams.

    def create(self, stream: str, retention: Retention | None = None) -> None:
        """Make a stream."""
        self.streams[stream] = retention or Retention()
        asyncio.run(self._create(stream))

    def fresh(self, retention: Retention | None = None) -> str:
        """Make a stream that no other test knows; returns its name."""
        name = f"stream-{secrets.token_hex(6)}"
        self.create(name, retention)
        return name

    def delete(self, stream: str) -> None:
        del self.streams[stream]
        asyncio.run(self._delete(stream))

    def recreate(self, stream: str) -> None:
        """Delete a stream and make it anew, empty, with offsets from 0."""
        retention = self.streams[stream]
        self.delete(stream)
        self.create(stream, retention)

    def first_offset(self, stream: str | None = None) -> int:
        """The first message that a stream still has; it must have one."""
        ((offset, _),) = self.read(1, stream=stream)
        return offset

    def truncate(self, beyond: int, filler: Publication = b"filler", *, stream: str | None = None) -> int:
        """Publish until the stream, which needs a small `Retention`, has lost its messages before ``beyond``.

        Returns the first offset left.
        """
        stream = stream or self.stream
        retention = self.streams[stream]
        assert retention.segment_bytes, "without small segments this takes 500 MB"
        assert retention.max_length_bytes, "without a limit nothing is ever dropped"
        size = max(1, len(filler if isinstance(filler, bytes) else filler[1]))
        for _ in range(1000):
            self.publish([filler] * (1 + retention.segment_bytes // size), stream=stream)
            if (first := self.first_offset(stream)) >= beyond:
                return first
        raise AssertionError(f"{stream} still begins at {first}")

    def publish(
        self,
        publications: Iterable[Publication],
        *,
        stream: str | None = None,
        sub_batch: str | None = None,
        batch: int = 100,
    ) -> int:
        """Publish, and wait until the broker has confirmed everything; returns how many messages it were.

        Each ``batch`` is confirmed before the next is sent, so it makes a chunk of the stream at least. ``sub_batch``
        makes one entry of each batch: none, gzip, snappy, lz4 or zstd.
        """
        return asyncio.run(self.apublish(publications, stream=stream, sub_batch=sub_batch, batch=batch))

    async def apublish(
        self,
        publications: Iterable[Publication],
        *,
        stream: str | None = None,
        sub_batch: str | None = None,
        batch: int = 100,
    ) -> int:
        """`publish`, for asynchronous tests."""
        stream = stream or self.stream
        count = 0
        async with self._publishing() as (producer, settled):
            for group in _groups(map(_message, publications), batch, self._frame_max):
                if sub_batch is None:
                    await producer.send_batch(stream, group, on_publish_confirm=settled.take)
                    await settled.wait(len(group))
                else:
                    await producer.send_entry(stream, _sub_batch(group, sub_batch), settled.take)
                    await settled.wait(1)
                count += len(group)
        return count

    def publish_entry(self, entry: Entry, *, stream: str | None = None) -> None:
        """Publish a sub-batch as it is, also one that lies about itself."""

        async def publish() -> None:
            async with self._publishing() as (producer, settled):
                await producer.send_entry(stream or self.stream, entry, settled.take)
                await settled.wait(1)

        asyncio.run(publish())

    def read(self, count: int, *, first: int = 0, stream: str | None = None) -> list[tuple[int, bytes]]:
        """The next ``count`` messages from offset ``first`` on, or from the first that is left, with their offsets."""
        return asyncio.run(asyncio.wait_for(self._read(count, first, stream or self.stream), 60))

    # How it is done.

    @asynccontextmanager
    async def _client(self, user: User | None = None) -> AsyncIterator[Client]:
        client = Client(HOST, self.port, frame_max=_FRAME, heartbeat=60, connection_closed_handler=lambda _: None)
        name, password = (user.name, user.password) if user is not None else (self.user, self.password)
        try:
            await client.start()
            await client.authenticate(self.vhost, name, password)
            yield client
        finally:
            await hang_up(client)

    async def _serves(self, deadline: float) -> None:
        while True:
            try:
                async with self._client() as client:
                    for number, (stream, retention) in enumerate(self.streams.items()):
                        if not await client.stream_exists(stream):
                            await client.create_stream(stream, retention.arguments)
                        await client.query_leader_and_replicas(stream)
                        # The metadata names a leader before it is up.
                        await client.declare_publisher(stream, None, number)
                        await client.delete_publisher(number)
            except _ABSENT as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"the broker is not ready ({error!r}): {self.log[-4000:]}") from error
                await asyncio.sleep(0.02)
            else:
                return

    async def _create(self, stream: str) -> None:
        async with self._client() as client:
            await client.create_stream(stream, self.streams[stream].arguments)

    async def _delete(self, stream: str) -> None:
        async with self._client() as client:
            await client.delete_stream(stream)

    async def _read(self, count: int, first: int, stream: str) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        async with self._client() as client:
            client.add_handler(schema.Deliver, lambda _: None, name="0")
            await client.subscribe(stream, 0, schema.OffsetSpec.from_params(OffsetType.OFFSET, first), initial_credit=1)
            while len(found) < count:
                frame = await client._frames[0].get()
                await client.credit(0, 1)
                messages = enumerate(frame.get_messages(), frame.chunk_first_offset)
                found += [(offset, bytes(message)) for offset, message in messages if offset >= first]
            await client.unsubscribe(0)
        return found[:count]

    @asynccontextmanager
    async def _publishing(self) -> AsyncIterator[tuple["_DirectProducer", "_Settled"]]:
        producer = _DirectProducer(**self.credentials, recovery_strategy=BackOffRecoveryStrategy(enable=False))
        try:
            await producer.start()
            yield producer, _Settled()
        finally:
            for client in itertools.chain(*producer._pool._clients.values()):
                await hang_up(client)

    def _start_epmd(self) -> subprocess.Popen[bytes]:
        epmd = subprocess.Popen(
            [self._server.programs / "epmd", "-address", HOST, "-port", str(self._epmd_port)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

        def end() -> None:
            self._guard.tell()
            epmd.kill()
            epmd.wait()

        self._cleanup.callback(end)
        self._guard.tell(epmd)
        until(lambda: _answers(self._epmd_port) or epmd.poll() is not None, "epmd answers")
        assert epmd.poll() is None, f"epmd has ended with {epmd.returncode}"
        return epmd

    def _coordinated(self) -> bool:
        tables = list(self.folder.glob("data/*/coordination/*/names.dets"))
        return any(b"rabbit_stream_coordinator" in path.read_bytes() for path in tables)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        # Before it is reaped, for afterwards its number may be somebody else's.
        self._guard.tell(self._epmd)
        self._process.send_signal(number)
        try:
            self._process.wait(30)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._paused = False
            self._let_go()

    def _let_go(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _link_home(self) -> None:
        """A RabbitMQ with no more plugins than it needs boots in half the time."""
        plugins = {
            path.name.rpartition("-")[0]: path for path in (self._server.home / "plugins").iterdir() if path.is_dir()
        }
        needed: dict[str, Path] = {}
        asked = ["rabbit", "rabbitmq_stream"]
        while asked:
            name = asked.pop()
            if name in plugins and name not in needed:
                needed[name] = plugins[name]
                text = (plugins[name] / "ebin" / f"{name}.app").read_text(encoding="utf-8")
                for group in re.findall(r"\{applications,\s*\[([^\]]*)\]", text):
                    asked += re.findall(r"\w+", group)
        home = self.folder / "home"
        (home / "plugins").mkdir(parents=True)
        for path in needed.values():
            (home / "plugins" / path.name).symlink_to(path)
        for name in ("sbin", "escript"):
            (home / name).symlink_to(self._server.home / name)

    def _define(self, owner: User) -> None:
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        reading = {"configure": "", "write": "", "read": ".*"}
        definitions = {
            "users": [owner.definition, self.reader.definition],
            "vhosts": [{"name": self.vhost}],
            "permissions": [
                {"user": user.name, "vhost": self.vhost, **allowed}
                for user, allowed in ((owner, everything), (self.reader, reading))
            ],
        }
        (self.folder / "definitions.json").write_text(json.dumps(definitions), encoding="utf-8")

    def _tls(self, advertised: tuple[str, int]) -> dict[str, object]:
        return {
            "stream.listeners.ssl.1": f"{HOST}:{self.tls_port}",
            "ssl_options.cacertfile": self.ca,
            "ssl_options.certfile": self.folder / "server.pem",
            "ssl_options.keyfile": self.folder / "server.key",
            "ssl_options.verify": "verify_none",
            "ssl_options.fail_if_no_peer_cert": "false",
            **_advertise("tls_", advertised),
        }

    def _configure(self, values: dict[str, object]) -> None:
        lines = [f"{name} = {value}\n" for name, value in values.items()]
        (self.folder / "rabbitmq.conf").write_text("".join(lines), encoding="utf-8")
        (self.folder / "enabled_plugins").write_text("[rabbitmq_stream].\n", encoding="utf-8")
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16), encoding="utf-8")
        cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        folder = str(self.folder)
        return {
            "HOME": folder,
            "LANG": "C.UTF-8",
            "PATH": f"{self._server.programs}:/usr/bin:/bin",
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._epmd_port),
            # The script then becomes the broker instead of waiting for it, so that the child's PID is the broker's.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/generated",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_PLUGINS_DIR": f"{folder}/home/plugins",
            "RABBITMQ_SCRIPTS_DIR": f"{folder}/home/sbin",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ("-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"),
        }


class _Settled:
    """Counts what the broker has confirmed."""

    def __init__(self) -> None:
        self._confirmed: asyncio.Queue[ConfirmationStatus] = asyncio.Queue()

    def take(self, status: ConfirmationStatus) -> None:
        self._confirmed.put_nowait(status)

    async def wait(self, count: int) -> None:
        for _ in range(count):
            status = await asyncio.wait_for(self._confirmed.get(), 30)
            assert status.is_confirmed, f"refused with {status.response_code}"


def _groups(messages: Iterable[Any], batch: int, frame_max: int) -> Iterator[list[Any]]:
    """In batches, none larger than a frame."""
    group: list[Any] = []
    size = 0
    for message in messages:
        length = len(bytes(message)) + 16
        if group and (len(group) == batch or size + length > frame_max - 64):
            yield group
            group, size = [], 0
        group.append(message)
        size += length
    if group:
        yield group


def _advertise(kind: str, address: tuple[str, int]) -> dict[str, object]:
    return {f"stream.advertised_{kind}host": address[0], f"stream.advertised_{kind}port": address[1]}


#: `with broker() as rabbit:` gives one that is ready, and gone with all it had at the end.
broker = Broker
