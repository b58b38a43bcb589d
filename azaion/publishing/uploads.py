"""An upload in parts, which a crash does not make begin anew."""

import base64
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final

import msgspec
from botocore.exceptions import ClientError

from azaion import failpoints, files
from azaion.publishing.bucket import Bucket, error_code
from azaion.publishing.errors import MissingError, RefusedError, UnreachableError
from azaion.publishing.slices import Part, md5, sliced

#: A file that is no larger goes in one piece; a larger one in parts of this size, or of a larger one where there would
#: be more parts than S3 allows.
PART_BYTES: Final = 8 << 20
_MOST_PARTS: Final = 10_000
_MEGABYTE: Final = 1 << 20
#: Parts that are under way at a time.
_SENDERS: Final = 4
#: A record of ours is a few hundred bytes.
_RECORD_BYTES: Final = 64 << 10
#: How often the caller is told how far we are, so that he may stop us.
_TELL_S: Final = 0.5

#: The host does not have what it said it had.
_BROKEN: Final = frozenset({"InvalidPart", "InvalidPartOrder", "EntityTooSmall"})
#: The host does not know the upload, or does not let us look: Swift says so of one that has been put together.
_UNSEEN: Final = frozenset({"NoSuchUpload", "AccessDenied", "403", "404"})

#: Told how many bytes of how many have arrived. What it raises ends the transfer.
Progress = Callable[[int, int], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file that is to arrive under a key.

    Attributes:
        key: the object.
        path: the file; it must not change.
        size: its size, in bytes.
        sha256: in hex.
    """

    key: str
    path: Path
    size: int
    sha256: str

    @property
    def metadata(self) -> dict[str, str]:
        """What is kept with the object."""
        return {"sha256": self.sha256}


def parts_of(size: int) -> list[Part]:
    """The parts that a file of ``size`` bytes goes in: the same today and after a crash."""
    least = -(-size // _MOST_PARTS)
    step = max(PART_BYTES, -(-least // _MEGABYTE) * _MEGABYTE)
    return [
        Part(number=number, start=start, size=min(step, size - start))
        for number, start in enumerate(range(0, size, step), start=1)
    ]


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is remembered of an upload that has begun."""

    host: str
    bucket: str
    key: str
    size: int
    sha256: str
    upload: str


class Upload:
    """One file's way into a bucket, in parts. `run` may be called again and again, also after a crash.

    Args:
        bucket: as the uploader sees it.
        source: the file.
        record: where it remembers across a crash what has begun.
        arrived: whether the bucket has the whole object already.
    """

    def __init__(self, bucket: Bucket, source: Source, record: Path, arrived: Callable[[], bool]) -> None:
        self._bucket = bucket
        self._client = bucket.client
        self._source = source
        self._record = record
        self._arrived = arrived
        self._doing = f"{source.key} cannot be sent"

    def run(self, progress: Progress) -> None:
        """Send what the bucket does not have yet, and put it together."""
        number = self._known()
        had = self._had(number) if number is not None else None
        if number is not None and had is None and self._arrived():
            # A crash came between the completion and our note of it.
            self._forget()
            progress(self._source.size, self._source.size)
            return
        if number is None or had is None:
            abandon(self._bucket, self._record)
            number, had = self._begin(), set()
        tags = self._send(number, had, progress)
        self._complete(number, tags)

    def _known(self) -> str | None:
        """The upload of this very file that our record tells of."""
        known = read_record(self._record)
        source = self._source
        if known is None:
            return None
        ours = (self._bucket.host, self._bucket.name, source.key, source.size, source.sha256)
        if (known.host, known.bucket, known.key, known.size, known.sha256) == ours:
            return known.upload
        return None

    def _had(self, number: str) -> set[tuple[int, int, str]] | None:
        """Number, size and tag of each part that the bucket has; None if it shows none of them."""
        had = set()
        with self._bucket.plainly(self._doing):
            pages = self._client.get_paginator("list_parts").paginate(
                Bucket=self._bucket.name, Key=self._source.key, UploadId=number
            )
            try:
                for page in pages:
                    for part in page.get("Parts", []):
                        had.add((part["PartNumber"], part["Size"], part["ETag"].strip('"')))
            except ClientError as error:
                if error_code(error) in _UNSEEN:
                    return None
                raise
        return had

    def _begin(self) -> str:
        self._sweep()
        with self._bucket.plainly(self._doing):
            answer = self._client.create_multipart_upload(
                Bucket=self._bucket.name, Key=self._source.key, Metadata=self._source.metadata
            )
        failpoints.hit("cdn.begun")
        number = answer["UploadId"]
        record = _Record(
            host=self._bucket.host,
            bucket=self._bucket.name,
            key=self._source.key,
            size=self._source.size,
            sha256=self._source.sha256,
            upload=number,
        )
        files.write_json(self._record, msgspec.to_builtins(record))
        failpoints.hit("cdn.recorded")
        return number

    def _sweep(self) -> None:
        """Abort uploads of the same object that nobody remembers: a crash came before the record was written."""
        try:
            with self._bucket.plainly(self._doing):
                pages = self._client.get_paginator("list_multipart_uploads").paginate(
                    Bucket=self._bucket.name, Prefix=self._source.key
                )
                stale = [
                    found["UploadId"]
                    for page in pages
                    for found in page.get("Uploads", [])
                    if found["Key"] == self._source.key
                ]
        except RefusedError:
            # Not every uploader may list them; then it is for a rule of the bucket to remove them.
            logger.info("%s: the uploader may not list unfinished uploads", self._source.key)
            return
        for number in stale:
            _abort(self._bucket, self._source.key, number)

    def _send(self, number: str, had: set[tuple[int, int, str]], progress: Progress) -> dict[int, str]:
        """Send what is missing; returns the tag of every part."""
        source, stop = self._source, Event()
        tags: dict[int, str] = {}
        done = 0
        with self._ending_with(stop), ThreadPoolExecutor(_SENDERS, thread_name_prefix="upload") as senders:
            try:
                waiting: dict[Future[tuple[str, bool]], Part] = {
                    senders.submit(self._part, number, part, had, stop): part for part in parts_of(source.size)
                }
                while waiting:
                    ended, _ = wait(waiting, _TELL_S, FIRST_COMPLETED)
                    for each in ended:
                        part = waiting.pop(each)
                        tags[part.number], sent = each.result()
                        done += part.size
                        if sent:
                            failpoints.hit("cdn.part-sent")
                    progress(done, source.size)
            except BaseException:
                stop.set()
                senders.shutdown(wait=False, cancel_futures=True)
                raise
        return tags

    @contextmanager
    def _ending_with(self, stop: Event) -> Iterator[None]:
        """No more attempts once we stop: boto3 would go on with such as never get so far as to read the part."""

        def check(**_: object) -> None:
            if stop.is_set():
                raise CancelledError

        events = self._client.meta.events
        events.register("before-send.s3.UploadPart", check)
        try:
            yield
        finally:
            events.unregister("before-send.s3.UploadPart", check)

    def _part(self, number: str, part: Part, had: set[tuple[int, int, str]], stop: Event) -> tuple[str, bool]:
        """The tag of a part, and whether it had to be sent."""
        deadline = time.monotonic() + self._bucket.patience.allowed_s(part.size)
        with self._bucket.plainly(self._doing), sliced(self._source.path, part, stop, deadline) as body:
            digest = md5(body)
            if (part.number, part.size, digest.hex()) in had:
                return digest.hex(), False
            answer = self._client.upload_part(
                Bucket=self._bucket.name,
                Key=self._source.key,
                UploadId=number,
                PartNumber=part.number,
                Body=body,
                ContentLength=part.size,
                ContentMD5=base64.b64encode(digest).decode(),
            )
            return answer["ETag"].strip('"'), True

    def _complete(self, number: str, tags: dict[int, str]) -> None:
        with self._bucket.plainly(self._doing):
            try:
                self._client.complete_multipart_upload(
                    Bucket=self._bucket.name,
                    Key=self._source.key,
                    UploadId=number,
                    MultipartUpload={
                        "Parts": [{"PartNumber": each, "ETag": f'"{tags[each]}"'} for each in sorted(tags)]
                    },
                )
            except ClientError as error:
                code = error_code(error)
                if code in _BROKEN:
                    abandon(self._bucket, self._record)
                    raise UnreachableError(
                        f"{self._doing}: {self._bucket.host} has lost parts of it ({code}); try again, from the start"
                    ) from None
                # The answer to an earlier attempt may have been lost.
                if code not in _UNSEEN or not self._arrived():
                    raise
        failpoints.hit("cdn.completed")
        self._forget()
        failpoints.hit("cdn.forgotten")

    def _forget(self) -> None:
        # Should it come back after a power loss, `run` finds that all has arrived.
        self._record.unlink(missing_ok=True)


def read_record(record: Path) -> _Record | None:
    """What an upload remembers; None if there is nothing, or nothing that can be used."""
    try:
        return msgspec.json.decode(files.read_small(record, limit=_RECORD_BYTES), type=_Record)
    except (FileNotFoundError, files.FileError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def abandon(bucket: Bucket, record: Path) -> None:
    """Abort the upload that a record tells of, if there is one and we may, and remove the record."""
    known = read_record(record)
    if known is not None and (known.host, known.bucket) == (bucket.host, bucket.name):
        _abort(bucket, known.key, known.upload)
    record.unlink(missing_ok=True)


def _abort(bucket: Bucket, key: str, number: str) -> None:
    try:
        with bucket.plainly(f"an unfinished upload of {key} cannot be aborted"):
            bucket.client.abort_multipart_upload(Bucket=bucket.name, Key=key, UploadId=number)
    except MissingError:
        return
    except RefusedError as error:
        # It takes room until a rule of the bucket removes it, and stands in nobody's way.
        logger.warning("%s", error)
