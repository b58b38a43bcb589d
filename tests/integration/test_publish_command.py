"""``azaionctl annotations publish``, with a real broker."""

import json
import logging
import os
import pty
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rstream import amqp_decoder

from azaion.annotations import importer, publisher
from azaion.annotations.errors import AnnotationError
from azaion.annotations.importer import Folder, Imported, Options
from azaion.annotations.message import Annotation, Role, Status, decode
from azaion.annotations.publisher import Compression, publish_folder
from azaion.settings import RabbitMQ, SecretReference
from supervisor import ctl
from tests.annotation_messages import found
from tests.annotation_trees import content, picture
from tests.brokers import Broker, broker
from tests.consumers import consuming
from tests.installations import Installation, installation
from tests.proxies import Proxy

MIB = 1 << 20
LABEL = "0 0.5 0.5 0.2 0.2\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def victim() -> Iterator[Broker]:
    """A broker that may be killed and silenced, takes large frames, and speaks TLS."""
    with broker(tls=True, frame_max=8 * MIB) as made:
        yield made


@pytest.fixture
def place() -> Iterator[Installation]:
    """Where the command runs; there is no daemon."""
    with installation() as made:
        yield made


def put(folder: Path, count: int, size: int = 0) -> dict[str, bytes]:
    """Images with labels; returns them by name."""
    images = {f"n{number:03}": picture(number) for number in range(count)}
    for name, image in images.items():
        images[name] = image + random.Random(name).randbytes(max(0, size - len(image)))
        (folder / f"{name}.jpg").write_bytes(images[name])
        (folder / f"{name}.txt").write_text(LABEL)
    return images


def variables(rabbit: Broker, stream: str, **more: str) -> dict[str, str]:
    return {
        "RABBITMQ_HOST": rabbit.host,
        "RABBITMQ_PORT": str(rabbit.port),
        "RABBITMQ_USER": rabbit.user,
        "RABBITMQ_PASSWORD": rabbit.password,
        "RABBITMQ_QUEUE_NAME": stream,
        **more,
    }


def publish(
    place: Installation, given: dict[str, str], folder: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return place.ctl("annotations", "publish", str(folder), *arguments, **given)


def settings(rabbit: Broker, stream: str, **more: object) -> RabbitMQ:
    known: dict[str, object] = {
        "host": rabbit.host,
        "port": rabbit.port,
        "user": rabbit.user,
        "password": SecretReference("RABBITMQ_PASSWORD"),
        "queue_name": stream,
        "vhost": rabbit.vhost,
        "tls": False,
        "tls_ca": None,
        "load_balancer": False,
        "heartbeat": 20,
    }
    return RabbitMQ(**(known | more))  # type: ignore[arg-type]


def bodies(rabbit: Broker, stream: str, count: int) -> list[tuple[object, bytes]]:
    """Property and body of the first messages of a stream, read by rstream alone."""
    messages = [amqp_decoder(data) for _, data in rabbit.read(count, stream=stream)]
    return [(message.application_properties[b"AnnotationStatus"], bytes(message.body)) for message in messages]


def annotations(rabbit: Broker, stream: str, count: int) -> dict[str, Annotation]:
    said = [decode(10, body) for _, body in bodies(rabbit, stream, count)]
    return {one.name: one for one in said if isinstance(one, Annotation)}


def told(error: str) -> tuple[int, int]:
    """How many of how many the one line of an error says to be confirmed."""
    (line,) = error.splitlines()
    numbers = re.search(r"has confirmed (\d+) of (\d+) annotations", line)
    assert numbers is not None, line
    assert "again is harmless" in line
    return int(numbers[1]), int(numbers[2])


@pytest.mark.parametrize("compression", [None, "gzip", "none"])
def test_a_folder_is_in_the_stream(
    place: Installation, rabbit: Broker, stream: str, folder: Path, compression: str | None
) -> None:
    images = put(folder, 70, 5000)
    given = variables(rabbit, stream)
    done = publish(place, given, folder, *(["--compress", compression] if compression is not None else []))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"70 annotations confirmed in the stream {stream} at {rabbit.host}:{rabbit.port}\n"
    made = [(one.status, one.body) for one in Folder(folder, Options()).messages()]
    assert bodies(rabbit, stream, 70) == made
    assert {name: bytes(one.image) for name, one in annotations(rabbit, stream, 70).items()} == images


def test_how_they_look(place: Installation, rabbit: Broker, stream: str, folder: Path) -> None:
    put(folder, 1)
    options = ("--as", "operator", "--media-from", "^(n.)", "--status", "edited")
    done = publish(place, variables(rabbit, stream), folder, *options, "--json")
    assert json.loads(done.stdout) == {"sent": 1, "problems": []}
    ((status, body),) = bodies(rabbit, stream, 1)
    assert status == Status.EDITED
    said = decode(Status.EDITED, body)
    assert isinstance(said, Annotation)
    assert (said.role, said.media, said.status) == (Role.OPERATOR, "n0", Status.EDITED)


def test_the_consumer_applies_each_once(rabbit: Broker, stream: str, folder: Path) -> None:
    images = put(folder, 5)
    with consuming() as made:
        given = variables(rabbit, stream)
        made.configure(AZAION_SOURCE="rabbitmq", **given)
        made.server.variables |= {"RABBITMQ_PASSWORD": rabbit.password}
        assert publish(made.server, given, folder).returncode == 0
        process = made.start()
        made.gone_or_at(process, 5)
        assert {name: one.image for name, one in found(made.layout).items()} == images
        before = {name: data for name, data in content(made.layout.root).items() if "data" in str(name)}
        assert publish(made.server, given, folder).returncode == 0
        made.gone_or_at(process, 10)
        made.stop(process)
        after = content(made.layout.root)
        assert {name: data for name, data in after.items() if "data" in str(name)} == before


def test_a_large_image_is_sent_or_told(
    place: Installation, rabbit: Broker, stream: str, victim: Broker, folder: Path
) -> None:
    put(folder, 2)
    large = picture(7) + random.Random(7).randbytes(3 * MIB)
    (folder / "large.jpg").write_bytes(large)
    (folder / "large.txt").write_text(LABEL)
    done = publish(place, variables(rabbit, stream), folder)
    assert done.returncode == 1
    assert done.stdout.startswith("2 annotations confirmed")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"left out: {folder / 'large.jpg'}: ")
    assert "stream.frame_max" in line
    assert annotations(rabbit, stream, 2).keys() == {"n000", "n001"}
    for compression in Compression:
        wide = victim.fresh()
        done = publish(place, variables(victim, wide), folder, "--compress", compression, "--json")
        assert json.loads(done.stdout) == {"sent": 3, "problems": []}
        assert bytes(annotations(victim, wide, 3)["large"].image) == large


def test_files_that_cannot_be_taken(place: Installation, rabbit: Broker, stream: str, folder: Path) -> None:
    put(folder, 25)
    for number in range(24):
        (folder / f"n{number:03}.txt").unlink()
    done = publish(place, variables(rabbit, stream), folder)
    assert done.returncode == 1
    assert done.stdout.startswith("1 annotations confirmed")
    assert len(done.stderr.splitlines()) == 21
    done = publish(place, variables(rabbit, stream), folder, "--json")
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["problems"]) == 24
    assert done.stderr == ""


def test_over_tls(place: Installation, victim: Broker, folder: Path) -> None:
    put(folder, 3)
    stream = victim.fresh()
    given = variables(victim, stream, RABBITMQ_PORT=str(victim.tls_port), RABBITMQ_TLS="true")
    done = publish(place, given | {"RABBITMQ_TLS_CA": str(victim.ca)}, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(annotations(victim, stream, 3)) == 3
    done = publish(place, given, folder)
    assert done.returncode == 1
    assert "RABBITMQ_TLS_CA" in done.stderr
    assert told(done.stderr) == (0, 3)


def test_through_a_load_balancer(place: Installation, rabbit: Broker, stream: str, folder: Path) -> None:
    put(folder, 3)
    with Proxy((rabbit.host, rabbit.port)) as proxy:
        given = variables(rabbit, stream, RABBITMQ_PORT=str(proxy.address[1]), RABBITMQ_LOAD_BALANCER="true")
        assert publish(place, given, folder).returncode == 0
    assert len(annotations(rabbit, stream, 3)) == 3


REFUSALS: dict[str, tuple[Callable[[Broker], dict[str, str]], str]] = {
    "wrong password": (lambda _: {"RABBITMQ_PASSWORD": "w-r-o-n-g"}, "RABBITMQ_PASSWORD"),
    "no such stream": (lambda _: {"RABBITMQ_QUEUE_NAME": "nowhere"}, "stream does not exist"),
    "no such virtual host": (lambda _: {"RABBITMQ_VHOST": "nowhere"}, "RABBITMQ_VHOST"),
    "no such port": (lambda _: {"RABBITMQ_PORT": "1"}, "cannot be reached"),
    "may only read": (
        lambda rabbit: {"RABBITMQ_USER": rabbit.reader.name, "RABBITMQ_PASSWORD": rabbit.reader.password},
        "may not write",
    ),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_what_is_refused_is_said(place: Installation, rabbit: Broker, stream: str, folder: Path, reason: str) -> None:
    put(folder, 3)
    given, expected = REFUSALS[reason]
    of = variables(rabbit, stream) | given(rabbit)
    done = publish(place, of, folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert expected in done.stderr
    assert told(done.stderr) == (0, 3)
    assert of["RABBITMQ_PASSWORD"] not in done.stderr


def test_usage(place: Installation, rabbit: Broker, folder: Path) -> None:
    given = variables(rabbit, "unused")
    done = publish(place, given, folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "holds no image" in done.stderr
    put(folder, 1)
    done = publish(place, {}, folder)
    assert done.returncode == 1
    assert "RABBITMQ_*" in done.stderr
    for wrong in (["--media-from", "("], ["--compress", "zip"], ["--status", "deleted"], ["--as", "nobody"]):
        assert publish(place, given, folder, *wrong).returncode == 2


def test_a_bar_at_a_terminal(place: Installation, rabbit: Broker, stream: str, folder: Path) -> None:
    put(folder, 3)
    reader, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.ctl", "annotations", "publish", folder],
        cwd=place.folder,
        env=place.environment(PYTHONPATH=str(place.code), TERM="xterm", **variables(rabbit, stream)),
        stdout=subprocess.PIPE,
        stderr=terminal,
        timeout=60,
        check=False,
    )
    os.close(terminal)
    assert done.returncode == 0
    assert b"sending" in os.read(reader, 65536)
    os.close(reader)


# In the middle.


def during(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Do something while the message of the image of this number is made, before it is sent."""
    make, made = importer._message, iter(range(1, 1000))

    def message(*arguments: object) -> object:
        if next(made) == number:
            act()
        return make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(importer, "_message", message)


def main(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: Installation,
    given: dict[str, str],
    folder: Path,
) -> tuple[object, str]:
    """The command line in this process: its exit code and what it says on standard error."""
    for name, value in {**place.variables, **given}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.folder)
    with pytest.raises(SystemExit) as ended:
        ctl.main(["annotations", "publish", str(folder)])
    return ended.value.code, capsys.readouterr().err


def test_a_broker_that_dies(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: Installation,
    victim: Broker,
    folder: Path,
) -> None:
    images = put(folder, 200)
    stream = victim.fresh()
    given = variables(victim, stream)
    during(monkeypatch, 150, victim.kill)
    try:
        began = time.monotonic()
        code, error = main(monkeypatch, capsys, place, given, folder)
        assert time.monotonic() - began < 20
    finally:
        victim.start()
    assert code == 1
    # Two sub-batches of 64 had been confirmed, and those are there.
    assert told(error) == (128, 200)
    assert len(bodies(victim, stream, 128)) == 128
    monkeypatch.undo()
    assert publish(place, given, folder).returncode == 0
    assert annotations(victim, stream, 328).keys() == images.keys()


def test_a_broker_that_falls_silent(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: Installation,
    victim: Broker,
    folder: Path,
) -> None:
    put(folder, 200)
    during(monkeypatch, 70, victim.pause)
    began = time.monotonic()
    given = variables(victim, victim.fresh(), RABBITMQ_HEARTBEAT="1")
    try:
        code, error = main(monkeypatch, capsys, place, given, folder)
    finally:
        victim.resume()
    assert time.monotonic() - began < 20
    assert code == 1
    assert told(error) == (64, 200)
    assert "silent" in error


def test_a_broker_that_is_silent_from_the_start(place: Installation, victim: Broker, folder: Path) -> None:
    put(folder, 3)
    given = variables(victim, victim.fresh(), RABBITMQ_HEARTBEAT="1")
    victim.pause()
    try:
        done = publish(place, given, folder)
    finally:
        victim.resume()
    assert done.returncode == 1
    assert told(done.stderr) == (0, 3)


def test_confirmations_that_do_not_come(
    monkeypatch: pytest.MonkeyPatch, rabbit: Broker, stream: str, folder: Path
) -> None:
    """The connection lives, for all that its end may be hours away."""
    put(folder, 200)
    monkeypatch.setattr(publisher, "CONFIRM_S", 1)
    with Proxy((rabbit.host, rabbit.port)) as proxy:
        during(monkeypatch, 70, proxy.stall)
        through = settings(rabbit, stream, port=proxy.address[1], load_balancer=True)
        with pytest.raises(AnnotationError, match=r"nothing for 1 s; .* confirmed 64 of 200"):
            publish_folder(through, rabbit.password, folder, Options(), Compression.GZIP)


def test_a_stream_that_is_deleted(monkeypatch: pytest.MonkeyPatch, rabbit: Broker, folder: Path) -> None:
    put(folder, 200)
    stream = rabbit.fresh()
    during(monkeypatch, 70, lambda: rabbit.delete(stream))
    with pytest.raises(AnnotationError, match=r"moved or deleted|does not take.* confirmed 64 of 200"):
        publish_folder(settings(rabbit, stream), rabbit.password, folder, Options(), Compression.GZIP)


def test_a_connection_that_is_cut_anywhere(rabbit: Broker, stream: str, folder: Path) -> None:
    """However far it came: nothing is counted that is not there, and it ends."""
    put(folder, 70)
    with Proxy((rabbit.host, rabbit.port)) as proxy:
        through = settings(rabbit, stream, port=proxy.address[1], load_balancer=True)
        assert publish_folder(through, rabbit.password, folder, Options(), Compression.GZIP).sent == 70
        for count in (1, 200, 800, 1000, 1100, 1150, 1200, 1250):
            proxy.cut_after(count)
            try:
                done = publish_folder(through, rabbit.password, folder, Options(), Compression.NONE).sent
            except AnnotationError as error:
                done, whole = told(str(error))
                assert whole == 70
            assert done in {0, 64, 70}
            proxy.cut()


def test_the_password_is_in_no_log(caplog: pytest.LogCaptureFixture, rabbit: Broker, stream: str, folder: Path) -> None:
    put(folder, 3)
    logger = logging.getLogger("rstream")
    level = logger.level
    caplog.set_level(logging.DEBUG)
    try:
        logger.setLevel(logging.DEBUG)
        done = publish_folder(settings(rabbit, stream), rabbit.password, folder, Options(), Compression.GZIP)
        assert done == Imported(sent=3, problems=())
        logger.setLevel(logging.DEBUG)
        with pytest.raises(AnnotationError) as refused:
            publish_folder(settings(rabbit, stream), "w-r-o-n-g", folder, Options(), Compression.GZIP)
    finally:
        logger.setLevel(level)
    # Something is logged at this level, else nothing would be proved.
    assert "asyncio" in {record.name for record in caplog.records}
    assert "rstream" not in {record.name.partition(".")[0] for record in caplog.records}
    for secret in (rabbit.password, "w-r-o-n-g"):
        assert secret not in caplog.text
        assert secret not in str(refused.value)
