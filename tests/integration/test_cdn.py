"""The client of the CDN against a real S3 server over HTTPS: killed, cut off, lied to."""

import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from azaion import files
from azaion.failpoints import VARIABLE
from azaion.publishing.access import CdnAccess, Credentials, Patience
from azaion.publishing.cdn import Cdn, Stored
from azaion.publishing.errors import DamagedError, MissingError, RefusedError, UnreachableError
from azaion.publishing.uploads import PART_BYTES, parts_of
from tests.objects import BUCKET, QUICK, ObjectStore, SeaweedFS, running
from tests.proxies import Proxy

#: Sends what it is told to, and says which parts went over the wire and how much memory that took.
_UPLOADER = """
import json, resource, sys
from pathlib import Path
from azaion.publishing.access import CdnAccess, Credentials
from azaion.publishing.cdn import Cdn

told = json.load(sys.stdin)
reader, writer = (Credentials(**told[name]) for name in ("reader", "writer"))
access = CdnAccess(host=told["host"], reader=reader, writer=writer)
cdn = Cdn(access, bucket="models", authority=Path(told["ca"]))
sent = []
events = cdn._writer.client.meta.events
events.register("provide-client-params.s3.UploadPart", lambda params, **_: sent.append(params["PartNumber"]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
cdn.upload(told["key"], Path(told["path"]), sha256=told["sha256"], record=Path(told["record"]))
cdn.verify(told["key"], size=told["size"], sha256=told["sha256"])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"sent": sorted(sent), "kilobytes": peak - before}))
"""


@dataclass(frozen=True)
class File:
    """A file on its way."""

    path: Path
    key: str
    record: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def sha256(self) -> str:
        return files.sha256(self.path)

    @property
    def facts(self) -> dict[str, Any]:
        return {"size": self.size, "sha256": self.sha256}

    def send(self, cdn: Cdn, **more: Any) -> None:
        cdn.upload(self.key, self.path, sha256=self.sha256, record=self.record, **more)


@pytest.fixture
def large(tmp_path: Path) -> File:
    """Three parts and a bit."""
    return _file(tmp_path, 3 * PART_BYTES + 4711)


@pytest.fixture
def small(tmp_path: Path) -> File:
    return _file(tmp_path, 5000)


@pytest.fixture(params=["objects", "swift"])
def every(request: pytest.FixtureRequest) -> ObjectStore:
    """Each make of S3 server in turn."""
    store: ObjectStore = request.getfixturevalue(request.param)
    return store


@pytest.fixture
def own_objects() -> Iterator[ObjectStore]:
    """A server that the test may kill."""
    with running(SeaweedFS()) as made:
        yield made


def _file(folder: Path, size: int) -> File:
    name = secrets.token_hex(4)
    (folder / name).write_bytes(os.urandom(size))
    return File(folder / name, f"tests/{name}", folder / f"{name}.json")


def _process(objects: ObjectStore, file: File, failpoint: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Send a file and verify it, in a process of its own."""
    access = objects.access
    told = {
        "host": access.host,
        "ca": str(objects.ca),
        "reader": asdict(access.reader),
        "writer": asdict(access.writer),
        "key": file.key,
        "path": str(file.path),
        "record": str(file.record),
        **file.facts,
    }
    return subprocess.run(
        [sys.executable, "-c", _UPLOADER],
        input=json.dumps(told),
        env={**os.environ, VARIABLE: failpoint, "PYTHONPATH": str(Path(__file__).parents[2]), **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _sent(done: subprocess.CompletedProcess[str]) -> list[int]:
    assert done.returncode == 0, done.stderr
    sent: list[int] = json.loads(done.stdout)["sent"]
    return sent


def test_the_parts_of_a_file_cover_it() -> None:
    for size in (1, PART_BYTES, PART_BYTES + 1, 2 << 30, (5 << 40) - 1):
        parts = parts_of(size)
        assert [part.number for part in parts] == list(range(1, len(parts) + 1))
        assert parts[0].start == 0
        assert sum(part.size for part in parts) == size
        assert all(a.start + a.size == b.start for a, b in itertools.pairwise(parts))
        assert len(parts) <= 10_000


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1])
def test_what_is_sent_arrives(every: ObjectStore, tmp_path: Path, size: int) -> None:
    file, cdn = _file(tmp_path, size), every.cdn()
    assert cdn.find(file.key) is None
    for _ in range(2):
        file.send(cdn)
        cdn.verify(file.key, **file.facts)
    assert cdn.find(file.key) == Stored(size=file.size, sha256=file.sha256)
    cdn.download(file.key, tmp_path / "copy", **file.facts)
    assert (tmp_path / "copy").read_bytes() == file.path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["copy", file.path.name])
    assert not every.unfinished(file.key)
    assert cdn.keys(file.key) == [file.key]


def test_what_is_removed_is_missing(objects: ObjectStore, small: File) -> None:
    cdn = objects.cdn()
    small.send(cdn)
    for _ in range(2):
        cdn.delete(small.key)
    assert cdn.find(small.key) is None
    with pytest.raises(MissingError, match="no such object"):
        cdn.verify(small.key, **small.facts)


def test_each_pair_of_keys_may_do_only_its_own(every: ObjectStore, small: File) -> None:
    cdn, access = every.cdn(), every.access
    cdn.greet()
    small.send(cdn)
    swapped = Cdn(replace(access, reader=access.writer, writer=access.reader), bucket=BUCKET, authority=every.ca)
    with pytest.raises(RefusedError, match="does not let the downloader do that"):
        swapped.read(small.key, limit=10_000)
    with pytest.raises(RefusedError, match="does not let the uploader do that"):
        small.send(swapped)
    with pytest.raises(RefusedError, match="does not let the uploader do that"):
        swapped.delete(small.key)
    cdn.verify(small.key, **small.facts)


@pytest.mark.parametrize(
    ("every", "step"),
    [
        ("objects", "begun"),
        ("objects", "recorded"),
        ("objects", "part-sent"),
        ("objects", "completed"),
        ("swift", "part-sent"),
        ("swift", "completed"),
    ],
    indirect=["every"],
)
def test_a_killed_upload_goes_on_where_it_was(every: ObjectStore, large: File, step: str) -> None:
    killed = _process(every, large, f"cdn.{step}=1:kill")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    had = every.parts(large.key)
    assert bool(had) == (step == "part-sent")
    sent = _sent(_process(every, large))
    assert not had & set(sent)
    if step in {"begun", "recorded"}:
        assert sent == [1, 2, 3, 4]
    if step == "completed":
        assert sent == []
    assert every.client().get_object(Bucket=BUCKET, Key=large.key)["Body"].read() == large.path.read_bytes()
    assert not every.unfinished(large.key)
    assert not large.record.exists()


def test_a_part_that_arrived_wrong_is_sent_again(every: ObjectStore, large: File) -> None:
    assert _process(every, large, "cdn.recorded=1:kill").returncode == -signal.SIGKILL
    (upload,) = every.unfinished(large.key)
    client, whole = every.client(), large.path.read_bytes()
    for number, body in ((1, whole[:PART_BYTES]), (2, os.urandom(PART_BYTES)), (3, b"short")):
        client.upload_part(Bucket=BUCKET, Key=large.key, UploadId=upload, PartNumber=number, Body=body)
    assert _sent(_process(every, large)) == [2, 3, 4]


def test_what_was_begun_with_another_file_is_aborted(objects: ObjectStore, large: File) -> None:
    assert _process(objects, large, "cdn.part-sent=1:kill").returncode == -signal.SIGKILL
    assert len(objects.unfinished(large.key)) == 1
    large.path.write_bytes(os.urandom(large.size))
    other = replace(large, key=f"{large.key}-2")
    assert _sent(_process(objects, other)) == [1, 2, 3, 4]
    assert not objects.unfinished(large.key)


def test_what_nobody_wants_any_more_is_abandoned(objects: ObjectStore, large: File) -> None:
    assert _process(objects, large, "cdn.part-sent=1:kill").returncode == -signal.SIGKILL
    for _ in range(2):
        objects.cdn().abandon(large.record)
    assert not objects.unfinished(large.key)
    assert not large.record.exists()


def test_a_torn_record_is_no_obstacle(objects: ObjectStore, large: File) -> None:
    assert _process(objects, large, "cdn.part-sent=1:kill").returncode == -signal.SIGKILL
    large.record.write_bytes(large.record.read_bytes()[:40])
    assert _sent(_process(objects, large)) == [1, 2, 3, 4]
    assert not objects.unfinished(large.key)


def test_the_machine_s_own_settings_for_aws_change_nothing(objects: ObjectStore, small: File, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nendpoint_url = https://localhost:1\nregion = nowhere\n")
    strange = {
        "AWS_PROFILE": "nobody",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_ENDPOINT_URL": "https://localhost:1",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SESSION_TOKEN": "something",
        "AWS_CA_BUNDLE": "/nowhere",
    }
    assert _sent(_process(objects, small, **strange)) == []


def test_memory_does_not_grow_with_the_file(objects: ObjectStore, large: File) -> None:
    with large.path.open("r+b") as stream:
        stream.truncate(160 << 20)
    done = _process(objects, large)
    assert len(_sent(done)) == 20
    assert json.loads(done.stdout)["kilobytes"] < 40_000


def test_another_content_under_the_name_is_noticed(objects: ObjectStore, small: File, tmp_path: Path) -> None:
    cdn, other = objects.cdn(), os.urandom(small.size)
    small.send(cdn)
    objects.client().put_object(Bucket=BUCKET, Key=small.key, Body=other, Metadata={"sha256": small.sha256})
    with pytest.raises(DamagedError, match="not what was sent"):
        cdn.verify(small.key, **small.facts)
    with pytest.raises(DamagedError, match="not what it should be"):
        cdn.download(small.key, tmp_path / "copy", **small.facts)
    for body in (other + b"x", small.path.read_bytes() + b"x", small.path.read_bytes()[:-1]):
        objects.client().put_object(Bucket=BUCKET, Key=small.key, Body=body)
        with pytest.raises(DamagedError):
            cdn.verify(small.key, **small.facts)
    with pytest.raises(DamagedError, match="more than the 100"):
        cdn.read(small.key, limit=100)
    assert not (tmp_path / "copy").exists()


def test_a_download_goes_on_where_it_was(every: ObjectStore, large: File, tmp_path: Path) -> None:
    cdn, target = every.cdn(), tmp_path / "copy"
    large.send(cdn)
    told: list[int] = []

    def stop_half_way(done: int, size: int) -> None:
        told.append(done)
        if len(told) and done > size // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cdn.download(large.key, target, **large.facts, on_progress=stop_half_way)
    half, told = told[-1], []
    assert not target.exists()
    cdn.download(large.key, target, **large.facts, on_progress=lambda done, _: told.append(done))
    assert half < told[0] < half + PART_BYTES
    assert target.read_bytes() == large.path.read_bytes()

    # A power loss has torn what was left of the next one.
    target.unlink()
    with pytest.raises(KeyboardInterrupt):
        cdn.download(large.key, target, **large.facts, on_progress=stop_half_way)
    (left,) = tmp_path.glob(".tmp-*")
    left.write_bytes(bytes(left.stat().st_size))
    cdn.download(large.key, target, **large.facts)
    assert target.read_bytes() == large.path.read_bytes()
    assert not list(tmp_path.glob(".tmp-*"))


def test_who_watches_may_stop_an_upload(objects: ObjectStore, large: File) -> None:
    with large.path.open("r+b") as stream:
        stream.truncate(160 << 20)
    told: list[float] = []

    def stop_in_the_middle_of_a_part(_done: int, _size: int) -> None:
        relay.stall()
        told.append(time.monotonic())
        if len(told) == 2:
            raise KeyboardInterrupt

    with Proxy(objects.address) as relay:
        cdn = objects.cdn(relay.address[1], replace(QUICK, connect_s=1.0, attempts=5))
        with pytest.raises(KeyboardInterrupt):
            large.send(cdn, on_progress=stop_in_the_middle_of_a_part)
        assert time.monotonic() - told[-1] < 4
        assert 0 < len(objects.parts(large.key)) < 20
        relay.go_on()
        large.send(cdn)
        cdn.verify(large.key, **large.facts)


def test_cut_connections_are_gone_on_with(objects: ObjectStore, large: File, tmp_path: Path) -> None:
    with Proxy(objects.address) as relay:
        cdn = objects.cdn(relay.address[1])
        relay.cut_after(3000)
        large.send(cdn)
        for after in (100, 5_000_000, 9_000_000):
            relay.cut_after(after)
            cdn.verify(large.key, **large.facts)
        relay.cut_after(5_000_000)
        cdn.download(large.key, tmp_path / "copy", **large.facts)
        assert relay.cuts == 5
    assert (tmp_path / "copy").read_bytes() == large.path.read_bytes()


def test_a_server_that_dies_half_way_is_given_up_in_time(own_objects: ObjectStore, large: File) -> None:
    def kill(done: int, _size: int) -> None:
        if done and own_objects.running:
            own_objects.kill()

    before = time.monotonic()
    with pytest.raises(UnreachableError, match=r"cannot be sent: the CDN at https://localhost:\d+ "):
        large.send(own_objects.cdn(), on_progress=kill)
    with pytest.raises(UnreachableError, match="cannot be reached"):
        own_objects.cdn().verify(large.key, **large.facts)
    assert time.monotonic() - before < 10
    own_objects.start()
    large.send(own_objects.cdn())
    own_objects.cdn().verify(large.key, **large.facts)
    assert not own_objects.unfinished(large.key)


def test_a_silent_server_is_given_up_in_time(objects: ObjectStore, large: File, small: File) -> None:
    small.send(objects.cdn())
    with Proxy(objects.address) as relay:
        patience = replace(QUICK, connect_s=0.5, silence_s=0.5)
        cdn = objects.cdn(relay.address[1], patience)
        cdn.find(small.key)
        relay.stall()
        before = time.monotonic()
        with pytest.raises(UnreachableError, match=r"cannot be fetched: .* (silent for|not answered within) 0\.5 s"):
            cdn.verify(small.key, **small.facts)
        with pytest.raises(UnreachableError, match="cannot be sent"):
            large.send(cdn)
        assert time.monotonic() - before < 10


def test_a_server_that_crawls_is_given_up(objects: ObjectStore, large: File) -> None:
    cdn = objects.cdn(patience=Patience(grace_s=0.0, slowest_bps=1 << 50))
    with pytest.raises(UnreachableError, match="at less than 1125899906842624 bytes a second"):
        large.send(cdn)
    large.send(objects.cdn())
    with pytest.raises(UnreachableError, match="at less than 1125899906842624 bytes a second"):
        cdn.verify(large.key, **large.facts)


@pytest.mark.parametrize("whose", ["reader", "writer"])
@pytest.mark.parametrize("wrong", ["secret", "key"])
def test_keys_that_are_refused_are_named_and_not_shown(
    objects: ObjectStore, small: File, whose: str, wrong: str
) -> None:
    access: CdnAccess = objects.access
    known: Credentials = getattr(access, whose)
    bad = replace(known, **{wrong: "0123456789abcdef"})
    cdn = Cdn(replace(access, **{whose: bad}), bucket=BUCKET, authority=objects.ca)  # type: ignore[arg-type]
    name = "downloader" if whose == "reader" else "uploader"

    def use() -> None:
        if whose == "reader":
            cdn.read(small.key, limit=10)
        else:
            small.send(cdn)

    for act in (cdn.greet, use):
        with pytest.raises(RefusedError, match=f"does not take the {name}'s keys") as caught:
            act()
        assert "0123456789abcdef" not in str(caught.value)
        assert known.secret not in str(caught.value)


def test_what_is_wrong_is_said(objects: ObjectStore, tmp_path: Path) -> None:
    access = objects.access

    def said(kind: type[Exception], access: CdnAccess = access, **other: Any) -> str:
        options: dict[str, Any] = {"bucket": BUCKET, "authority": objects.ca, "patience": QUICK} | other
        with pytest.raises(kind) as caught:
            Cdn(access, **options).read("x", limit=1)
        return str(caught.value)

    assert "has a name that cannot be resolved" in said(UnreachableError, replace(access, host="https://no.invalid"))
    assert "cannot be reached" in said(UnreachableError, replace(access, host="https://localhost:1"))
    untrusted = said(RefusedError, authority=None)
    assert "cannot be trusted: unable to get local issuer certificate" in untrusted
    assert "AZAION_CDN_CA" in untrusted
    assert "AZAION_CDN_CA: " in said(RefusedError, authority=tmp_path / "none.pem")
    assert "AZAION_CDN_BUCKET" in said(RefusedError, bucket="another")
    admin = objects.admin
    nobody_s = replace(access, reader=admin, writer=admin)
    assert "has no bucket another: check AZAION_CDN_BUCKET" in said(RefusedError, nobody_s, bucket="another")
