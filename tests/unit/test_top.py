"""What stands on the screen: at any width, whatever a job is called, whatever is known."""

import time
from typing import Any

import pytest

from supervisor.control.protocol import stamp
from supervisor.top import actions, header, panels, plots, table
from supervisor.top.actions import Action, Question
from supervisor.top.plots import Series
from supervisor.top.source import Away, Look, Wish

NOW = 1_800_000_000.0


def job(number: int = 7, state: str = "running", **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "kind": "train",
        "name": "yolo26m",
        "state": state,
        "cause": None,
        "reason": "",
        "priority": 0,
        "after": None,
        "created": stamp(time.time() - 60),
        "started": None if state in {"held", "queued"} else stamp(time.time() - 30),
        "ended": stamp(time.time() - 5) if state in {"succeeded", "failed", "cancelled"} else None,
        "progress": None,
        "artifacts": {},
        "attempts": [],
    } | more


def look(*jobs: dict[str, Any], **more: Any) -> Look:
    status: dict[str, Any] = {
        "daemon": {"version": "1.2.3", "uptime_s": 4000.0},
        "consumer": {"service": "running", "state": "consuming", "offset": 12345, "lag": 7, "lag_s": 3.0, "rate": 2.5},
        "jobs": {
            "counts": {"running": 1, "succeeded": 3},
            "active": [each for each in jobs if each["state"] in {"starting", "running", "stopping"}],
            "waiting": [each for each in jobs if each["state"] in {"held", "queued"}],
        },
        "maintenance": None,
        "gpus": [{"device": "gpu0", "job": 7, "total": 48 << 30, "free": 12 << 30, "busy_percent": 97, "celsius": 71}],
        "disk": [{"path": "/azaion", "used_percent": 43.0, "free": 1 << 40}],
        "alerts": [],
    } | more.pop("status", {})
    ended = [each for each in jobs if each["ended"]]
    return Look(wish=Wish(), at=NOW, status=status, ended=ended, job=jobs[0] if jobs else None, **more)


def finding(verdict: str, name: str, **more: Any) -> dict[str, Any]:
    given = {"check": name, "subject": "", "verdict": verdict, "text": "is so", "advice": "do this", "mute": None}
    return given | more


def test_the_worst_stands_first_with_what_to_do() -> None:
    health = {
        "verdict": "critical",
        "findings": [
            finding("ok", "clock"),
            finding("warning", "memory"),
            finding("critical", "disk", subject="/azaion"),
            finding("critical", "broker", mute={"until": "", "reason": "", "by": ""}),
        ],
    }
    lines = [str(line) for line in header.header(look(status={"health": health}), None, NOW, 80, 3)]
    assert lines[0].startswith(" CRITICAL   azaion 1.2.3, up 1h 6m")
    assert lines[1].strip() == "consumer  consuming, offset 12,345, lag 7 (3s), 2.5/s"
    assert lines[2].strip() == "devices   gpu0 job 7, 97 %, 36.0 of 48 GiB, 71 °C"
    assert lines[-2:] == ["CRITICAL disk /azaion: is so -> do this", "WARNING memory: is so -> do this"]
    many = {"verdict": "warning", "findings": [finding("warning", f"check{number}") for number in range(9)]}
    cut = [str(line) for line in header.header(look(status={"health": many}), None, NOW, 80, 3)]
    assert sum("WARNING check" in line for line in cut) == 2
    assert cut[-1].startswith("and 7 more: azaionctl health")


def test_an_alert_is_a_warning_also_where_health_is_well() -> None:
    alert = {"job": 3, "since": stamp(time.time() - 700), "text": "needs 14 GiB"}
    status = {"alerts": [alert], "health": {"verdict": "ok", "findings": []}}
    lines = [str(line) for line in header.header(look(status=status), None, NOW, 80, 3)]
    assert lines[0].startswith(" WARNING ")
    assert "ALERT job 3: needs 14 GiB, for 11m 40s" in lines
    drained = {"reason": "new driver", "by": "eva", "since": stamp(NOW), "stop_running": False}
    assert "DRAINED by eva: new driver" in str(header.header(look(status={"maintenance": drained}), None, NOW, 80, 3))


def test_a_daemon_that_is_away_is_said_to_be_and_what_was_known_stays() -> None:
    away = Away(since=NOW + 4, why="no azaiond listens")
    lines = [str(line) for line in header.header(look(job()), away, NOW + 10, 80, 3)]
    assert lines[0].startswith(" NOT REACHABLE  since ")
    assert lines[0].endswith("for 6s; this is how it was 10s ago")
    assert lines[1].strip() == "no azaiond listens"
    assert lines[2].startswith("consumer  consuming")
    assert str(header.header(None, None, NOW, 80, 3)[0]) == " asking azaiond ..."
    assert str(header.header(look(), None, NOW + 60, 120, 3)[0]).endswith("as of 1m 0s ago")


NAMES = ["[red]x[/red]", "\x1b[31mx\x1b]0;title\x07", "a\nb\tc\r", "日本語" * 40, "[/]", "\u202egnp.exe", "x" * 300, ""]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_every_line_fits_and_hides_nothing_that_acts(name: str, width: int) -> None:
    told = {"phase": name, "epoch": 3, "epochs": 9, "batch": 2, "batches": 4, "eta_s": 9.0, "metrics": {}}
    rows = [
        job(1, name=name, progress=told),
        job(2, "queued", name=name, reason=name),
        job(3, "failed", name=name, reason=name),
        job(4, name=name, progress=told | {"epochs": 0}),
    ]
    lines = [table.row(each, width) for each in rows]
    # The columns before the name have their own width, and the screen cuts them.
    assert {line.cell_len for line in lines} <= {width, max(width, 31)}
    for each in rows:
        seen = look(each, lines=[name] * 3, status={"alerts": [{"service": name, "since": stamp(NOW), "text": name}]})
        shown = [*panels.details(seen, width, 9), *header.header(seen, None, NOW, width, 3)]
        assert all(line.cell_len <= width for line in shown)
        lines += shown
    assert all(line.plain.isprintable() for line in lines)
    assert panels.title(rows[0]).isprintable()


def test_what_runs_comes_first_and_what_has_ended_meanwhile_is_shown_once() -> None:
    seen = look(job(5, "failed"), job(3, "queued"), job(9, "running"))
    assert [each["id"] for each in table.jobs(seen)] == [9, 3, 5]
    ended_meanwhile = Look(wish=Wish(), at=NOW, status=look(job(9)).status, ended=[job(9, "succeeded")])
    assert [(each["id"], each["state"]) for each in table.jobs(ended_meanwhile)] == [(9, "succeeded")]


def test_the_details_use_the_room_that_there_is() -> None:
    told = {
        "epochs": [1, 2, 3],
        "metrics": {
            "train/box_loss": [3.0, 2.0, 1.0],
            "train/cls_loss": [1.0, None, 0.5],
            "mAP50": [0.1, 0.3, 0.6],
        },
    }
    progress = {"phase": "training", "epoch": 4, "epochs": 8, "batch": 1, "batches": 2, "eta_s": 60.0, "metrics": {}}
    seen = look(job(progress=progress), curves=told, lines=[f"line {number}" for number in range(50)])
    short = [str(line).rstrip() for line in panels.details(seen, 80, 8)]
    assert "44 %  training, epoch 4/8, batch 1/2  ETA 1m 0s  started 30s ago" in short[0]
    assert short[1].startswith("loss          1.500 ")
    assert short[2].startswith("mAP50         0.600 ")
    assert short[3:] == [f"line {number}" for number in range(45, 50)]
    # Eight epochs in 60 columns: seven columns each, and a gap where nobody knew.
    drawn = short[1][20:]
    assert len(drawn) == 21
    assert drawn[7:14] == " " * 7
    assert len(panels.details(seen, 80, 40)) == 40
    assert len(panels.details(seen, 80, 1)) == 1
    assert "submit-train" in str(panels.details(look(), 80, 8)[0])


def test_the_machine_over_time_leaves_gaps_where_nothing_was_told() -> None:
    times = [NOW - 1800, NOW - 1790, NOW - 10]
    series: dict[str, list[float | None]] = {
        "lag": [50.0, 150.0, None],
        "rate": [0.0, 0.0, 0.0],
        "memory_percent": [10.0, 10.0, 10.0],
        "loop_late_s": [0.0, 0.0, 2.0],
        "gpu0.busy_percent": [100.0, 100.0, 50.0],
        "gpu0.memory_percent": [None, None, None],
        "gpu0.celsius": [70.0, 70.0, 70.0],
    }
    seen = look(history={"times": times, "series": series})
    lines = [str(line) for line in panels.machine(seen, 80, 9, NOW)]
    assert lines[0] == "gpu0 busy      50 % " + " " * 30 + "█" + " " * 28 + "▄"
    assert lines[1].split() == ["gpu0", "mem", "?"]
    assert lines[2] == "lag             100 " + " " * 30 + "█"
    assert lines[-1].endswith("█")
    assert str(panels.machine(look(), 80, 9, NOW)[0]) == "no samples yet"


def test_a_plot_shows_its_bounds_and_even_the_smallest_value() -> None:
    assert plots.columns([0.0, 0.5, 1.0, None], 0.0, 1.0, 2) == ["  █ ", "▁██ "]
    assert plots.columns([5.0, 5.0], 5.0, 5.0, 1) == ["▁▁"]
    high = plots.plot(Series(name="mAP50", values=[0.0, 0.25], low=0.0, digits=2), 40, 3)
    assert [line[:19] for line in high] == ["mAP50          0.25", " " * 9 + "0.00..0.25", " " * 19]
    assert plots.squeezed([1.0, 3.0, None, None], 2) == [2.0, None]


@pytest.mark.parametrize(
    ("action", "state", "says"),
    [
        (Action.CANCEL, "running", "SIGKILL after 30 s. Epochs since the last checkpoint are lost."),
        (Action.CANCEL, "queued", "will not start"),
        (Action.STOP, "running", "at the next epoch boundary, with a checkpoint"),
        (Action.HOLD, "queued", "until it is released"),
        (Action.RELEASE, "held", "when its turn comes"),
        (Action.RETRY, "failed", "begins from the start"),
        (Action.PRIORITY, "held", "Higher goes first"),
    ],
)
def test_a_question_names_the_job_and_what_will_happen(action: Action, state: str, says: str) -> None:
    asked = actions.question(action, job(7, state, name="[b]nightly[/b]"))
    assert isinstance(asked, Question)
    assert "job 7, [b]nightly[/b]?" in asked.title
    assert says in asked.text


@pytest.mark.parametrize(
    ("action", "state"),
    [
        (Action.CANCEL, "succeeded"),
        (Action.STOP, "queued"),
        (Action.HOLD, "running"),
        (Action.RELEASE, "queued"),
        (Action.RETRY, "running"),
        (Action.PRIORITY, "failed"),
    ],
)
def test_what_makes_no_sense_is_not_asked_but_explained(action: Action, state: str) -> None:
    told = actions.question(action, job(7, state))
    assert isinstance(told, str)
    assert told.startswith(f"job 7 is {state}: ")


def test_only_a_priority_sends_a_number() -> None:
    asked = actions.question(Action.PRIORITY, job(7, "queued", priority=3))
    assert isinstance(asked, Question)
    assert asked.number == 3
    assert actions.request(asked, -2) == ("/v1/jobs/7/priority", {"priority": -2})
    held = actions.question(Action.HOLD, job(7, "queued"))
    assert isinstance(held, Question)
    assert actions.request(held) == ("/v1/jobs/7/hold", None)
    assert actions.toggled(job(7, "held")) is Action.RELEASE
