"""What the publisher sends, without a broker; with one: tests/integration/test_publish_command.py."""

import asyncio
import random
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from rstream import amqp_decoder, schema
from rstream.client import Client
from rstream.encoding import encode_frame

from azaion.annotations import importer, publisher
from azaion.annotations.errors import LinkError
from azaion.annotations.importer import Folder, Options
from azaion.annotations.link import Link
from azaion.annotations.message import Annotation, Status, decode
from azaion.annotations.publisher import Compression, Entry, entries
from azaion.annotations.stream import Message
from azaion.annotations.wire import Chunk
from tests.annotation_trees import picture

MIB = 1 << 20
#: What stands before the entry in a frame that publishes one.
FRAME_HEAD = 21


def put(folder: Path, name: str, size: int = 0, *, noise: bool = True) -> bytes:
    """An image with a label, at least as large; returns the image."""
    kind = {".jpg": "JPEG", ".bmp": "BMP"}[Path(name).suffix]
    image = picture(len(name), kind)
    padding = max(0, size - len(image))
    image += random.Random(name).randbytes(padding) if noise else bytes(padding)
    (folder / name).write_bytes(image)
    (folder / name).with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.2\n")
    return image


def chunk(entry: Entry) -> Chunk:
    """The entry as the broker would deliver it."""
    data = memoryview(encode_frame(entry.frame))[FRAME_HEAD:]
    return Chunk(first=0, entries=1, records=entry.count, taken=0.0, crc=0, data=data)


def read(made: Iterable[Entry]) -> list[Message]:
    return [message for entry in made for message in chunk(entry).messages()]


def annotations(made: Iterable[Entry]) -> list[Annotation]:
    said = [decode(message.status, message.body) for message in read(made)]
    return [one for one in said if isinstance(one, Annotation)]


@pytest.mark.parametrize("compression", Compression)
def test_messages_arrive_as_they_were_made(tmp_path: Path, compression: Compression) -> None:
    for number in range(5):
        put(tmp_path, f"{number}.jpg")
    made = list(entries(Folder(tmp_path, Options()), MIB, compression))
    assert [(entry.count, entry.done) for entry in made] == [(5, 5)]
    assert [(message.status, bytes(message.body)) for message in read(made)] == [
        (Status.CREATED.value, one.body) for one in Folder(tmp_path, Options()).messages()
    ]


@pytest.mark.parametrize("status", [Status.CREATED, Status.EDITED])
def test_a_message_is_what_rstream_reads_too(tmp_path: Path, status: Status) -> None:
    put(tmp_path, "a.jpg")
    options = Options(status=status)
    (entry,) = entries(Folder(tmp_path, options), MIB, Compression.NONE)
    assert isinstance(entry.frame, schema.Publish)
    message = amqp_decoder(entry.frame.messages[0].data)
    assert message.application_properties == {b"AnnotationStatus": status.value}
    (made,) = Folder(tmp_path, options).messages()
    assert bytes(message.body) == made.body
    (said,) = annotations([entry])
    assert said.status is status


@pytest.mark.parametrize("compression", Compression)
def test_no_frame_is_larger_than_the_broker_takes(tmp_path: Path, compression: Compression) -> None:
    """Also with what gzip adds to data that it cannot make smaller, at the very border."""
    images = {}
    for number in range(40):
        name = f"{number:02}.jpg"
        images[name] = put(tmp_path, name, 60_000 + number * 111)
    for number in range(12):
        name = f"border{number:02}.jpg"
        images[name] = put(tmp_path, name, 200_000 - 1400 + number * 64)
    folder = Folder(tmp_path, Options())
    made = list(entries(folder, 200_000, compression))
    assert max(len(encode_frame(entry.frame)) for entry in made) <= 200_000
    # The readers of a chunk with nothing but this entry have the same limit.
    assert max(len(chunk(entry).data) for entry in made) <= 200_000 - 64
    sent = {f"{one.name}.jpg": bytes(one.image) for one in annotations(made)}
    told = {problem.path.name for problem in folder.problems}
    assert sent | {name: images[name] for name in told} == images
    assert not sent.keys() & told
    # The largest are beyond it, and are told; those below are not.
    assert told
    assert all(name.startswith("border") for name in told)
    assert sent.keys() >= {"border00.jpg"}


def test_a_large_image_travels_alone(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    put(tmp_path, "b.jpg", 900_000)
    put(tmp_path, "c.jpg", 900_000)
    put(tmp_path, "d.jpg")
    for compression in Compression:
        folder = Folder(tmp_path, Options())
        made = list(entries(folder, MIB, compression))
        assert not folder.problems
        assert [one.name for one in annotations(made)] == ["a", "b", "c", "d"]
        assert [entry.done for entry in made] == [2, 4]
    made = list(entries(Folder(tmp_path, Options()), 910_000, Compression.GZIP))
    assert [entry.done for entry in made] == [2, 4] or [entry.count for entry in made] == [1, 1, 1, 1]


def test_what_fits_no_frame_is_a_problem_of_its_file(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    put(tmp_path, "large.jpg", 3 * MIB)
    put(tmp_path, "z.jpg")
    folder = Folder(tmp_path, Options())
    assert [one.name for one in annotations(entries(folder, MIB, Compression.GZIP))] == ["a", "z"]
    (problem,) = folder.problems
    assert problem.path.name == "large.jpg"
    assert "stream.frame_max" in problem.reason
    assert str(MIB) in problem.reason


def test_a_large_image_is_sent_if_packing_makes_it_small(tmp_path: Path) -> None:
    image = put(tmp_path, "a.bmp", 5 * MIB, noise=False)
    for compression, names in ((Compression.GZIP, ["a"]), (Compression.NONE, [])):
        folder = Folder(tmp_path, Options())
        sent = annotations(entries(folder, MIB, compression))
        assert [one.name for one in sent] == names
        assert [bytes(one.image) for one in sent] == [image] * len(names)
        assert len(folder.problems) == 1 - len(names)


def test_a_broker_without_a_limit(tmp_path: Path) -> None:
    put(tmp_path, "large.jpg", 3 * MIB)
    folder = Folder(tmp_path, Options())
    assert [one.name for one in annotations(entries(folder, 0, Compression.GZIP))] == ["large"]


def test_a_broker_with_a_senseless_limit(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    put(tmp_path, "b.jpg")
    folder = Folder(tmp_path, Options())
    assert not list(entries(folder, 512, Compression.NONE))
    assert len(folder.problems) == 2


def test_few_messages_share_a_sub_batch(tmp_path: Path) -> None:
    for number in range(150):
        put(tmp_path, f"{number:03}.jpg")
    (tmp_path / "149.txt").unlink()
    folder = Folder(tmp_path, Options())
    made = list(entries(folder, 100 * MIB, Compression.GZIP))
    assert [(entry.count, entry.done) for entry in made] == [(64, 64), (64, 128), (21, 149)]
    assert len(folder.problems) == 1


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Room for the largest image there may be is asked for, though not used.
    monkeypatch.setattr(importer, "_MAX_IMAGE_BYTES", MIB)
    for number in range(60):
        put(tmp_path, f"{number}.jpg", 900_000)
    folder = Folder(tmp_path, Options())
    tracemalloc.start()
    try:
        assert sum(entry.count for entry in entries(folder, MIB, Compression.NONE)) == 60
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * MIB


# One entry, and what the broker says.


class _Link(Client):
    """A connection on which a broker answers as the test says."""

    def __init__(self, answer: Callable[["_Link"], None]) -> None:
        super().__init__("nowhere", 1, frame_max=MIB, heartbeat=1)
        self._answer = answer

    async def send_frame(self, frame: schema.Frame, version: int = 1) -> None:  # noqa: ARG002 - rstream's own
        self._answer(self)

    def hear(self, frame: schema.Frame) -> None:
        if (future := self._waiters.get((frame.key, frame.corr_id))) is not None:
            future.set_result(frame)

    def fail(self, error: Exception) -> None:
        for future in self._waiters.values():
            future.set_exception(error)


async def send(answer: Callable[[_Link], None], number: int = 5) -> None:
    link = _Link(answer)
    refused = asyncio.ensure_future(link.wait_frame(schema.PublishError))
    frame = schema.Publish(publisher_id=0, messages=[schema.Message(number, None, b"")])
    try:
        sender = publisher._Publisher(link, refused)  # type: ignore[arg-type]
        await sender.send(Entry(frame=frame, number=number, count=1, done=1))
    finally:
        await publisher._drop(refused)


async def test_a_confirmation() -> None:
    await send(lambda link: link.hear(schema.PublishConfirm(0, [5])))


async def test_a_refusal() -> None:
    with pytest.raises(LinkError, match="does not take the message: PublisherDoesNotExist"):
        await send(lambda link: link.hear(schema.PublishError(0, [schema.PublishingError(5, 18)])))


async def test_the_confirmation_of_something_else() -> None:
    with pytest.raises(LinkError, match="what was not sent"):
        await send(lambda link: link.hear(schema.PublishConfirm(0, [4])))


async def test_the_end_of_the_connection() -> None:
    with pytest.raises(LinkError, match="gone"):
        await send(lambda link: link.fail(LinkError("the connection is gone")))


async def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "CONFIRM_S", 0.05)
    with pytest.raises(LinkError, match=r"confirmed nothing for 0\.05 s"):
        await send(lambda _: None)


def test_the_link_hands_out_what_it_was_asked_to_wait_for() -> None:
    """The publisher rests on it: `Link` is written for reading."""
    assert Link.wait_frame is Client.wait_frame
    assert schema.PublishConfirm(0, [1]).corr_id is None
    assert schema.PublishError(0, []).corr_id is None
