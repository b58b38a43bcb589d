"""The publish worker and the consumer as processes, with a folder as the target: killed, cut off, and run again."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from azaion import files, models
from azaion.layout import ModelFolder
from azaion.progress import ExitCode
from azaion.publishing import ledger
from tests.installations import Installation
from tests.published_models import Publisher, stands_still
from tests.waiting import until

#: Every step of a publication, in order, and what a consumer gets after a crash there.
STEPS = {
    "publish.begun": "old",
    "encryption.written": "old",
    "publish.encrypted": "old",
    "publish.parted": "old",
    "publish.staged": "old",
    "publish.big-sent": "old",
    "publish.big-verified": "old",
    "publish.small-sent": "old",
    "publish.manifest-sent": "old",
    "publish.pointer-switched": "new",
    "publish.recorded": "new",
    "publish.removed": "new",
    "publish.pruned": "new",
}


@pytest.fixture
def publisher(server: Installation) -> Publisher:
    return Publisher(server, AZAION_PUBLISH_TARGET="directory", AZAION_PUBLISH_KEEP="2")


def there(publisher: Publisher, ending: str = "") -> set[str]:
    return {path.name for path in (publisher.layout.state / "published").iterdir() if path.name.endswith(ending)}


def test_a_crash_at_any_step_leaves_the_old_model_or_the_new_one_and_is_repaired(publisher: Publisher) -> None:
    contents = {}
    for key in ("first", "second"):
        name, weights = publisher.model(key)
        contents[name] = weights
        assert publisher.publish(name).code == 0
    old = weights
    name, new = publisher.model("third")
    for step, seen in STEPS.items():
        ending = publisher.publish(name, f"{step}=1:kill")
        assert ending.code == -signal.SIGKILL, (step, ending.log)
        assert publisher.fetch() == (old if seen == "old" else new), step
        assert publisher.fetch(models.names(publisher.layout)[1]) == old, step
    ending = publisher.publish(name)
    assert ending.code == 0, ending.log
    assert "nothing had to be sent" in ending.message
    assert publisher.fetch() == publisher.fetch(name) == new
    # What the crashes have left is gone, and so is the oldest publication.
    assert list(publisher.layout.publishing.iterdir()) == []
    assert len(there(publisher, ".big")) == 2
    assert not [each for each in there(publisher) if each.startswith(".")]
    first = publisher.server.ctl("fetch", models.names(publisher.layout)[0], "--output", str(publisher.consumer))
    assert first.returncode == 1
    assert "is not kept at" in first.stderr
    assert "azaionctl publish" in first.stderr
    assert [each.removed is not None for each in ledger.at(publisher.layout, str(publisher.layout.state / "published"))]


def part(publisher: Publisher, model: str, name: str) -> Path:
    """A part of the one publication of a model."""
    (path,) = (publisher.layout.state / "published").glob(f"{model}-{'?' * 16}.{name}")
    return path


def test_the_same_again_sends_nothing_and_an_older_one_is_led_to_again(publisher: Publisher) -> None:
    first, old = publisher.model("first")
    assert publisher.publish(first).code == 0
    second, new = publisher.model("second")
    assert publisher.publish(second).code == 0
    before = {path.name: path.stat().st_mtime_ns for path in (publisher.layout.state / "published").iterdir()}
    again = publisher.publish(second)
    assert again.result["artifacts"]["sent"] == 0
    assert {path.name: path.stat().st_mtime_ns for path in (publisher.layout.state / "published").iterdir()} == before
    assert publisher.fetch() == new
    # One small object is all that it takes to go back.
    back = publisher.publish(first)
    assert 0 < back.result["artifacts"]["sent"] < 10_000
    assert publisher.fetch() == old
    # What has arrived before a crash is not sent again either.
    third, _ = publisher.model("third")
    assert publisher.publish(third, "publish.big-verified=1:kill").code == -signal.SIGKILL
    assert 0 < publisher.publish(third).result["artifacts"]["sent"] < 20_000
    assert publisher.publish(first).code == 0
    # A part that is gone, or another one, is made anew.
    part(publisher, first, "big").write_bytes(b"torn")
    (publisher.consumer / "azaion.pt").unlink()
    assert publisher.server.ctl("fetch", "--output", str(publisher.consumer)).returncode == 1
    assert publisher.publish(first).code == 0
    assert publisher.fetch() == old


def test_what_follows_a_training_publishes_only_the_model_in_use(publisher: Publisher) -> None:
    first, old = publisher.model("first")
    second, _ = publisher.model("second")
    models.promote(publisher.layout, first)
    withheld = publisher.publish(of="second")
    assert (withheld.code, withheld.result["artifacts"]["published"]) == (0, False)
    assert withheld.message == (
        f"{second} is not published: {first} is in use, and not this one; once it is in use, "
        f"run `azaionctl publish {second}`"
    )
    files.write_json(
        ModelFolder(path=publisher.layout.model(second).path).gate, {"outcome": "waits", "reason": "worse"}
    )
    assert "it waits for `models promote`: worse" in publisher.publish(of="second").message
    assert not (publisher.layout.state / "published").exists()
    # Another one is put to use while it is on its way.
    folder = publisher.order(of="first")
    worker = publisher.launch(folder, "publish.big-verified=1:stop")
    until(lambda: stands_still(worker.pid), "it stands still")
    models.promote(publisher.layout, second)
    worker.send_signal(signal.SIGCONT)
    assert worker.wait(timeout=60) == 0
    assert files.read_json(folder.result)["artifacts"]["published"] is False
    assert "azaion.manifest" not in there(publisher)
    # Or right before consumers are led to it.
    folder = publisher.order(of="second")
    worker = publisher.launch(folder, "publish.manifest-sent=1:stop")
    until(lambda: stands_still(worker.pid), "it stands still")
    models.promote(publisher.layout, first)
    worker.send_signal(signal.SIGCONT)
    assert worker.wait(timeout=60) == 0
    assert files.read_json(folder.result)["artifacts"]["published"] is False
    assert "azaion.manifest" not in there(publisher)
    # By hand, whoever asks decides.
    assert publisher.publish(first).code == 0
    assert publisher.fetch() == old


def test_consumers_of_the_old_system_find_the_pair_under_the_name_of_the_file(server: Installation) -> None:
    publisher = Publisher(server, AZAION_PUBLISH_TARGET="directory", AZAION_MODEL_FORMAT="legacy")
    name, old = publisher.model("first")
    assert publisher.publish(name).code == 0
    published = publisher.layout.state / "published"
    assert pair(published) == content(publisher, name)
    second, _ = publisher.model("second")
    was = pair(published)
    ending = publisher.publish(second, "publish.big-by-name=1:kill")
    assert ending.code == -signal.SIGKILL
    # The window that is documented: the big part is new, the small one is not.
    assert pair(published) not in (was, content(publisher, second))
    assert publisher.publish(second).code == 0
    assert pair(published) == content(publisher, second)
    # Back again: the parts are fetched from the target, for here they are gone.
    assert publisher.publish(name).code == 0
    assert pair(published) == was
    assert publisher.fetch() == old


def pair(published: Path) -> tuple[bytes, bytes]:
    return (published / "azaion.pt").read_bytes(), (published / "azaion.pt.big").read_bytes()


def content(publisher: Publisher, model: str) -> tuple[bytes, bytes]:
    return part(publisher, model, "small").read_bytes(), part(publisher, model, "big").read_bytes()


def test_a_consumer_refuses_what_is_not_what_was_signed(publisher: Publisher) -> None:
    name, weights = publisher.model("first")
    publisher.publish(name)
    assert publisher.fetch() == weights
    kept = publisher.consumer / "azaion.pt"
    published = publisher.layout.state / "published"
    other, _ = publisher.model("second", 50_000)
    publisher.publish(other)
    spoilt: dict[str, Callable[[bytes], bytes]] = {
        "azaion.manifest": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        f"{other}.manifest": lambda _: (published / f"{name}.manifest").read_bytes(),
        part(publisher, other, "small").name: lambda data: data[:-1],
        part(publisher, other, "big").name: lambda data: data + b"x",
    }
    for what, spoil in spoilt.items():
        path = published / what
        good = path.read_bytes()
        path.write_bytes(spoil(good))
        model = [other] if what.startswith(f"{other}.") else []
        done = publisher.server.ctl("fetch", *model, "--output", str(publisher.consumer))
        assert done.returncode == 1, what
        assert done.stderr.startswith("azaionctl: "), done.stderr
        assert kept.read_bytes() == weights
        path.write_bytes(good)
    done = publisher.server.ctl("fetch", "--output", str(publisher.consumer))
    assert done.returncode == 0, done.stderr
    assert kept.read_bytes() != weights
    assert "was here already" in publisher.server.ctl("fetch", "--output", str(publisher.consumer)).stdout
    assert {path.name for path in publisher.consumer.iterdir()} == {"azaion.pt", ".azaion-fetch.lock"}


def test_two_at_a_time_take_turns_and_a_cancelled_one_leaves_no_trace(publisher: Publisher) -> None:
    first, _ = publisher.model("first")
    second, new = publisher.model("second")
    slow = publisher.launch(publisher.order(first, uid="a"), "publish.big-verified=1:stop")
    until(lambda: stands_still(slow.pid), "it stands still")
    folder = publisher.order(second, uid="b")
    waiting = publisher.launch(folder)
    until(lambda: folder.progress.exists() and "turn" in folder.progress.read_text(), "the other one waits")
    waiting.terminate()
    assert waiting.wait(timeout=20) == ExitCode.INTERRUPTED
    folder = publisher.order(second, uid="b")
    waiting = publisher.launch(folder)
    until(lambda: folder.progress.exists() and "turn" in folder.progress.read_text(), "the other one waits again")
    slow.send_signal(signal.SIGCONT)
    assert (slow.wait(timeout=30), waiting.wait(timeout=30)) == (0, 0)
    assert publisher.fetch() == new


def test_causes_are_told_apart(publisher: Publisher) -> None:
    name, _ = publisher.model("first")
    away = publisher.layout.state / "published"
    away.write_text("a file where the folder should be")
    assert publisher.publish(name).code == ExitCode.REFUSED


def test_the_chain_ends_with_it(publisher: Publisher) -> None:
    server = publisher.server
    server.variables["TRAINING_MODEL"] = "base.pt"
    server.start()
    server.layout.models.joinpath("base.pt").write_bytes(b"weights")
    server.json("submit-train", "--hold")
    server.json("submit-train", "--hold", "--no-publish")
    kinds = [job["kind"] for job in server.json("list")]
    assert kinds == ["train", "evaluate", "export", "publish", "train", "evaluate", "export"]
    name, weights = publisher.model("first")
    assert server.ctl("publish", name, "--wait").returncode == 0
    assert publisher.fetch() == weights
    (record,) = server.json("models", "show", name)["publications"]
    assert (record["job"], record["target"], record["sealing"]["format"]) == (8, "directory", "age")
    second, _ = publisher.model("second")
    server.json("models", "promote", name)
    assert f"consumers get it by `azaionctl publish {second}`" in server.ctl("models", "promote", second).stderr
    refused = server.ctl("publish", name, "--export", "onnx-640")
    assert (refused.returncode, "no export 'onnx-640'" in refused.stderr) == (1, True)
    # Whoever has no keys hears of it now, not after days of training.
    publisher.layout.state.joinpath("keys").rename(server.folder / "keys")
    for command in (["submit-train", "--hold"], ["publish", name]):
        refused = server.ctl(*command)
        assert refused.returncode == 1
        assert "azaionctl keys generate" in refused.stderr
    assert server.ctl("submit-train", "--hold", "--no-publish").returncode == 0


def test_it_is_cancelled_within_the_grace_and_waits_for_a_network_that_is_away(publisher: Publisher) -> None:
    server = publisher.server
    away = publisher.layout.state / "disk"
    server.variables["AZAION_PUBLISH_DIR"] = str(away)
    server.start()
    name, weights = publisher.model("first")
    number = server.json("publish", name)["id"]
    until(lambda: (job := server.job(number))["state"] == "queued" and job["cause"], "it waits for the next attempt")
    job = server.job(number)
    assert job["cause"] == "network"
    assert "is absent: mount its disk" in job["reason"]
    assert server.json("cancel", "--yes", str(number))["state"] == "cancelled"
    away.mkdir()
    assert server.ctl("publish", name, "--wait").returncode == 0
    assert publisher.fetch() == weights


def test_another_key_makes_another_publication_and_what_was_begun_with_the_old_one_goes(publisher: Publisher) -> None:
    name, weights = publisher.model("first")
    assert publisher.publish(name).code == 0
    second, new = publisher.model("second")
    assert publisher.publish(second, "publish.big-verified=1:kill").code == -signal.SIGKILL
    begun = part(publisher, second, "big").name
    assert publisher.server.ctl("keys", "rotate", "age").returncode == 0
    assert publisher.publish(second).code == 0
    assert begun not in there(publisher)
    assert publisher.fetch() == new
    assert publisher.publish(name).code == 0
    # The one before still decrypts what it was made for.
    assert publisher.fetch() == weights
    old, young = ledger.read(publisher.layout.model(name))
    assert old.sealing["signers"] == young.sealing["signers"]
    assert old.sealing["keys"] != young.sealing["keys"]


def test_what_consumers_were_led_to_before_a_crash_stays_until_there_is_something_newer(publisher: Publisher) -> None:
    name, weights = publisher.model("first")
    assert publisher.publish(name, "publish.pointer-switched=1:kill").code == -signal.SIGKILL
    begun = part(publisher, name, "big").name
    assert publisher.server.ctl("keys", "rotate", "age").returncode == 0
    for step in ("encryption.written", "publish.staged", "publish.manifest-sent"):
        assert publisher.publish(name, f"{step}=1:kill").code == -signal.SIGKILL
        assert publisher.fetch() == weights, step
    assert publisher.publish(name).code == 0
    assert publisher.fetch() == weights
    old, young = ledger.read(publisher.layout.model(name))
    assert (old.sealing["keys"] != young.sealing["keys"], old.sha256, old.job) == (True, young.sha256, None)
    # It is as old as it is, and goes when its time has come.
    assert begun in there(publisher)
    assert publisher.publish(publisher.model("second")[0]).code == 0
    assert begun not in there(publisher)


def test_the_model_that_a_crash_has_left_half_told_of_stays_by_its_name(publisher: Publisher) -> None:
    name, weights = publisher.model("first")
    assert publisher.publish(name, "publish.manifest-sent=1:kill").code == -signal.SIGKILL
    second, new = publisher.model("second")
    assert publisher.publish(second).code == 0
    assert publisher.fetch() == new
    assert publisher.fetch(name) == weights
    assert [each.model for each in ledger.at(publisher.layout, str(publisher.layout.state / "published"))] == [
        name,
        second,
    ]


def test_a_consumer_that_is_killed_keeps_what_it_has(publisher: Publisher) -> None:
    name, old = publisher.model("first")
    publisher.publish(name)
    publisher.fetch()
    name, new = publisher.model("second")
    publisher.publish(name)
    kept = publisher.consumer / "azaion.pt"
    for step, seen in {"fetch.downloaded": old, "fetch.opened": old, "fetch.in-place": new}.items():
        done = publisher.server.ctl("fetch", "--output", str(publisher.consumer), AZAION_FAILPOINTS=f"{step}=1:kill")
        assert done.returncode == -signal.SIGKILL
        assert kept.read_bytes() == seen, step
    assert publisher.fetch() == new
    assert [path.name for path in publisher.consumer.iterdir() if path.name != "azaion.pt"] == [".azaion-fetch.lock"]
