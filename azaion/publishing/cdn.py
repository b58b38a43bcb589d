"""The CDN: any S3-compatible host. Large things are put there in parts, and fetched from there.

It blocks: an event loop calls it in a thread.
"""

import base64
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Final

from botocore.exceptions import ClientError

from azaion import failpoints, files
from azaion.backoff import delays
from azaion.publishing.access import PATIENCE, CdnAccess, Patience
from azaion.publishing.bucket import Bucket, Holder, error_code
from azaion.publishing.errors import DamagedError, MissingError, UnreachableError
from azaion.publishing.slices import Part, md5, sliced
from azaion.publishing.uploads import PART_BYTES, Progress, Source, Upload, abandon

_READ_BYTES: Final = 1 << 20

#: The object is not the one, or not as long as the one, whose beginning we have.
_OTHER: Final = frozenset({"PreconditionFailed", "InvalidRange", "412", "416"})


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An object as the CDN describes it.

    Attributes:
        size: in bytes.
        sha256: as its uploader has claimed it, in hex; None where it was not ours.
    """

    size: int
    sha256: str | None


def _unseen(_done: int, _size: int) -> None:
    """Nobody wants to know."""


class Cdn:
    """A bucket of the CDN: the downloader's keys read from it and list it, the uploader's write to it.

    ``on_progress(done, size)`` is called in the caller's thread, some times a second, with bytes; what it raises ends
    the call and comes out of it.

    Args:
        access: where it is, and the keys to it.
        bucket: the bucket; it must exist.
        region: what requests are signed for.
        authority: certificates (PEM) of the authority that signed the CDN's; None is the system's.
        patience: how long it is waited for.

    Every method raises:
        UnreachableError: it cannot be reached, is silent, crawls or has trouble of its own, again and again.
        RefusedError: it does not take our keys or what we ask for, or its certificate cannot be trusted.
    """

    def __init__(
        self,
        access: CdnAccess,
        *,
        bucket: str,
        region: str = "us-east-1",
        authority: Path | None = None,
        patience: Patience = PATIENCE,
    ) -> None:
        self._patience = patience
        reader, writer = Holder(keys=access.reader, name="downloader"), Holder(keys=access.writer, name="uploader")
        self._reader = Bucket(access, reader, bucket, region=region, authority=authority, patience=patience)
        self._writer = Bucket(access, writer, bucket, region=region, authority=authority, patience=patience)

    def greet(self) -> None:
        """See whether the CDN takes both pairs of keys, and has the bucket. Nothing is written."""
        with self._reader.plainly("the bucket cannot be read"):
            self._reader.client.list_objects_v2(Bucket=self._reader.name, MaxKeys=1)
        with self._writer.plainly("the bucket cannot be written"):
            try:
                self._writer.client.list_multipart_uploads(Bucket=self._writer.name, MaxUploads=1)
            except ClientError as error:
                # Whoever may write need not be able to list.
                if error_code(error) != "AccessDenied":
                    raise

    def upload(self, key: str, path: Path, *, sha256: str, record: Path, on_progress: Progress = _unseen) -> None:
        """Put a file under a key, in place of what is there. It counts as arrived only after `verify`.

        A large one goes in parts: after a crash, or an error, the same call sends only what is still missing.

        Args:
            key: the object.
            path: the file; it must not change.
            sha256: of the file, in hex.
            record: a file of this upload's own, in which it remembers what has begun; its folder exists.
            on_progress: told how much has arrived.

        Raises:
            OSError: the file cannot be read, or the record not written.
        """
        source = Source(key=key, path=path, size=path.stat().st_size, sha256=sha256)
        if source.size > PART_BYTES:
            Upload(self._writer, source, record, lambda: self._holds(source)).run(on_progress)
            return
        abandon(self._writer, record)
        self._put(source)
        on_progress(source.size, source.size)

    def abandon(self, record: Path) -> None:
        """Abort the upload that began with this record, if one did, and remove the record."""
        abandon(self._writer, record)

    def verify(self, key: str, *, size: int, sha256: str, on_progress: Progress = _unseen) -> None:
        """See with the downloader's eyes that the object is the one that was sent: it is read, and kept nowhere.

        Raises:
            MissingError: there is no such object.
            DamagedError: it is another one.
        """
        digest, done = hashlib.sha256(), 0
        for piece in self._pieces(key, 0, size):
            digest.update(piece)
            done += len(piece)
            on_progress(done, size)
        if done != size or digest.hexdigest() != sha256:
            raise DamagedError(f"{key} on the CDN is not what was sent: publish it again")
        failpoints.hit("cdn.verified")

    def find(self, key: str) -> Stored | None:
        """What the CDN tells the downloader of an object; None if there is none."""
        try:
            with self._reader.plainly(f"{key} cannot be looked up"):
                answer = self._reader.client.head_object(Bucket=self._reader.name, Key=key)
        except MissingError:
            return None
        return Stored(size=answer["ContentLength"], sha256=answer["Metadata"].get("sha256"))

    def download(self, key: str, target: Path, *, size: int, sha256: str, on_progress: Progress = _unseen) -> None:
        """Fetch an object into a file: whole, right and durable, or not at all.

        What a crash or an error leaves beside it is gone on with by the next call.

        Raises:
            MissingError: there is no such object.
            DamagedError: it is not what it should be.
            OSError: on a full disk and the like.
        """
        partial = target.with_name(f"{files.TEMPORARY_PREFIX}{sha256[:32]}")
        begun = partial.is_file() and 0 < partial.stat().st_size <= size
        if not begun or not self._filled(key, partial, size, sha256, on_progress):
            # What was left there may have been torn by a power loss.
            partial.unlink(missing_ok=True)
            if not self._filled(key, partial, size, sha256, on_progress):
                partial.unlink(missing_ok=True)
                raise DamagedError(f"{key} on the CDN is not what it should be: have it published again")
        files.fsync_file(partial)
        failpoints.hit("cdn.downloaded")
        files.rename(partial, target)

    def read(self, key: str, *, limit: int) -> bytes:
        """A small object, into memory.

        Raises:
            MissingError: there is no such object.
            DamagedError: it is larger than ``limit`` bytes.
        """
        data = b"".join(self._pieces(key, 0, limit))
        if len(data) > limit:
            raise DamagedError(f"{key} on the CDN is larger than {limit} bytes, so it is not what it should be")
        return data

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin so, as the downloader may list them."""
        with self._reader.plainly(f"what begins with {prefix} cannot be listed"):
            pages = self._reader.client.get_paginator("list_objects_v2").paginate(
                Bucket=self._reader.name, Prefix=prefix
            )
            return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is fine."""
        with self._writer.plainly(f"{key} cannot be removed"):
            self._writer.client.delete_object(Bucket=self._writer.name, Key=key)

    def _put(self, source: Source) -> None:
        whole = Part(number=1, start=0, size=source.size)
        deadline = time.monotonic() + self._patience.allowed_s(source.size)
        doing = f"{source.key} cannot be sent"
        with self._writer.plainly(doing), sliced(source.path, whole, Event(), deadline) as body:
            self._writer.client.put_object(
                Bucket=self._writer.name,
                Key=source.key,
                Body=body,
                ContentLength=source.size,
                ContentMD5=base64.b64encode(md5(body)).decode(),
                Metadata=source.metadata,
            )
        failpoints.hit("cdn.put")

    def _holds(self, source: Source) -> bool:
        return self.find(source.key) == Stored(size=source.size, sha256=source.sha256)

    def _filled(self, key: str, partial: Path, size: int, sha256: str, on_progress: Progress) -> bool:
        """Fetch what the file lacks; whether it is then the right one."""
        digest = hashlib.sha256()
        with partial.open("a+b") as stream:
            stream.seek(0)
            while piece := stream.read(_READ_BYTES):
                digest.update(piece)
            done = stream.tell()
            for piece in self._pieces(key, done, size) if done < size or not size else ():
                stream.write(piece)
                digest.update(piece)
                done += len(piece)
                on_progress(done, size)
        return done == size and digest.hexdigest() == sha256

    def _pieces(self, key: str, start: int, most: int) -> Iterator[bytes]:
        """The object from ``start`` on, over as many connections as that takes; an object of at most ``most`` bytes.

        One that is replaced meanwhile is not mixed with the new one.
        """
        doing = f"{key} cannot be fetched"
        pauses = delays(self._patience.pause_s)
        deadline = time.monotonic() + self._patience.allowed_s(most - start)
        at, tag = start, ""
        while True:
            before = at
            try:
                with self._reader.plainly(doing), self._opened(key, at, tag) as found:
                    tag = found.tag
                    if found.size > most:
                        raise DamagedError(f"{key} on the CDN has {found.size} bytes, more than the {most} it may have")
                    while at < found.size:
                        if time.monotonic() > deadline:
                            raise CancelledError
                        # As much as has come: whoever waits for more may be kept for ever, a byte at a time.
                        piece = found.body.read1(_READ_BYTES)
                        if not piece:
                            raise ConnectionResetError
                        at += len(piece)
                        yield piece
            except UnreachableError:
                # boto3 has repeated the request itself; what breaks off later is for us to go on with.
                if at == before or time.monotonic() > deadline:
                    raise
                time.sleep(next(pauses))
            else:
                return

    @contextmanager
    def _opened(self, key: str, start: int, tag: str) -> Iterator["_Opened"]:
        asked: dict[str, str] = {}
        if start:
            asked["Range"] = f"bytes={start}-"
        if tag:
            asked["IfMatch"] = tag
        try:
            answer = self._reader.client.get_object(Bucket=self._reader.name, Key=key, **asked)  # type: ignore[arg-type]
        except ClientError as error:
            if error_code(error) in _OTHER:
                raise DamagedError(f"{key} on the CDN is another one than a moment ago: try again") from None
            raise
        with answer["Body"] as body:
            if start and not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
                raise DamagedError(f"{key}: the CDN gives another piece of it than the one asked for")
            yield _Opened(body=body, size=start + answer["ContentLength"], tag=answer["ETag"])


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """An object that is being read: what comes of it, its whole size, its tag."""

    body: Any
    size: int
    tag: str
