"""What Prometheus is told, and that rules and dashboard ask for nothing else."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervisor import metrics
from supervisor.figures import Facts, Running, ServiceFacts, Space
from supervisor.gpus import Gpu, Reading
from supervisor.health.model import Finding, Mute, Verdict
from supervisor.jobs.model import Kind, State, Submission
from supervisor.jobs.outcome import Decision, Ending, Source
from supervisor.jobs.store import Store
from supervisor.jobs.tally import BOUNDED, Tally, bounded, tally
from supervisor.processes import Identity
from supervisor.units.model import UnitState

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "etc" / "prometheus" / "azaion.rules.yml"
RULES_TEST: Final = ROOT / "etc" / "prometheus" / "azaion.rules.test.yml"
DASHBOARD: Final = ROOT / "etc" / "grafana" / "azaion.json"

FACTS: Final = Facts(
    version="1.2",
    tally=Tally(
        jobs={(Kind.TRAIN, State.RUNNING): 1, (Kind.TRAIN, State.FAILED): 2, (Kind.COMMAND, State.SUCCEEDED): 3},
        failed={"exit": 2},
        attempts={"none": 3, "exit": 2},
        waiting_s=12.5,
    ),
    running=[
        Running(
            device="gpu0",
            job=7,
            kind="train",
            progress={
                "epoch": 3,
                "epochs": 10,
                "batch": 5,
                "batches": 10,
                "eta_s": 60.0,
                "metrics": {"mAP50": 0.5, "mAP50-95": "nonsense", "x": 1.0},
            },
            still_s=1.0,
        )
    ],
    leases={"gpu0": 7, "gpu1": None},
    reading=Reading(
        gpus=(Gpu(number=0, total=1000, free=400, busy_percent=97, temperature=61, slowed=("heat",), ecc_errors=1),)
    ),
    spaces=[Space(path="root", size=1000, free=10)],
    consumer={
        "service": "running",
        "state": "consuming",
        "offset": 5,
        "lag": 0,
        "lag_s": None,
        "rate": 1.5,
        "restarts": 2,
    }
    | {"quarantined": 4},
    services=[ServiceFacts(name="web", state=UnitState.READY, restarts=1)],
    findings=[
        Finding(check="disk", subject="/azaion", verdict=Verdict.CRITICAL, text="", since=0.0, mute=Mute(until=9.0)),
        Finding(check="broker", verdict=Verdict.WARNING, text="", since=0.0),
    ],
    alerts=1,
    events=99,
    maintenance=True,
    loop_late_s=0.25,
)


def samples(facts: Facts) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = metrics.exposition(facts).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(facts: Facts, name: str, **labels: str) -> float | None:
    return samples(facts).get((name, frozenset(labels.items())))


def names() -> set[str]:
    return {name for name, _ in samples(FACTS)}


def promtool() -> str:
    """Where promtool is; skips the test without it, and fails it where it must be there."""
    found = shutil.which("promtool", path=f"{ROOT / '.venv' / 'promtool' / 'bin'}:{os.environ['PATH']}")
    if found is None:
        reason = "no promtool: make test fetches it"
        if os.environ.get("CI") or os.environ.get("AZAION_REQUIRE_PROMTOOL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def checked(*arguments: str, told: bytes = b"", folder: Path = ROOT) -> str:
    """What promtool says; fails if it finds anything wrong."""
    done = subprocess.run([promtool(), *arguments], input=told, cwd=folder, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def test_values_have_their_units_and_what_nobody_knows_is_left_out() -> None:
    assert value(FACTS, "azaion_jobs", kind="train", state="running") == 1
    assert value(FACTS, "azaion_jobs_ended_total", kind="train", state="failed") == 2
    assert value(FACTS, "azaion_jobs_ended_total", kind="train", state="running") is None
    assert value(FACTS, "azaion_job_progress_ratio", device="gpu0", kind="train") == 0.25
    assert value(FACTS, "azaion_device_job_number", device="gpu0") == 7
    assert value(FACTS, "azaion_training_figure", device="gpu0", figure="mAP50") == 0.5
    assert value(FACTS, "azaion_training_figure", device="gpu0", figure="mAP50-95") is None
    assert value(FACTS, "azaion_training_figure", device="gpu0", figure="x") is None
    assert value(FACTS, "azaion_device_leased", device="gpu1") == 0
    assert value(FACTS, "azaion_gpu_utilization_ratio", device="gpu0") == 0.97
    assert value(FACTS, "azaion_gpu_up", device="gpu0") == 1
    assert value(FACTS, "azaion_gpu_up", device="gpu1") == 0
    assert value(FACTS, "azaion_consumer_state", state="consuming") == 1
    assert value(FACTS, "azaion_consumer_lag_seconds") == 0
    assert value(replace(FACTS, consumer={"service": "waiting"}), "azaion_consumer_lag_seconds") is None
    assert value(replace(FACTS, consumer={"service": "waiting"}), "azaion_consumer_state", state="down") == 1
    assert value(FACTS, "azaion_service_state", service="web", state="ready") == 1
    assert value(FACTS, "azaion_service_state", service="web", state="failed") == 0
    # The muted one does not count.
    assert value(FACTS, "azaion_health") == 1
    assert value(FACTS, "azaion_health_check", check="disk", subject="/azaion") == 2
    assert value(FACTS, "azaion_health_check_muted", check="disk", subject="/azaion") == 1
    assert (value(FACTS, "process_resident_memory_bytes") or 0) > 1 << 20


def test_a_driver_that_does_not_answer_is_no_gpu() -> None:
    silent = replace(FACTS, reading=Reading(problem="no answer"))
    assert value(silent, "azaion_gpu_up", device="gpu0") == 0
    assert value(silent, "azaion_gpu_temperature_celsius", device="gpu0") is None
    assert value(replace(FACTS, reading=None), "azaion_gpu_up", device="gpu0") is None


def test_prometheus_finds_nothing_to_blame_in_the_names() -> None:
    assert checked("check", "metrics", told=metrics.exposition(FACTS)) == ""
    assert (
        "counter metrics should have"
        in subprocess.run(
            [promtool(), "check", "metrics"],
            input=metrics.exposition(FACTS).replace(b"azaion_events_total", b"azaion_events"),
            capture_output=True,
            check=False,
        ).stderr.decode()
    )


# Counting.


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (None, "none"),
        ("exit:7", "exit"),
        ("signal:9", "signal"),
        ("oom:gpu", "oom:gpu"),
        ("lost:shim", "lost:shim"),
        ("refused:model", "refused:model"),
        ("hang", "hang"),
        ("something:new", "other"),
    ],
)
def test_there_are_few_causes(cause: str | None, told: str) -> None:
    assert bounded(cause) == told
    assert told in {"none", *BOUNDED}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_waits_for_something_else_does_not_count_as_waiting(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path / "jobs.sqlite", clock)

    def submit(**more: Any) -> int:
        return store.submit(Submission(kind=Kind.COMMAND, name="x", parameters={}, owner="me", **more)).id

    def waiting() -> float:
        return tally(tmp_path / "jobs.sqlite", clock.now).waiting_s

    assert waiting() == 0.0
    submit(held=True)
    submit(begins=5000.0)
    first = submit()
    submit(after=first)
    clock.now = 1100.0
    assert waiting() == 100.0
    attempt = store.reserve(first, ["cpu"])
    assert waiting() == 0.0
    store.started(first, Identity(1, 1), clock.now)
    clock.now = 1500.0
    ok = Decision(state=State.SUCCEEDED, cause=None, reason="", failures=0, interruptions=0, verified_epoch=0)
    store.finish(first, attempt, Ending(source=Source.EXIT, code=0), ok)
    clock.now = 1510.0
    assert waiting() == 10.0
    found = tally(tmp_path / "jobs.sqlite", clock.now)
    assert found.jobs[Kind.COMMAND, State.QUEUED] == 2
    assert found.jobs[Kind.COMMAND, State.SUCCEEDED] == 1
    assert found.jobs[Kind.TRAIN, State.FAILED] == 0
    assert (found.attempts["none"], found.attempts["exit"]) == (1, 0)
    store.close()


# What is made of it.


def expressions(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for name, inner in tree.items():
            if name == "expr":
                yield str(inner)
            else:
                yield from expressions(inner)
    elif isinstance(tree, list):
        for inner in tree:
            yield from expressions(inner)


def asked(given: Iterable[str]) -> set[str]:
    return {name for each in given for name in re.findall(r"\b(?:azaion|process)_[a-z0-9_]+", each)}


def test_the_rules_fire_when_they_should_and_ask_for_what_there_is(tmp_path: Path) -> None:
    text = RULES.read_text(encoding="utf-8")
    assert asked(re.findall(r"expr: (.*)", text)) <= names()
    assert "SUCCESS" in checked("check", "rules", str(RULES))
    checked("test", "rules", RULES_TEST.name, folder=RULES_TEST.parent)
    alerts = set(re.findall(r"- alert: (\w+)", text))
    assert alerts == set(re.findall(r'alertname="(\w+)"', RULES_TEST.read_text(encoding="utf-8")))
    # One that never fires is found.
    shutil.copy(RULES_TEST, tmp_path)
    (tmp_path / RULES.name).write_text(text.replace("< 0.05", "< 0.0005"), encoding="utf-8")
    with pytest.raises(AssertionError, match="AzaionDiskFull"):
        checked("test", "rules", RULES_TEST.name, folder=tmp_path)


def test_the_dashboard_asks_for_what_there_is(tmp_path: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    given = list(expressions(dashboard))
    assert len(given) > 30
    assert asked(given) <= names()
    rules = [{"record": f"x{number}", "expr": each.replace("$instance", ".*")} for number, each in enumerate(given)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "x", "rules": rules}]}), encoding="utf-8")
    assert "SUCCESS" in checked("check", "rules", str(file))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert all(panel["targets"] for panel in panels)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_metric_stands_in_the_monitoring_page() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    for name in names():
        assert name.startswith("process_") or f"`{name}`" in page or f"`{name}{{" in page, name
