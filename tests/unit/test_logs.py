"""The log: no secret in it, whoever writes it and wherever it stands."""

import io
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from azaion import config, files, logs
from azaion.redaction import REDACTED, Redaction
from azaion.settings import LogFormat, SecretReference
from supervisor.control.logs import read_at
from supervisor.jobs.tail import last_lines
from supervisor.logs import configure, renderer

HIDDEN = 'pa"ss\\wörd/1'


@pytest.fixture
def written() -> Any:
    """Logs as JSON into memory, knowing one secret; what was configured before comes back."""
    stream = io.StringIO()
    before = structlog.get_config(), logging.root.handlers[:], logging.root.level, sys.excepthook
    configure(LogFormat.JSON, Redaction([HIDDEN]), stream)
    yield stream
    structlog.configure(**before[0])
    logging.root.handlers[:], logging.root.level, sys.excepthook = before[1:]
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail(password: str) -> None:
    local = {"given": password}
    raise ValueError(f"cannot log in with {local['given']}")


def test_a_traceback_names_no_secret_of_its_messages_or_locals(written: io.StringIO) -> None:
    try:
        try:
            fail(HIDDEN)
        except ValueError as error:
            raise ExceptionGroup(f"{HIDDEN!r}", [error, RuntimeError(json.dumps(HIDDEN))]) from error
    except ExceptionGroup:
        structlog.get_logger("azaion.test").exception("failed")
    (line,) = lines(written)
    assert "Traceback" in line["exception"]
    assert "in fail" in line["exception"]
    assert line["exception"].count(REDACTED) >= 4
    for form in (HIDDEN, repr(HIDDEN)[1:-1], json.dumps(HIDDEN)[1:-1], "wörd", "w\\u00f6rd"):
        assert form not in written.getvalue()
        assert form not in line["exception"]
    assert list(line)[:4] == ["timestamp", "level", "logger", "event"]
    assert line["logger"] == "azaion.test"


def test_what_libraries_log_and_what_nobody_catches(written: io.StringIO) -> None:
    logging.getLogger("aiohttp.server").error("broken: %s", HIDDEN)
    try:
        fail(HIDDEN)
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    first, second = lines(written)
    assert (first["logger"], first["level"], first["event"]) == ("aiohttp.server", "error", f"broken: {REDACTED}")
    assert second["level"] == "critical"
    assert f"ValueError: cannot log in with {REDACTED}" in second["exception"]


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("amqp://reader:hunter2@broker:5552/x", f"amqp://reader:{REDACTED}@broker:5552/x"),
        ("see https://example.com:80/a and b@c", "see https://example.com:80/a and b@c"),
        ("RABBITMQ_PASSWORD=hunter2 tried", f"RABBITMQ_PASSWORD={REDACTED} tried"),
        ("Authorization: Bearer abc.def-123", f"Authorization: Bearer {REDACTED}"),
        ('{"api_key": "hunter 2", "n": 1}', f'{{"api_key": "{REDACTED}", "n": 1}}'),
        ("login --password hunter2 --user me", f"login --password {REDACTED} --user me"),
        ("https://hook.example.com/x?token=hunter2&y=1", f"https://hook.example.com/x?token={REDACTED}&y=1"),
        ("basic aHVudGVyMjpodW50ZXIy", f"basic {REDACTED}"),
        ("3 tokens: epoch 4 of 9, keyboard=qwerty", "3 tokens: epoch 4 of 9, keyboard=qwerty"),
    ],
)
def test_secrets_that_nobody_knows_are_known_by_where_they_stand(told: str, shown: str) -> None:
    assert Redaction().text(told) == shown
    assert Redaction().text(shown) == shown


def test_secrets_are_known_by_the_names_that_they_go_by(written: io.StringIO) -> None:
    structlog.get_logger().info(
        "sent",
        headers={"Authorization": "x", "Accept": "y"},
        tokens=3,
        api_token=b"raw",
        path=Path("/p"),
        deep=[[{"key": "k"}]],
    )
    (line,) = lines(written)
    assert line["headers"] == {"Authorization": REDACTED, "Accept": "y"}
    assert (line["tokens"], line["api_token"], line["path"]) == (3, REDACTED, "/p")
    assert line["deep"] == [[{"key": REDACTED}]]


def test_the_secrets_that_the_configuration_refers_to_are_known(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("RABBITMQ_PASSWORD=from-the-file\n")
    env_file.chmod(0o600)
    settings = config.settings(
        {
            "AZAION_ROOT_DIR": str(tmp_path),
            **{f"AZAION_DATA{name}_DIR": name.lower() or "data" for name in ("", "_SEED", "_DELETED")},
            "AZAION_PUBLISH_TARGET": "none",
            "RABBITMQ_HOST": "h",
            "RABBITMQ_PORT": "1",
            "RABBITMQ_USER": "u",
            "RABBITMQ_PASSWORD": "x",
            "RABBITMQ_QUEUE_NAME": "q",
            "TRAINING_MODEL": "m.pt",
            "TRAINING_EPOCHS": "1",
            "TRAINING_BATCH_SIZE": "1",
            "TRAINING_IMGSZ": "32",
            "TRAINING_SAVE_PERIOD": "1",
            "TRAINING_WORKERS": "0",
            "EXPORT_ONNX_IMGSZ": "32",
        },
        None,
    )
    declared = {"services": ({"env": {"A": SecretReference(variable="WEB_SECRET"), "B": "no secret"}},)}
    # Where the shell stands is no secret, though its name has the letters of one.
    environment = {"WEB_SECRET": "from-the-environment", "HOME": "/root", "PWD": "/srv/azaion"}
    assert logs.secrets(settings, declared, environment=environment, env_file=env_file) == {
        "from-the-file",
        "from-the-environment",
    }


def test_lines_for_the_journal_carry_its_priorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w+", encoding="utf-8") as stream:
        plain = renderer(LogFormat.AUTO, stream)
        told = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{told.st_dev}:{told.st_ino}")
        journal = renderer(LogFormat.AUTO, stream)
    assert plain(None, "", {"event": "x", "level": "error"}) == '{"event": "x", "level": "error"}'
    assert journal(None, "", {"event": "x", "level": "error"}) == '<3>{"event": "x", "level": "error"}'


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    before = structlog.get_config()
    handlers, hook = logging.root.handlers[:], sys.excepthook
    try:
        with Path("/dev/full").open("w", encoding="utf-8") as stream:
            configure(LogFormat.JSON, Redaction(), stream)
            structlog.get_logger().error("the disk is full")
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    finally:
        structlog.configure(**before)
        logging.root.handlers[:], sys.excepthook = handlers, hook
        logging.captureWarnings(False)


def test_the_last_lines_are_those_that_a_terminal_shows() -> None:
    data = b"\x00\x00one\n\n" + b"\x1b[31m 10%\r 50%\r100% done\x1b[0m\r\n" + b"x" * 900 + b"\n\ttwo\xff\n"
    found = last_lines(data, count=3)
    assert found == ["100% done", "x" * 397 + "...", "    two�"]
    assert last_lines(b"\n".join(b"%d" % number for number in range(100)))[0] == "80"


def test_what_has_been_cut_out_of_a_log_is_named_and_not_shown_as_zeros(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * (100 << 12))
    files.give_back(path, 40 << 12, 3 << 12)
    said, position = b"", 0
    while (piece := read_at(path, position))[0]:
        said, position = said + piece[0], piece[1]
    assert said == b"x" * (3 << 12) + b"\n[azaion: 163840 bytes are not kept here any more]\n" + b"x" * (57 << 12)
    assert position == path.stat().st_size


@pytest.mark.parametrize("piece", ["://a:", "--token", "token=bearer ", "-", "\\\\"])
def test_a_long_line_takes_no_long_time(piece: str) -> None:
    began = time.process_time()
    Redaction([HIDDEN]).text(piece * (100_000 // len(piece)))
    assert time.process_time() - began < 3
