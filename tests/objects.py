"""Throwaway S3 servers over HTTPS, each with a bucket, a reader and a writer, killed as a test likes."""

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from azaion.publishing.access import CdnAccess, Credentials, Patience
from azaion.publishing.cdn import Cdn
from tests.certificates import certify
from tests.guards import Guard
from tests.ports import HOST, free_ports
from tests.waiting import until

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

BUCKET = "models"

#: Nothing here is far away.
QUICK = Patience(connect_s=2.0, silence_s=2.0, attempts=3, pause_s=0.05)


class ObjectStore(ABC):
    """One server with everything it has in a folder of its own.

    Attributes:
        reader: may read and list, and nothing else.
        writer: may write, abort and list uploads, and not read.
        admin: may do everything.
        ca: the authority that signed its certificate.
    """

    def __init__(self, port_count: int, prefix: str = "") -> None:
        self.reader, self.writer, self.admin = (
            Credentials(key=f"{prefix}{name}", secret=secrets.token_urlsafe(20))
            for name in ("downloader", "uploader", "admin")
        )
        self._ports = list(free_ports(port_count))
        self._running: list[subprocess.Popen[bytes]] = []
        self._cleanup = ExitStack()
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="az-objects-"))
            self._cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._guard = Guard(self.folder)
            self._cleanup.callback(self._guard.release)
            self.ca = certify(self.folder)
            self._prepare()
        except BaseException:
            self._cleanup.close()
            raise

    @abstractmethod
    def _prepare(self) -> None:
        """Write what it is configured with."""

    @abstractmethod
    def _commands(self) -> list[list[str | Path]]:
        """Its processes."""

    @property
    def running(self) -> bool:
        return bool(self._running)

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self._ports[-1]

    @property
    def access(self) -> CdnAccess:
        """What `cdn.yaml` would say of it."""
        return self.seen_at(self.address[1])

    def seen_at(self, port: int) -> CdnAccess:
        """The same by another port, that of a relay."""
        return CdnAccess(host=f"https://localhost:{port}", reader=self.reader, writer=self.writer)

    @property
    def yaml(self) -> bytes:
        """Its `cdn.yaml`."""
        return (
            f"host: {self.access.host}\n"
            f"downloader_access_key: {self.reader.key}\ndownloader_access_secret: {self.reader.secret}\n"
            f"uploader_access_key: {self.writer.key}\nuploader_access_secret: {self.writer.secret}\n"
        ).encode()

    def cdn(self, port: int | None = None, patience: Patience = QUICK) -> Cdn:
        """A client of it."""
        return Cdn(self.seen_at(port or self.address[1]), bucket=BUCKET, authority=self.ca, patience=patience)

    def client(self, timeout_s: float = 5.0) -> "S3Client":
        """Plain boto3, as the administrator."""
        client: S3Client = boto3.client(
            "s3",
            endpoint_url=self.access.host,
            aws_access_key_id=self.admin.key,
            aws_secret_access_key=self.admin.secret,
            region_name="us-east-1",
            verify=str(self.ca),
            config=Config(
                s3={"addressing_style": "path"},
                connect_timeout=timeout_s,
                read_timeout=timeout_s,
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        return client

    def unfinished(self, key: str) -> list[str]:
        """The uploads of an object that have begun and not ended."""
        found = self.client().list_multipart_uploads(Bucket=BUCKET, Prefix=key)
        return [each["UploadId"] for each in found.get("Uploads", []) if each["Key"] == key]

    def parts(self, key: str) -> set[int]:
        """The numbers of the parts that it has of unfinished uploads of an object."""
        client = self.client()
        return {
            part["PartNumber"]
            for upload in self.unfinished(key)
            for part in client.list_parts(Bucket=BUCKET, Key=key, UploadId=upload).get("Parts", [])
        }

    def start(self) -> None:
        """Start it, on the same data and ports if it ran before, and wait until it takes an object."""
        with (self.folder / "log").open("ab") as log:
            for command in self._commands():
                self._running.append(
                    subprocess.Popen(
                        command,
                        cwd=self.folder,
                        env={"HOME": str(self.folder), "PATH": "/usr/bin:/bin"},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
                self._guard.tell(*self._running)
        client = self.client(timeout_s=1.0)
        until(lambda: self._takes_objects(client), "the S3 server takes an object", limit_s=60)

    def _takes_objects(self, client: "S3Client") -> bool:
        for process in self._running:
            assert process.poll() is None, (self.folder / "log").read_text(errors="replace")[-4000:]
        try:
            if BUCKET not in [found.get("Name") for found in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
        except (BotoCoreError, ClientError):
            return False
        return True

    def kill(self) -> None:
        """SIGKILL it."""
        self._guard.tell()
        for process in self._running:
            process.kill()
            process.wait()
        self._running.clear()

    def close(self) -> None:
        """End it and remove what it had."""
        self.kill()
        self._cleanup.close()


class SeaweedFS(ObjectStore):
    """SeaweedFS: one process, rights by policies."""

    def __init__(self) -> None:
        super().__init__(len(_PORTS))

    def _prepare(self) -> None:
        (self.folder / "data").mkdir()
        identities = [
            self._identity("admin", self.admin, actions=["Admin"]),
            self._identity("reader", self.reader, policyNames=["reads"]),
            self._identity("writer", self.writer, policyNames=["writes"]),
        ]
        told = {"identities": identities, "policies": [_policy("reads", _READS), _policy("writes", _WRITES)]}
        (self.folder / "s3.json").write_text(json.dumps(told), encoding="utf-8")

    def _commands(self) -> list[list[str | Path]]:
        options: dict[str, Any] = {
            "dir": self.folder / "data",
            "ip": HOST,
            "ip.bind": HOST,
            "master.telemetry": "false",
            "admin.ui": "false",
            "webdav": "false",
            "s3.config": self.folder / "s3.json",
            "s3.cert.file": self.folder / "server.pem",
            "s3.key.file": self.folder / "server.key",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            **dict(zip(_PORTS, self._ports, strict=True)),
        }
        weed = Path(sys.prefix) / "bin" / "weed"
        return [[weed, "mini", *(f"-{name}={value}" for name, value in options.items())]]

    def kill(self) -> None:
        super().kill()
        for port in self._ports:
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - where it puts them
                path.unlink(missing_ok=True)

    @staticmethod
    def _identity(name: str, keys: Credentials, **rights: Any) -> dict[str, Any]:
        return {"name": name, "credentials": [{"accessKey": keys.key, "secretKey": keys.secret}], **rights}


#: The last one is where it is reached.
_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "s3.port.https",
)

#: What the downloader and the uploader of the platform may do.
_READS = ("GetObject", "ListBucket")
_WRITES = (
    "PutObject",
    "DeleteObject",
    "AbortMultipartUpload",
    "ListMultipartUploadParts",
    "ListBucketMultipartUploads",
)


def _policy(name: str, actions: tuple[str, ...]) -> dict[str, str]:
    statement = {
        "Effect": "Allow",
        "Action": [f"s3:{action}" for action in actions],
        "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"],
    }
    return {"name": name, "content": json.dumps({"Version": "2012-10-17", "Statement": [statement]})}


_Store = TypeVar("_Store", bound=ObjectStore)


@contextmanager
def running(store: _Store) -> Iterator[_Store]:
    """One that is ready, and gone with all it had at the end."""
    try:
        store.start()
        yield store
    finally:
        store.close()
