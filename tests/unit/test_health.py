"""Verdicts: thresholds, steadiness, and what each check makes of its facts."""

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from azaion.declarations import health as declared
from azaion.declarations.health import CHECKS
from azaion.layout import Layout
from supervisor.commands import health as command
from supervisor.commands import status
from supervisor.gpus import Gpu, Reading, Tenant, Xid, xids
from supervisor.health import annotations, disks, gpus, memory, network, state, steadiness, work
from supervisor.health.annotations import Course, Rate, Words, judge_life, judge_offset
from supervisor.health.disks import Filling, Usage
from supervisor.health.looks import Check, Levels, Seen, UnreadableError
from supervisor.health.machine import Clocks, Jumps
from supervisor.health.model import Finding, Mute, Verdict, gravest, overall
from supervisor.health.network import Contact, Place
from supervisor.health.room import pause
from supervisor.jobs.stillness import Standstill
from supervisor.services import ServiceState
from supervisor.units.model import UnitState

SEEDS: Final = int(os.environ.get("AZAION_SIMULATIONS", "200"))
FIRST: Final = int(os.environ.get("AZAION_SEED", "0"))

OK, WARNING, CRITICAL, UNKNOWN = Verdict.OK, Verdict.WARNING, Verdict.CRITICAL, Verdict.UNKNOWN
DISK: Final = Levels(warning=80, critical=95)
DAYS: Final = Levels(warning=21, critical=7)


# Verdicts.


def finding(verdict: Verdict, name: str = "disk", since: float = 0.0, mute: Mute | None = None) -> Finding:
    return Finding(check=name, verdict=verdict, text="", since=since, mute=mute)


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%41", "a b"])
def test_the_database_is_looked_at_where_it_is(tmp_path: Path, name: str) -> None:
    layout = Layout(root=tmp_path, state=tmp_path / name, spool=tmp_path / "spool", socket=tmp_path / "socket")
    layout.state.mkdir()
    layout.database.write_bytes(b"This is no database at all." * 100)
    assert "not a database" in state.read(layout).damage
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_exit_code_is_the_worst_that_is_known_and_not_muted() -> None:
    muted = finding(CRITICAL, mute=Mute(until=1.0))
    assert overall([]) is UNKNOWN
    assert overall([muted]) is OK
    assert overall([finding(OK), finding(UNKNOWN), muted]) is UNKNOWN
    assert overall([finding(WARNING), finding(UNKNOWN)]) is WARNING
    assert [verdict.code for verdict in (OK, WARNING, CRITICAL, UNKNOWN)] == [0, 1, 2, 3]
    assert {verdict: verdict.code for verdict in Verdict} == command.CODES
    assert sorted(Verdict, key=lambda verdict: -verdict.gravity) == sorted(command.RANKS, key=command.RANKS.__getitem__)
    order = [
        finding(UNKNOWN, "a"),
        finding(CRITICAL, "b", since=2),
        finding(CRITICAL, "c", since=1),
        finding(OK, "d"),
        muted,
    ]
    assert [each.check for each in gravest(order)] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("levels", "value", "strict", "eased"),
    [
        (DISK, 79.9, OK, WARNING),
        (DISK, 78.3, OK, OK),
        (DISK, 80.0, WARNING, WARNING),
        (DISK, 94.9, WARNING, CRITICAL),
        (DISK, 95.0, CRITICAL, CRITICAL),
        (DAYS, 21.1, OK, WARNING),
        (DAYS, 21.0, WARNING, WARNING),
        (DAYS, 7.0, CRITICAL, CRITICAL),
        (DAYS, -1.0, CRITICAL, CRITICAL),
        (Levels(), 1e9, OK, OK),
        (Levels(warning=1), 5, WARNING, WARNING),
    ],
)
def test_thresholds_have_a_margin(levels: Levels, value: float, strict: Verdict, eased: Verdict) -> None:
    assert levels.judge(value) == (strict, eased)


# Steadiness.


class Watch:
    """Looks, a minute apart, and what is thought after each."""

    def __init__(self, looks: int = 1) -> None:
        self.looks = looks
        self.now = 0.0
        self.opinion: steadiness.Opinion | None = None

    def see(self, verdict: Verdict, eased: Verdict | None = None, pause: float = 60.0) -> Verdict:
        self.now += pause
        seen = Seen(verdict=verdict, eased=eased, text=str(verdict))
        if self.opinion is None:
            self.opinion = steadiness.first(seen, self.looks, self.now, self.now)
        else:
            self.opinion = steadiness.after(self.opinion, seen, self.looks, self.now, self.now)
        return self.opinion.verdict


def test_a_value_on_its_threshold_changes_the_verdict_once() -> None:
    course = Watch()
    seen = [course.see(*DISK.judge(value)) for value in (79.9, 80.0, 79.9, 80.1, 79.0, 80.0, 78.0, 79.9)]
    assert seen == [OK, WARNING, WARNING, WARNING, WARNING, WARNING, OK, OK]


def test_one_look_that_may_lie_worsens_nothing() -> None:
    course = Watch(looks=2)
    assert course.see(CRITICAL) is UNKNOWN  # nobody knows yet
    assert course.see(CRITICAL) is CRITICAL
    assert [course.see(verdict) for verdict in (OK, OK)] == [CRITICAL, OK]
    assert [course.see(verdict) for verdict in (CRITICAL, OK, CRITICAL, WARNING)] == [OK, OK, OK, WARNING]


def test_looks_that_fail_are_unknown_after_three_in_a_row_and_never_critical() -> None:
    course = Watch()
    assert [course.see(verdict) for verdict in (OK, UNKNOWN, UNKNOWN, OK)] == [OK] * 4
    assert [course.see(UNKNOWN) for _ in range(3)] == [OK, OK, UNKNOWN]
    assert course.see(OK) is OK
    course.see(CRITICAL)
    assert [course.see(UNKNOWN) for _ in range(2)] == [CRITICAL, CRITICAL]
    assert course.opinion is not None
    assert course.opinion.seen.text == "critical"  # the last that was known


def test_what_comes_back_again_and_again_must_stay_away_for_longer() -> None:
    course = Watch()
    for looks in (1, 2, 4, 8):
        assert course.see(CRITICAL) is CRITICAL
        assert [course.see(OK, pause=1) for _ in range(looks)] == [CRITICAL] * (looks - 1) + [OK]
    course.see(OK, pause=2 * steadiness.FLAP_S)
    assert [course.see(CRITICAL), course.see(OK)] == [CRITICAL, OK]


@pytest.mark.parametrize("block", range(4))
def test_no_storm_of_verdicts_whatever_is_seen(block: int) -> None:
    for seed in range(FIRST + block, FIRST + SEEDS, 4):
        chance = random.Random(seed)
        course = Watch(chance.choice([1, 2, 3]))
        worst, before = [], OK
        weights = [chance.random() ** 2 for _ in Verdict]
        for _ in range(600):
            verdict, eased = chance.choices(list(Verdict), weights, k=2)
            eased = max(verdict, eased, key=lambda each: each.gravity)
            now = course.see(verdict, None if UNKNOWN in {verdict, eased} else eased, pause=15.0)
            if now.gravity > max(before.gravity, UNKNOWN.gravity):
                worst.append(course.now)
            before = now
        hours = max((sum(start <= at < start + 3600 for at in worst) for start in worst), default=0)
        assert hours <= steadiness.MAX_DOUBLINGS + 5, seed


# Disks and memory.


def usage(percent: float = 50.0, **more: object) -> Usage:
    return replace(Usage(path=Path("/azaion"), total=1000, used=round(10 * percent)), **more)  # type: ignore[arg-type]


def test_a_disk() -> None:
    assert disks.judge(usage(81), DISK, None, 0.0).verdict is WARNING
    gone = disks.judge(usage(problem="it is not there"), DISK, None, 0.0)
    assert gone.verdict is CRITICAL
    assert "findmnt" in gone.advice
    soon = disks.judge(usage(50), DISK, 5 * 3600.0, 0.0)
    assert soon.verdict is WARNING
    assert "full at about Thu 05:00 UTC" in soon.text
    assert disks.judge(usage(50), DISK, 20 * 3600.0, 0.0).verdict is OK
    full = disks.judge_files(usage(files=100, files_used=96), DISK)
    assert full is not None
    assert full.verdict is CRITICAL
    assert disks.judge_files(usage(), DISK) is None


def test_when_a_disk_will_be_full_is_told_after_an_hour_and_not_by_a_burst() -> None:
    filling = Filling()
    told = [filling.full_in(usage(used=100 + minute), 60.0 * minute) for minute in range(0, 65, 5)]
    assert told[:12] == [None] * 12
    assert told[12] == pytest.approx((1000 - 160) * 60)
    filling = Filling()
    for minute in range(0, 120, 5):
        after = filling.full_in(usage(used=100 if minute < 115 else 800), 60.0 * minute)
    assert after is None


def test_paths_on_one_filesystem_are_one_and_a_root_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert [each.path for each in disks.usages([tmp_path, tmp_path / "data"])] == [tmp_path]
    (found,) = disks.usages([tmp_path / "gone"])
    assert "mounted" in found.problem


def test_memory(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 80 kB\nSwapTotal: 10 kB\nSwapFree: 10 kB\n")
    (tmp_path / "vmstat").write_text("nr_free_pages 1\noom_kill 3\n")
    found = memory.read(tmp_path)
    assert (found.pressure, found.killed) == (None, 3)
    assert memory.judge_pressure(found, DISK) is None
    seen = memory.judge(found, Levels(warning=90, critical=97))
    assert seen.verdict is WARNING
    assert seen.value == pytest.approx(92)
    assert "does not measure pressure" in seen.text
    assert memory.judge(replace(found, available=500 << 10, swap_free=0), DISK).verdict is WARNING
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "memory").write_text(
        "some avg10=9 avg60=90.00 total=1\nfull avg10=1 avg60=41.50 total=1\n"
    )
    pressed = memory.judge_pressure(memory.read(tmp_path), Levels(warning=10, critical=40))
    assert pressed is not None
    assert (pressed.verdict, pressed.value) == (CRITICAL, 41.5)
    (tmp_path / "meminfo").unlink()
    with pytest.raises(UnreadableError):
        memory.read(tmp_path)


def test_kills_are_told_for_an_hour() -> None:
    kills, levels = memory.Kills(), Levels(warning=1)
    assert kills.judge(None, levels, 0) is None
    seen = [kills.judge(count, levels, at) for at, count in ((0, 7), (60, 9), (3000, 9), (3700, 9))]
    assert [each.verdict for each in seen if each] == [OK, WARNING, WARNING, OK]
    assert seen[1] is not None
    assert seen[1].value == 2


def test_a_jump_of_the_clock_is_told_for_an_hour() -> None:
    jumps, levels = Jumps(), Levels(warning=2)
    looks = [(0.0, 0.0), (60.0, 60.5), (120.0, 3720.0), (180.0, 3780.0), (3800.0, 7400.0)]
    verdicts = [jumps.judge(Clocks(boottime=boot, wall=wall), levels).verdict for boot, wall in looks]
    assert verdicts == [OK, OK, WARNING, WARNING, OK]
    back = jumps.judge(Clocks(boottime=3860.0, wall=60.0), levels)
    assert "jumped back by" in back.text


# The consumer.


def spoken(at: float, **more: object) -> Words:
    said = Words(monotonic=at, pid=7, state="consuming", updated=at, offset=int(at), messages=5)
    return replace(said, **more)  # type: ignore[arg-type]


def course(*found: Words) -> Course:
    made = Course(last=found[0], interval_s=60.0)
    for each in found[1:]:
        made = made.after(each)
    return made


def frozen(until: float, **more: object) -> Course:
    """A consumer that has said its last word at 0, looked at every minute."""
    return course(*(spoken(60.0 * k, updated=0.0, offset=0, **more) for k in range(int(until / 60) + 1)))


def test_a_silent_consumer_is_critical_and_killed_only_if_messages_wait_for_long() -> None:
    assert judge_life(frozen(60)).verdict is OK
    silent = judge_life(frozen(120))
    assert (silent.verdict, silent.sure) == (CRITICAL, False)
    assert not frozen(540).must_be_killed
    assert frozen(600).must_be_killed
    assert not frozen(6000, messages=0).must_be_killed
    assert not frozen(6000, messages=None).must_be_killed
    assert not frozen(6000, service=ServiceState.WAITING, pid=None).must_be_killed


def test_one_that_speaks_is_never_killed_and_neither_is_one_that_nobody_has_looked_at() -> None:
    blocked = course(*(spoken(60.0 * k, offset=0, state="blocked") for k in range(100)))
    assert not blocked.must_be_killed
    assert judge_life(blocked).verdict is CRITICAL
    # The machine slept, or azaiond was stopped: two looks, hours apart.
    assert not course(spoken(0.0), spoken(9000.0, updated=0.0)).must_be_killed
    # Its words do not get to the disk, its work does.
    assert not course(*(spoken(60.0 * k, updated=0.0) for k in range(100))).must_be_killed
    assert not frozen(6000, state="waiting-for-lock").must_be_killed
    another = frozen(600).after(spoken(660.0, pid=8, updated=None))
    assert not another.must_be_killed


@pytest.mark.parametrize(
    ("more", "verdict", "said"),
    [
        ({"service": ServiceState.REFUSED}, CRITICAL, "configuration"),
        ({"service": ServiceState.WAITING, "pid": None}, CRITICAL, "does not run"),
        ({"stopped": True}, CRITICAL, "kill -CONT 7"),
        ({"state": "retrying", "error": "no space"}, CRITICAL, "no space"),
        ({"state": "disconnected"}, WARNING, "broker"),
        ({"state": "starting"}, OK, "starting"),
    ],
)
def test_what_the_consumer_says(more: dict[str, object], verdict: Verdict, said: str) -> None:
    seen = judge_life(course(spoken(0.0, **more)))
    assert seen.verdict is verdict
    assert said in f"{seen.text} {seen.advice}"


def test_a_broker_that_is_away_for_long_is_critical() -> None:
    away = [spoken(60.0 * k, state="disconnected", offset=0) for k in range(31)]
    assert judge_life(course(*away[:-1])).verdict is WARNING
    seen = judge_life(course(*away))
    assert (seen.verdict, seen.text[:37]) == (CRITICAL, "has had no connection to the broker f")
    assert judge_life(course(*away, spoken(1860.0))).verdict is OK


def test_an_offset_is_stale_only_if_messages_wait() -> None:
    levels = Levels.of(CHECKS["offset"])
    stands = course(*(spoken(60.0 * k, offset=3, lag_s=60.0 * k) for k in range(31)))
    seen = judge_offset(stands, levels)
    assert (seen.verdict, seen.value) == (WARNING, 1800)
    assert seen.text == "at 3 has not moved for 30 min, 5 messages wait, the oldest for 30 min"
    assert judge_offset(stands.after(spoken(1860.0, offset=4)), levels).verdict is OK
    idle = course(*(spoken(60.0 * k, offset=3, messages=0) for k in range(200)))
    assert judge_offset(idle, levels).verdict is OK
    assert judge_offset(frozen(600, messages=0), levels).verdict is UNKNOWN


def test_what_the_stream_holds_counts_where_its_reader_is_silent(tmp_path: Path) -> None:
    status = {"service": "running", "pid": None, "offset": 5, "lag": 0}
    assert annotations.words_of(status, 0.0, 4, proc=tmp_path).messages == 0
    assert annotations.words_of(status, 0.0, 7, proc=tmp_path).messages == 3
    # It cannot write what it does, and does it.
    full = annotations.words_of(status | {"lag": 4}, 0.0, 7, 8, proc=tmp_path)
    assert (full.offset, full.messages) == (8, 1)
    assert annotations.words_of(status | {"lag": 2}, 0.0, 7, 8, proc=tmp_path).messages == 0
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "stat").write_text("9 (a ) b) T 1 9 9")
    assert annotations.words_of({**status, "pid": 9}, 0.0, proc=tmp_path).stopped


def test_the_rate_of_bad_messages() -> None:
    rate, levels = Rate(), Levels(warning=10, critical=200)
    counts = [(0.0, 5), (300.0, 10), (600.0, 2), (900.0, 9), (5000.0, 9)]
    seen = [rate.judge(spoken(at, quarantined=count), levels) for at, count in counts]
    assert [each.value for each in seen] == [0, 5, 5, 12, 0]
    assert [each.verdict for each in seen] == [OK, OK, OK, WARNING, OK]


# GPUs, work, state, network.


WELL: Final = Gpu(number=0, name="A100", total=80 << 30, free=79 << 30, temperature=50, ecc_errors=0)


@pytest.mark.parametrize(
    ("gpu", "verdict", "said"),
    [
        (WELL, OK, "A100, 50 °C, 79.0 GiB of 80.0 GiB free"),
        (None, CRITICAL, "fallen off the bus"),
        (Gpu(number=0, problem="GPU is lost"), CRITICAL, "GPU is lost"),
        (replace(WELL, temperature=89), WARNING, "89 °C"),
        (replace(WELL, temperature=96), CRITICAL, "96 °C"),
        (replace(WELL, slowed=("heat",)), WARNING, "heat"),
        (replace(WELL, ecc_errors=2), CRITICAL, "2 uncorrected ECC errors"),
        (replace(WELL, remapping_pending=True), WARNING, "reset"),
        (replace(WELL, remapping_failed=True), CRITICAL, "damaged"),
        (replace(WELL, xids=(Xid(number=79, age_s=60, text="gone"),)), CRITICAL, "XID 79 60 s ago"),
        (replace(WELL, xids=(Xid(number=32, age_s=60, text=""),)), WARNING, "XID 32"),
        (replace(WELL, xids=(Xid(number=31, age_s=60, text=""), Xid(number=79, age_s=1e5, text=""))), OK, "A100"),
        (replace(WELL, tenants=(Tenant(pid=5, name="game", used=1 << 30),)), WARNING, "game 5"),
        (replace(WELL, tenants=(Tenant(pid=5, name="python", nonce="ours", used=1 << 30),)), OK, "A100"),
    ],
)
def test_a_gpu(gpu: Gpu | None, verdict: Verdict, said: str) -> None:
    reading = Reading(gpus=(gpu,) if gpu is not None else ())
    (seen,) = gpus.judge([0], reading, Levels.of(CHECKS["gpu"]))
    assert seen.verdict is verdict
    assert said in seen.text
    assert bool(seen.advice) or verdict is OK


def test_a_driver_that_does_not_answer_is_unknown_and_one_that_is_gone_is_critical() -> None:
    with pytest.raises(UnreadableError):
        gpus.judge([0], Reading(problem="no answer"), Levels())
    assert [seen.verdict for seen in gpus.judge([0, 1], Reading(absent="no driver"), Levels())] == [CRITICAL] * 2


def test_cards_without_a_driver_are_counted(tmp_path: Path) -> None:
    for name, vendor, kind in (("a", "0x10de", "0x030200"), ("b", "0x10de", "0x040300"), ("c", "0x8086", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert gpus.cards(tmp_path) == 1
    assert gpus.cards(tmp_path / "absent") == 0


def test_faults_are_read_from_the_kernels_log(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("3,1200,5000000,-;NVRM: Xid (PCI:0000:3B:00): 79, pid=1, GPU has fallen off the bus.\n")
    (fault,) = xids(log)["0000:3b:00"]
    assert (fault.number, fault.text) == (79, "pid=1, GPU has fallen off the bus.")
    log.write_text("6,1,5,-;usb 1-1: new device\n")
    assert xids(log) == xids(tmp_path / "absent") == {}


def test_trainings_and_services() -> None:
    levels = Levels.of(CHECKS["training"])
    found = {
        1: Standstill(still_s=10, limit_s=900, where="in phase training"),
        2: Standstill(still_s=500, limit_s=900, where="in phase training, epoch 3, batch 2 of 9"),
        3: Standstill(still_s=0, limit_s=900, where=""),
    }
    seen = work.judge_trainings(found, {3: 77}, levels)
    assert [(each.subject, each.verdict) for each in seen] == [("job 1", OK), ("job 2", WARNING), ("job 3", WARNING)]
    assert "has not moved for 8 min in phase training, epoch 3" in seen[1].text
    assert "kill -CONT 77" in seen[2].advice
    states = {state: work.judge_service("web", state, "").verdict for state in UnitState}
    assert {state for state, verdict in states.items() if verdict is not OK} == {UnitState.FAILED, UnitState.NOT_READY}


def test_the_state_and_its_secrets() -> None:
    levels = Levels.of(CHECKS["database"])
    assert state.judge(state.Database(write_s=0.001, bytes=5), levels).verdict is OK
    assert state.judge(state.Database(write_s=2.0), levels).verdict is WARNING
    assert state.judge(state.Database(damage="page 3"), levels).verdict is CRITICAL
    assert state.judge(state.Database(refused="No space left on device"), levels).verdict is CRITICAL
    days = [(Path("a"), 0.0), (Path("b"), 86400.0)]
    assert [seen.verdict for seen in state.judge_secrets(days, Levels(warning=90), 90 * 86400.0)] == [WARNING, OK]


def test_the_api_and_certificates() -> None:
    place = Place.of_url("https://api.example.com/v1")
    assert (place.host, place.port, place.tls) == ("api.example.com", 443, True)
    assert network.judge_api(place, Contact(expires=1.0)).verdict is OK
    silent = network.judge_api(place, Contact(problem="no answer", silent=True))
    assert (silent.verdict, silent.sure) == (CRITICAL, False)
    verdicts = [
        network.judge_certificate(place, Contact(expires=days * 86400.0), DAYS, 0.0) for days in (90.0, 20.0, 5.0)
    ]
    assert [seen.verdict for seen in verdicts] == [OK, WARNING, CRITICAL]
    assert {seen.subject for seen in verdicts} == {"api.example.com:443"}
    assert network.judge_certificate(place, Contact(problem="refused"), DAYS, 0.0).verdict is UNKNOWN


# What the user declares.


def test_a_declaration_changes_what_it_names_and_nothing_else() -> None:
    problems: list[str] = []
    found = declared.section({"checks": {"disk": {"warning": 70}, "certificate": {"warning": 30}}}, problems)
    assert problems == []
    assert found.checks["disk"] == replace(CHECKS["disk"], warning=70)
    assert found.checks["inodes"] == CHECKS["inodes"]
    assert declared.section({}, problems).checks == CHECKS


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"cheks": {}}, "health.cheks: unknown; did you mean checks?"),
        ({"checks": {"dsk": {}}}, "health.checks.dsk: unknown; did you mean disk?"),
        ({"checks": {"disk": {"warn": 1}}}, "health.checks.disk.warn: unknown; did you mean warning?"),
        ({"checks": {"disk": {"interval_s": 0}}}, "expected a number of seconds"),
        ({"checks": {"broker": {"critical": 5}}}, "health.checks.broker.critical: this check has no such threshold"),
        ({"checks": {"disk": {"warning": 99}}}, "critical (95) must lie above warning (99)"),
        ({"checks": {"certificate": {"critical": 30}}}, "critical (30) must lie below warning (21)"),
        ({"checks": {"certificate": {"warning": 7, "critical": 7}}}, "critical (7) must lie below warning (7)"),
        ({"checks": {"disk": 5}}, "expected keys with values"),
        ({"checks": 5}, "expected names of checks"),
        (5, "expected `checks:`"),
    ],
)
def test_a_wrong_declaration_is_refused(given: object, problem: str) -> None:
    problems: list[str] = []
    declared.section(given, problems)
    assert any(problem in each for each in problems), problems


# For people.


def test_the_status_begins_with_what_is_worst_and_what_to_do() -> None:
    def told(check: str, verdict: str, *, muted: bool = False) -> dict[str, object]:
        advice = "" if verdict == "ok" else f"mend {check}"
        mute = {"by": "anna", "until": "", "reason": ""} if muted else None
        return {"check": check, "subject": "", "verdict": verdict, "text": "text", "advice": advice, "mute": mute}

    def lines(verdict: str, *findings: dict[str, object]) -> list[str]:
        return status.health_lines({"verdict": verdict, "findings": list(findings)})

    assert lines("ok", told("a", "ok")) == ["health    ok"]
    assert lines("ok", told("a", "ok"), told("b", "critical", muted=True)) == ["health    ok (1 muted)"]
    assert lines("unknown") == ["health    unknown: nothing has been looked at yet"]
    several = [told("a", "unknown"), told("b", "warning"), told("c", "critical"), told("d", "warning"), told("e", "ok")]
    assert lines("critical", *several) == [
        "health    CRITICAL c: text",
        "          -> mend c",
        "          WARNING b: text",
        "          -> mend b",
        "          WARNING d: text",
        "          -> mend d",
        "          and 1 more; azaionctl health shows them all",
    ]


def test_the_screen_tells_the_worst_first_and_fits() -> None:
    def told(check: str, verdict: str, mute: dict[str, str] | None = None) -> dict[str, object]:
        since = "2026-11-22T10:00:00.000Z"
        advice = "" if verdict == "ok" else "do something about it " * 5
        return {
            "check": check, "subject": "/azaion", "verdict": verdict, "text": "t" * 30 + " \x1b[31m " + "u" * 60,
            "advice": advice, "since": since, "mute": mute,
        }  # fmt: skip

    mute = {"by": "anna", "until": "2026-11-22T12:00:00.000Z", "reason": "known"}
    drawn = command.screen(
        {"verdict": "critical", "findings": [told("a", "ok"), told("b", "warning", mute), told("c", "critical")]}
    )
    lines = drawn.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("CRITICAL  c /azaion")
    assert "\x1b" not in drawn
    assert drawn.index("ok        a") < drawn.index("WARNING   b")
    assert "muted by anna until 2026-11-22 12:00 UTC: known" in drawn


def test_every_check_stands_in_the_page_with_its_defaults() -> None:
    page = (Path(__file__).parents[2] / "docs" / "health.md").read_text(encoding="utf-8")
    rows = {row.split("`")[1]: row.split("|") for row in page.splitlines() if row.startswith("| `")}
    assert list(rows) == list(CHECKS)
    for name, settings in CHECKS.items():
        _, _, _, interval, warning, critical, *_ = rows[name]
        assert interval.strip() == f"{settings.interval_s:g} s", name
        for level, cell in ((settings.warning, warning), (settings.critical, critical)):
            assert level is None or f"{level:g}" in cell, name


def test_what_is_doubtful_is_looked_at_again_soon() -> None:
    async def nothing() -> list[Seen]:
        return []

    check = Check(name="api", look=nothing, interval_s=3600, again_s=60, looks=2)
    course = Watch(looks=2)
    pauses = []
    for verdict in (OK, CRITICAL, CRITICAL, OK, OK):
        course.see(verdict)
        assert course.opinion is not None
        pauses.append(pause(check, [course.opinion]))
    assert pauses == [3600, 15, 60, 60, 3600]
