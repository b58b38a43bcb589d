"""The publish worker and the consumer, with the API and the CDN: killed, refused, cut off; and what nobody may see."""

import os
import signal
from pathlib import Path

import pytest

from azaion import files
from azaion.progress import ExitCode
from azaion.publishing import ledger
from tests.azaion_api import Platform
from tests.installations import Installation
from tests.objects import BUCKET, ObjectStore
from tests.published_models import Publisher, stands_still
from tests.waiting import until

#: More than one part of an upload.
LARGE = 20 << 20


@pytest.fixture
def publisher(server: Installation, azaion: Platform, objects: ObjectStore) -> Publisher:
    azaion.keep("cdn.yaml", objects.yaml)
    variables = {
        **azaion.variables,
        "AZAION_PUBLISH_TARGET": "azaion",
        "AZAION_CDN_CA": str(objects.ca),
        "AZAION_CDN_BUCKET": BUCKET,
    }
    return Publisher(server, **variables)


def test_a_crash_on_the_way_leaves_the_old_model_or_the_new_one_and_is_repaired(
    publisher: Publisher, objects: ObjectStore
) -> None:
    first, old = publisher.model("first")
    assert publisher.publish(first).code == 0
    assert publisher.fetch() == old
    second, new = publisher.model("second", LARGE)
    steps = {
        "cdn.part-sent": old,
        "cdn.completed": old,
        "publish.small-sent": old,
        "publish.pointer-switched": new,
    }
    for step, seen in steps.items():
        ending = publisher.publish(second, f"{step}=1:kill")
        assert ending.code == -signal.SIGKILL, (step, ending.log)
        assert publisher.fetch() == seen, step
    ending = publisher.publish(second)
    assert (ending.code, ending.result["artifacts"]["sent"]) == (0, 0), ending.log
    assert publisher.fetch() == publisher.fetch(second) == new
    (published,) = ledger.read(publisher.layout.model(second))
    assert objects.unfinished(f"{published.name}.big") == []
    # It was encrypted once, and sent once.
    assert [key for key in objects.cdn().keys(second) if key.startswith(f"{second}-")] == [f"{published.name}.big"]


def test_what_goes_wrong_is_told_apart(publisher: Publisher, azaion: Platform) -> None:
    name, _ = publisher.model("first")
    azaion.kill()
    try:
        away = publisher.publish(name)
    finally:
        azaion.start()
    assert away.code == ExitCode.UNREACHABLE, away.log
    assert "check AZAION_API_URL and the network" in away.message
    right = publisher.env_file.read_text()
    publisher.env_file.write_text(right.replace(azaion.access.password, "wrong-password"))
    refused = publisher.publish(name)
    assert refused.code == ExitCode.REFUSED
    assert "check AZAION_API_EMAIL and AZAION_API_PASSWORD" in refused.message
    assert "wrong-password" not in refused.log + refused.message
    publisher.env_file.write_text("")
    assert publisher.publish(name).code == ExitCode.CONFIG
    publisher.env_file.write_text(right)
    assert publisher.publish(name).code == 0


def test_only_the_publishing_process_holds_what_it_logs_in_with(
    publisher: Publisher, azaion: Platform, objects: ObjectStore
) -> None:
    server = publisher.server
    server.start("publish.big-verified=1:stop")
    name, _ = publisher.model("first")
    number = server.json("publish", name)["id"]
    server.wait(number, "running")
    state = server.attempt(number).state
    until(state.exists, "the shim has recorded its start")
    child: int = files.read_json(state)["child"]["pid"]
    until(lambda: stands_still(child), "it stands still")
    access = azaion.access
    secrets = [access.password, access.salt, access.hardware, objects.writer.secret, objects.reader.secret]
    for process in Path("/proc").glob("[0-9]*"):
        for what in ("environ", "cmdline"):
            try:
                seen = (process / what).read_bytes()
            except OSError:
                continue
            # The servers of this test know them, too.
            if b"azaion_api" in seen or b"weed" in seen or process.name == str(os.getpid()):
                continue
            assert not [each for each in secrets if each.encode() in seen], (process, what)
    os.kill(child, signal.SIGCONT)
    assert server.wait(number)["state"] == "succeeded", server.ctl("logs", str(number)).stdout
    server.stop()
    for path in (*server.layout.state.rglob("*"), server.folder / "azaiond.log"):
        if path.is_file():
            data = path.read_bytes()
            assert not [each for each in secrets if each.encode() in data], path
