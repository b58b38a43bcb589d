"""Publications in the queue: what follows from their ends, what their workers are told, which old ones go."""

from pathlib import Path

import pytest

from azaion.layout import Layout
from azaion.progress import ExitCode
from azaion.publishing.ledger import Publication, outdated
from supervisor.jobs.model import Attempt, Intent, Job, Kind, State
from supervisor.jobs.outcome import Decision, Ending, Source, decide
from supervisor.jobs.spec import spec_of


def job(**more: object) -> Job:
    known = {"id": 7, "uid": "u1", "kind": Kind.PUBLISH, "name": "x", "parameters": {"of": "u0"}, "owner": "mila"}
    return Job(**{"state": State.RUNNING, "limit": 3, **known, **more})  # type: ignore[arg-type]


def after(code: ExitCode, times: int = 1, **more: object) -> Decision:
    earlier = [
        Attempt(number=number, nonce="n", reserved=0.0, started=0.0, ended=1.0, cause="network")
        for number in range(1, times)
    ]
    return decide(job(**more), Ending(source=Source.EXIT, code=code, message="so"), 100.0, 1.0, earlier)


def test_a_network_that_is_away_is_waited_for_without_end_and_counts_as_nothing() -> None:
    for times, pause in ((1, 5.0), (2, 10.0), (5, 80.0), (500, 600.0)):
        decision = after(ExitCode.UNREACHABLE, times)
        assert (decision.state, decision.cause, decision.not_before) == (State.QUEUED, "network", 100.0 + pause)
        assert (decision.failures, decision.interruptions) == (0, 0)
    assert decision.reason == "so; again in 600 s"
    assert after(ExitCode.UNREACHABLE, intent=Intent.CANCEL).state is State.CANCELLED


@pytest.mark.parametrize(("code", "cause"), [(ExitCode.REFUSED, "refused:target"), (ExitCode.CONFIG, "refused:config")])
def test_what_is_refused_is_not_tried_again(code: ExitCode, cause: str) -> None:
    decision = after(code)
    assert (decision.state, decision.cause, decision.reason) == (State.FAILED, cause, "so")


def test_what_has_not_arrived_is_sent_again_a_few_times() -> None:
    assert after(ExitCode.PROTOCOL).state is State.QUEUED
    assert after(ExitCode.PROTOCOL, failures=2).state is State.FAILED


@pytest.mark.parametrize("there", [True, False])
def test_its_worker_finds_the_secrets_where_the_daemon_was_started_and_is_told_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, there: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AZAION_API_PASSWORD", "hush-hush")
    if there:
        (tmp_path / ".env").write_text("AZAION_API_PASSWORD=hush-hush\n")
    layout = Layout(root=tmp_path, state=tmp_path, spool=tmp_path, socket=tmp_path)
    spec = spec_of(layout, job(), Attempt(number=1, nonce="n", reserved=0.0), ())
    attempt = str(layout.job(7, "u1").attempt(1).path)
    assert spec["argv"][-2:] == ["workers.publish", attempt]
    assert spec["cwd"] == (str(tmp_path) if there else attempt)
    assert "hush-hush" not in str(spec)


def test_the_oldest_publications_go() -> None:
    def publication(name: str, time: float, removed: float | None = None) -> Publication:
        return Publication(
            name=name, model="m", file="f", sha256="", size=0, sealing={}, target="directory", place="here",
            time=time, removed=removed,
        )  # fmt: skip

    known = [publication("c", 3.0), publication("a", 1.0, removed=9.0), publication("b", 2.0), publication("d", 4.0)]
    assert [each.name for each in outdated(known, 2)] == ["b"]
    assert outdated(known, 3) == outdated(known, 100) == []
