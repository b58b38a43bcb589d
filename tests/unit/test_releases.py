"""Releases: the decisions, without a server."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from azaion.layout import ServerLayout
from supervisor.releases import checklist, etc, install, making, use, verification
from supervisor.releases.checklist import Outcome, Ready
from supervisor.releases.deploy import Deployer
from supervisor.releases.host import Host
from supervisor.releases.model import Deployment, Release, ReleaseError, Verdict, cut_off, named, removable, way_back
from supervisor.releases.shelf import Shelf
from supervisor.releases.verification import Baseline, Proof, Seen, Standing

CODE = Path(__file__).parents[2]


def release(name: str, made: float) -> Release:
    return Release(name=name, version="1", source=name, made=made, schema=3, environment="")


def deployed(origin: str | None, target: str, verdict: Verdict = Verdict.KEPT, **more: Any) -> Deployment:
    return Deployment(began=0, origin=origin, target=target, verdict=verdict, **more)


# Which stay, and where the way back leads.


def test_what_is_in_use_and_what_one_may_go_back_to_is_never_removed() -> None:
    releases = [release(name, made) for made, name in enumerate("abcdefgh")]
    history = [deployed("a", "b"), deployed("b", "d")]
    assert removable(releases, history, current="d", used={"c"}) == ["a", "e"]
    assert removable(releases, history, current="d", used=set()) == ["a", "c", "e"]
    assert removable(releases, [], current=None, used=set()) == list("abcde")


def test_the_way_back() -> None:
    history = [deployed(None, "a"), deployed("a", "b"), deployed("b", "c")]
    assert way_back(history, "c") == "b"
    failed = [*history, deployed("c", "d", Verdict.ROLLED_BACK)]
    assert way_back(failed, "c") == "b"
    back = [*failed, deployed("c", "b", rollback=True)]
    # From there it leads further back, and not forward again.
    assert way_back(back, "b") == "a"
    assert way_back(back, "a") is None
    assert way_back([*history, deployed("c", "c")], "c") == "b"
    assert way_back([], "a") is None


def test_a_deploy_without_an_end_was_cut_off() -> None:
    assert cut_off([]) is None
    assert cut_off([deployed("a", "b")]) is None
    last = deployed("a", "b", Verdict.UNDER_WAY)
    assert cut_off([deployed("a", "b"), last]) is last


@pytest.mark.parametrize("name", ["", ".tmp-x", "../x", "a/b", "-x", "x" * 65, "a b", "x\n"])
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    with pytest.raises(ReleaseError):
        named(name)


def test_who_uses_what(tmp_path: Path) -> None:
    def process(pid: int, *arguments: str) -> None:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes("\0".join([*arguments, ""]).encode())

    jobs = "/var/lib/azaion/jobs"
    process(10, "/opt/r/b/bin/python", "-P", "-m", "supervisor.daemon")
    process(11, "/opt/r/b/bin/python", "-P", "-m", "workers.consumer", "--config", "x")
    process(
        20, "/usr/bin/python3", "-I", "-S", "/opt/r/a/lib/python3.11/site-packages/workers/shim.py", f"{jobs}/7-ab/1"
    )
    process(21, "/opt/r/a/bin/python", "-P", "-m", "workers.train", f"{jobs}/7-ab/1")
    process(22, "/opt/r/a/bin/python", "-c", "from multiprocessing.spawn import spawn_main")
    process(30, "/usr/bin/vi", "/opt/rest/a/bin/python")
    (tmp_path / "self").mkdir()
    (tmp_path / "40").mkdir()
    users = use.uses(Path("/opt/r"), tmp_path)
    assert users == {"b": ("its consumer", "the daemon"), "a": ("job 7", "pid 22")}
    assert use.runs(users) == {"job 7": "a"}
    (tmp_path / "link").symlink_to("/opt/r")
    assert use.uses(tmp_path / "link", tmp_path) == users


# Whether a release proves itself.

CONSUMER = {"service": "running", "state": "consuming", "offset": 5, "lag": 0, "restarts": 0, "quarantined": 1}
BEFORE = Baseline(critical=frozenset({("gpu", "0")}), consuming=True, offset=5, quarantined=1)


def seen(consumer: dict[str, Any] | None = None, findings: tuple[tuple[str, str], ...] = (), **more: Any) -> Seen:
    told = [{"check": check, "subject": subject, "verdict": "critical", "text": "bad"} for check, subject in findings]
    status = {"consumer": {**CONSUMER, **(consumer or {})}, "health": {"findings": told}}
    good = Seen(active="active", restarts=0, pid=4711, release="b", status=status)
    return replace(good, **more)


def standing(found: Seen, before: Baseline = BEFORE) -> dict[str, Standing]:
    """What is not well."""
    proofs: list[Proof] = verification.judge(before, found, "b", first=5)
    return {each.name: each.standing for each in proofs if each.standing is not Standing.OK}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (seen(), {}),
        (seen({"lag": 9, "offset": 6}), {}),
        (seen({"lag": 9}), {"consumer": Standing.WAITING}),
        (seen({"lag": None}), {"consumer": Standing.WAITING}),
        (seen({"offset": 4}), {"consumer": Standing.BROKEN}),
        (seen({"state": "disconnected"}), {"consumer": Standing.WAITING}),
        (seen({"state": "starting", "offset": 0}), {"consumer": Standing.WAITING}),
        (seen({"service": "refused", "state": None}), {"consumer": Standing.BROKEN}),
        (seen({"restarts": 1}), {}),
        (seen({"restarts": 2}), {"consumer": Standing.BROKEN}),
        (seen({"service": "elsewhere", "state": None}), {}),
        (seen({"quarantined": 2}), {"quarantine": Standing.BROKEN}),
        (seen(findings=(("gpu", "0"),)), {}),
        (seen(findings=(("gpu", "1"),)), {"health": Standing.WAITING}),
        (seen(findings=(("disk", "/azaion"),)), {"disk": Standing.WAITING}),
        (seen(errors=("boom",)), {"log": Standing.BROKEN}),
        (seen(release="a"), {"daemon": Standing.BROKEN}),
        (seen(restarts=1), {"daemon": Standing.BROKEN}),
        (seen(active="failed", status=None), {"daemon": Standing.BROKEN, "consumer": Standing.WAITING}),
        (seen(active="activating", status=None), {"daemon": Standing.WAITING, "consumer": Standing.WAITING}),
    ],
)
def test_what_a_look_proves(found: Seen, expected: dict[str, Standing]) -> None:
    assert standing(found) == expected


def test_a_consumer_that_stood_still_before_is_not_the_releases_fault() -> None:
    still = seen({"state": "disconnected"})
    assert standing(still, replace(BEFORE, consuming=False)) == {}
    # Nobody knows how it was, as at an install: it must prove itself.
    assert standing(still, Baseline()) == {"consumer": Standing.WAITING}


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def watched(looks: dict[int, Seen]) -> verification.Result:
    """Watch what is seen from these seconds on."""
    clock = Clock()

    def look() -> Seen:
        return next(found for since, found in reversed(looks.items()) if clock.now - 100 >= since)

    return verification.watch(look, BEFORE, "b", began=100, limit_s=60, steady_s=10, clock=clock, pause=clock.sleep)


def test_it_must_be_well_for_a_while_together() -> None:
    away = seen({"state": "starting"})
    good = watched({0: away, 3: seen()})
    assert (good.reason, good.consuming_after_s) == ("", 3)
    assert "not advance" in watched({0: away, 3: seen(), 8: seen({"lag": 1})}).reason
    flapping = {second: seen() if second % 8 < 4 else away for second in range(0, 70, 4)}
    assert "within 60 s" in watched(flapping).reason
    # What the one before has read says nothing of this one.
    behind = {second: seen({"lag": 90, "offset": 8 + second // 20}) for second in range(0, 40, 10)}
    assert watched({0: behind[0]}).reason.endswith("its offset does not advance: 8, 90 messages wait")
    assert watched(behind).reason == ""
    broken = watched({0: away, 3: seen(), 8: seen(restarts=1)})
    assert broken.reason.startswith("daemon: it does not stay up")


# The files.


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    server = ServerLayout(root=tmp_path / "root")
    for name in "ab":
        folder = server.release(name)
        folder.units.mkdir(parents=True)
        folder.record.write_text(json.dumps(release(name, 1).record()))
        (folder.units / "azaion.service").write_text(f"# {name}")
    (server.release("b").units / "azaion-more.timer").write_text("")
    (server.release("a").units / "azaion.rules").write_text("")
    (server.release("a").units / "README").write_text("")
    return Shelf(server)


def test_etc_follows_the_release_there_and_back(shelf: Shelf) -> None:
    server = shelf.server

    def follow(name: str) -> list[str]:
        etc.apply(etc.changes(server, server.release(name)))
        assert not etc.changes(server, server.release(name))
        return [path.name for path in etc.installed(server)]

    assert follow("a") == ["50-azaion.rules", "azaion.service"]
    mine = server.units / "other.service"
    mine.write_text("")
    assert follow("b") == ["azaion-more.timer", "azaion.service"]
    assert follow("a") == ["50-azaion.rules", "azaion.service"]
    assert (server.units / "azaion.service").read_text() == "# a"
    assert mine.exists()


def test_only_one_deploys_and_what_others_left_is_swept(shelf: Shelf) -> None:
    left = shelf.server.releases / ".tmp-half"
    left.mkdir()
    link = shelf.server.program / ".tmp-0123456789abcdef"
    link.symlink_to("releases/a")
    with shelf.held():
        assert not left.exists()
        assert not link.is_symlink()
        with pytest.raises(ReleaseError, match="under way"), Shelf(shelf.server).held():
            pass
    assert [each.name for each in shelf.releases()] == ["a", "b"]
    assert shelf.current is None
    shelf.switch("a")
    assert shelf.current == "a"
    shelf.remove("b")
    assert [each.name for each in shelf.releases()] == ["a"]


# A release that changes the state.


class Idle(Host):
    """A machine on which nothing starts."""

    def restart(self) -> str:
        return "it ended at once"

    def must(self, *command: str) -> str:
        del command
        return ""

    def last_words(self, count: int = 5) -> list[str]:
        del count
        return []


def newer(shelf: Shelf) -> Release:
    """Release b, which reads a newer schema than a, which is in use."""
    record = replace(release("b", 2), schema=4)
    shelf.server.release("b").record.write_text(json.dumps(record.record()))
    shelf.switch("a")
    return record


def test_the_checklist_knows_of_states_that_lead_no_way_back(shelf: Shelf) -> None:
    new, old = newer(shelf), release("a", 1)

    def outcome(given: Release, *, one_way: bool = False) -> Outcome:
        return checklist.state(shelf, given, one_way=one_way).outcome

    assert outcome(old) is Outcome.OK
    assert (outcome(new), outcome(new, one_way=True)) == (Outcome.FAILED, Outcome.WARNING)
    shelf.switch("b")
    assert outcome(new) is Outcome.OK
    assert (outcome(old), outcome(old, one_way=True)) == (Outcome.FAILED, Outcome.FAILED)


def test_what_fails_in_the_middle_is_taken_back_too(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    target = replace(newer(shelf), schema=3)
    shelf.server.release("b").record.write_text(json.dumps(target.record()))
    monkeypatch.setattr(checklist, "look", lambda *_, **__: Ready(checks=(), before=None))
    monkeypatch.setattr(verification, "seen", lambda *_: seen(release="a"))
    left = [True]

    def failing(_: Host, *command: str) -> str:
        del command
        if left:
            left.clear()
            raise ReleaseError("systemctl daemon-reload: no answer")
        return ""

    monkeypatch.setattr(Idle, "must", failing)
    monkeypatch.setattr(Idle, "restart", lambda _: "")
    deployer = Deployer(shelf=shelf, host=Idle(), by="me", say=lambda _: None, limit_s=1, steady_s=0)
    done = deployer.deploy(target)
    assert (done.verdict, done.reason) == (Verdict.ROLLED_BACK, "systemctl daemon-reload: no answer")
    assert shelf.current == "a"
    assert not etc.changes(shelf.server, shelf.server.release("a"))


@pytest.mark.parametrize(("schema", "verdict", "stays"), [(4, Verdict.FAILED, "b"), (3, Verdict.FAILED, "a")])
def test_only_what_can_be_taken_back_is(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, schema: int, verdict: Verdict, stays: str
) -> None:
    target = replace(newer(shelf), schema=schema)
    shelf.server.release("b").record.write_text(json.dumps(target.record()))
    monkeypatch.setattr(checklist, "look", lambda *_, **__: Ready(checks=(), before=None))
    monkeypatch.setattr(verification, "seen", lambda *_: seen(active="failed", status=None))
    said: list[str] = []
    deployer = Deployer(shelf=shelf, host=Idle(), by="me", say=said.append, limit_s=1, steady_s=0)
    done = deployer.deploy(target, one_way=True)
    # On this machine the old one does not start again either, and that is told.
    assert (done.verdict, shelf.current) == (verdict, stays)
    assert "it ended at once" in done.reason
    assert ("does not let it be taken back" in done.reason) == (stays == "b")
    assert shelf.deployments() == [done]


def test_the_settings_of_a_server_are_the_example_without_its_passwords() -> None:
    example = (CODE / ".env.example").read_text(encoding="utf-8")
    lines = install.for_server(example).splitlines()
    assert "AZAION_LAUNCHER=systemd" in lines
    assert not [line for line in lines if "changeme" in line]
    assert len(lines) == len(example.splitlines())


def test_what_is_in_no_commit_goes_into_no_release(tmp_path: Path) -> None:
    for part in making.PARTS:
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).mkdir() if "." not in part else (tmp_path / part).touch()
    module = tmp_path / "azaion/__init__.py"
    module.write_text('__version__ = "1.2"\n')
    unpacked = making.name_of(tmp_path)
    assert making.name_of(tmp_path) == unpacked
    (tmp_path / "supervisor/__pycache__").mkdir()
    (tmp_path / "supervisor/__pycache__/x.pyc").touch()
    assert making.name_of(tmp_path) == unpacked
    (tmp_path / "etc/systemd/azaion.service").touch()
    assert making.name_of(tmp_path) != unpacked
    for each in ("supervisor", "workers", "requirements"):
        (tmp_path / each / "x").touch()
    git: list[str | Path] = ["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x@example.com"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        making.run([*git, *command])
    commit = making.run([*git, "rev-parse", "HEAD"]).strip()
    assert making.name_of(tmp_path) == f"1.2-{commit[:12]}"
    module.write_text('__version__ = "1.3"\n')
    with pytest.raises(ReleaseError, match=r"azaion/__init__.py.*commit them"):
        making.name_of(tmp_path)
    with pytest.raises(ReleaseError, match="neither a release nor a checkout"):
        making.name_of(tmp_path / "azaion")
