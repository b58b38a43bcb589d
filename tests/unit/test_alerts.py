"""Alerts: what people hear whatever happens, simulated over a clock of its own; and the small parts."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from azaion.declarations import alerts as declared
from azaion.redaction import Redaction
from supervisor.alerts import judgement, letters, sources
from supervisor.alerts.judgement import CALM_S, FLAPS, HOUR_S, MAX_GAP_S, MAX_NEWS, decide
from supervisor.alerts.model import Condition, Level, Notice, Rules, State, What
from supervisor.alerts.outbox import DEAD, MAX_PARCELS, Outbox, Parcel, together
from supervisor.health.model import Finding, Mute, Verdict
from supervisor.jobs.events import Event
from workers import notify

RULES = Rules()
SEEDS = int(os.environ.get("AZAION_SIMULATIONS", "200"))
#: With these rules; gaps of 30, 60, 120, ... 300 s.
MOST_AN_HOUR = 15
#: A lasting condition may have been flapping before, and the message may have to wait for its gap.
BOUND_S = CALM_S + MAX_GAP_S + RULES.gather_s + 60


@dataclass
class World:
    """Looks at conditions as the room does, and writes down what people hear."""

    rules: Rules = RULES
    now: float = 1_000_000.0
    state: State = field(default_factory=State)
    messages: list[tuple[float, tuple[Notice, ...]]] = field(default_factory=list)

    def look(self, conditions: Mapping[str, Condition], *news: Notice, settled: bool = True) -> tuple[Notice, ...]:
        decision = decide(self.state, conditions, self.now, self.rules, news=news, settled=settled)
        self.state = decision.state
        if decision.notices:
            self.messages.append((self.now, decision.notices))
        return decision.notices

    def restart(self) -> None:
        """As the daemon keeps it."""
        self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=State)

    def run(self, seconds: float, conditions: Mapping[str, Condition], step: float = 5.0) -> list[Notice]:
        heard: list[Notice] = []
        end = self.now + seconds
        while self.now < end:
            heard += self.look(conditions)
            self.now += step
        return heard


def bad(level: Level | None = Level.CRITICAL, **more: Any) -> Condition:
    return Condition(kind="disk", level=level, text="95 % used", advice="make room", **more)


WELL = bad(Level.OK)


def news(name: str, time: float) -> Notice:
    return Notice(name=name, kind="finished", what=What.NEWS, level=Level.INFO, text="done", time=time)


def whats(notices: list[Notice]) -> list[str]:
    return [str(notice.what) for notice in notices]


# What people hear.


def test_a_condition_is_raised_reminded_of_and_resolved() -> None:
    world = World()
    assert whats(world.run(3600, {"disk": bad()})) == ["raised"]
    assert whats(world.run(3 * 3600 + 60, {"disk": bad()})) == ["still"]
    assert whats(world.run(3600, {"disk": WELL})) == ["resolved"]
    assert whats(world.run(2 * 86400, {"disk": WELL}, step=60)) == []
    assert not world.state.known


def test_a_warning_is_reminded_of_once_a_day_and_gets_worse_and_better() -> None:
    world = World()
    assert whats(world.run(86400 + 300, {"disk": bad(Level.WARNING)}, step=60)) == ["raised", "still"]
    worse = world.run(600, {"disk": bad()})
    eased = world.run(600, {"disk": bad(Level.WARNING)})
    assert whats(worse + eased) == ["worse", "eased"]
    # Whoever was told that it is critical must hear that it is not.
    assert eased[0].level is Level.CRITICAL
    assert whats(world.run(600, {})) == ["resolved"]


def test_what_is_over_before_the_message_goes_is_not_told() -> None:
    world = World()
    assert world.run(5, {"disk": bad()}) == []
    assert world.run(600, {"disk": WELL}) == []


def test_many_at_once_are_one_message() -> None:
    world = World()
    world.run(60, {f"disk {number}": bad() for number in range(500)})
    ((_, notices),) = world.messages
    assert len(notices) == 500
    parcel = letters.letter(notices, 0, "host", world.now)
    assert len(parcel.body) < 3000
    assert "and 480 more: azaionctl alerts" in parcel.body


def test_nothing_is_told_twice_after_a_restart_nor_taken_for_well_that_has_not_been_looked_at() -> None:
    world = World()
    world.run(60, {"disk": bad()})
    world.restart()
    for _ in range(20):
        world.look({}, settled=False)
        world.now += 5
    world.look({"disk": bad(None)})
    world.run(600, {"disk": bad()})
    assert len(world.messages) == 1
    assert whats(world.run(60, {})) == ["resolved"]


def test_flapping_is_told_once_and_then_only_what_it_ends_with() -> None:
    world = World()
    heard: list[Notice] = []
    for _ in range(200):
        heard += world.run(60, {"disk": bad()}) + world.run(60, {"disk": WELL})
    assert whats(heard).count("flapping") == 1
    assert len(heard) <= FLAPS + 1
    world.run(60, {"disk": bad()})
    assert [notice.what for notice in world.run(CALM_S + 60, {"disk": WELL})] == [What.RESOLVED]


def test_what_is_flapping_and_becomes_critical_is_told_at_once() -> None:
    world = World()
    for _ in range(20):
        world.run(60, {"disk": bad(Level.WARNING)})
        world.run(60, {"disk": WELL})
    (notice,) = world.run(MAX_GAP_S + 60, {"disk": bad()})
    assert (notice.what, notice.level) == (What.FLAPPING, Level.CRITICAL)


def test_what_is_muted_is_quiet_and_told_when_the_mute_ends() -> None:
    world = World()
    assert world.run(3600, {"disk": bad(quiet=True)}) == []
    assert whats(world.run(60, {"disk": bad()})) == ["raised"]
    assert world.run(86400, {"disk": bad(quiet=True)}, step=60) == []
    assert whats(world.run(60, {"disk": bad(Level.OK, quiet=True)})) == ["resolved"]


def test_news_beyond_the_limit_are_counted() -> None:
    world = World()
    for number in range(MAX_NEWS + 50):
        world.look({}, news(f"job {number}", world.now))
    world.now += 60
    decision = decide(world.state, {}, world.now, RULES)
    assert (len(decision.notices), decision.left_out) == (MAX_NEWS, 50)
    assert "and 50 more events of jobs" in letters.letter(decision.notices, 50, "host", world.now).body


def test_a_clock_that_goes_back_silences_nobody() -> None:
    world = World()
    world.run(60, {"disk": bad()})
    world.now -= 10 * 86400
    heard = world.run(RULES.remind_critical_s + 15, {"disk": bad(), "memory": bad()})
    assert sorted(whats(heard)) == ["raised", "still"]


def test_news_that_wait_while_the_clock_goes_back_are_told() -> None:
    world = World()
    world.look({}, news("job 1", world.now))
    world.now -= 10 * 3600
    assert [notice.name for notice in world.run(60, {})] == ["job 1"]


def test_thousands_of_messages_in_an_hour_are_no_trouble() -> None:
    world = World(rules=replace(RULES, gather_s=0, gap_s=0))
    for number in range(3000):
        world.look({}, news(f"job {number}", world.now))
        world.now += 1
    assert len(world.messages) == 3000


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_storm_whatever_happens_and_nothing_that_lasts_is_kept_from_people(seed: int) -> None:
    chance = random.Random(seed)
    world = World()
    names = [f"check {number}" for number in range(chance.choice([1, 3, 12]))]
    # From one that flaps at every look to one that hardly ever changes.
    pace = {name: chance.choice([1.0, 0.3, 0.05, 0.005]) for name in names}
    now = dict.fromkeys(names, WELL)
    began = dict.fromkeys(names, world.now)
    step = chance.choice([5.0, 30.0, 60.0])
    busy = chance.choice([0.0, 0.05, 1.0])
    for _ in range(300):
        for name in names:
            if chance.random() < pace[name]:
                level = chance.choice([Level.OK, Level.WARNING, Level.CRITICAL, None])
                now[name] = bad(level)
                began[name] = world.now
        happened = [news(f"job {chance.random()}", world.now)] if chance.random() < busy else []
        world.look(now, *happened)
        if chance.random() < 0.05:
            world.restart()
        for name in names:
            lasting = now[name].level is Level.CRITICAL and world.now - began[name] > BOUND_S
            assert not lasting or world.state.known[name].told is Level.CRITICAL, name
        world.now += step
    world.run(2 * BOUND_S + HOUR_S, {}, step=30)
    assert_resolved(world)
    assert_calm(world, names)


def assert_resolved(world: World) -> None:
    """Everything that was announced is resolved in the end, and nothing is remembered of it."""
    believed = {notice.name: notice.what for _, notices in world.messages for notice in notices}
    assert set(believed.values()) <= {What.RESOLVED, What.NEWS}
    assert world.state.known == {}
    assert world.state.news == ()


def assert_calm(world: World, names: list[str]) -> None:
    """There are few messages an hour, and few words of each condition."""
    times = [moment for moment, _ in world.messages]
    assert all(sum(one <= other < one + HOUR_S for other in times) <= MOST_AN_HOUR for one in times)
    for name in names:
        told = [at for at, notices in world.messages for notice in notices if notice.name == name]
        assert all(sum(one <= other < one + HOUR_S for other in told) <= 2 * FLAPS for one in told), name


# Where it comes from.


def test_what_is_unknown_is_a_warning_only_if_it_lasts() -> None:
    finding = Finding(check="disk", subject="/a", verdict=Verdict.UNKNOWN, text="?", since=0.0)
    assert sources.of_health([finding], 60.0)["disk /a"].level is None
    assert sources.of_health([finding], 3600.0)["disk /a"].level is Level.WARNING
    muted = replace(finding, verdict=Verdict.CRITICAL, mute=Mute(until=9.0))
    assert sources.of_health([muted], 1.0)["disk /a"].quiet


def test_news_of_jobs() -> None:
    kinds = ["started", "requeued", "started", "failed", "succeeded"]
    events = [
        Event(id=number, time=float(number), job=number, type=kind, text="why", actor="azaiond")
        for number, kind in enumerate(kinds)
    ]
    found = sources.of_events(events, lambda number: f"train {number}", lambda _number, time: time > 1)
    assert [letters.line(notice) for notice in found] == [
        "WARNING job 1: (train 1) was interrupted and will go on: why",
        "info job 2: (train 2) goes on",
        "WARNING job 3: (train 3) has failed: why",
        "info job 4: (train 4) has succeeded: why",
    ]


# The channels.


def parcel(time: float = 0.0, text: str = "a") -> Parcel:
    return Parcel(title=text, body=text * 1000, level=Level.WARNING, time=time)


def test_an_outbox_drops_the_oldest_and_counts_them() -> None:
    outbox = Outbox()
    for number in range(MAX_PARCELS + 5):
        outbox = outbox.filed(parcel(float(number)))
    assert (len(outbox.parcels), outbox.dropped, outbox.parcels[0].time) == (MAX_PARCELS, 5, 5.0)
    # The clock may have been set: how old they are says nothing.
    outbox = outbox.filed(parcel(1e9))
    assert (len(outbox.parcels), outbox.dropped) == (MAX_PARCELS, 6)
    assert len(together(outbox.parcels).body) < 7000


def test_a_channel_is_dead_after_some_failures_and_alive_after_a_success() -> None:
    outbox = Outbox().filed(parcel())
    for number in range(DEAD):
        assert not outbox.dead
        outbox = outbox.failed("refused", float(number))
    assert outbox.dead
    assert sources.of_channels({"ops": outbox})["channel ops"].level is Level.WARNING
    later = outbox.filed(parcel(5.0)).sent(outbox.parcels, 9.0)
    assert (later.dead, later.last_success, len(later.parcels)) == (False, 9.0, 1)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("json://user:hunter22@hooks.example.org:8080/deadbeef1?token=abcdef12", {"hooks.example.org"}),
        ("mailtos://bob:pw%21x@mail.example.org?to=ops@example.net", {"mail.example.org"}),
        ("slack://TokenAAAA/TokenBBBB/TokenCCCCCC", set()),
        ("tgram://123456789:abcdefg_hij/-4321987", set()),
    ],
)
def test_of_an_address_nothing_is_shown_but_its_host(url: str, shown: set[str]) -> None:
    hidden = Redaction(notify.parts(url))
    told = hidden.text(f"cannot reach {url} or {' or '.join(url.replace('@', '/').replace(':', '/').split('/'))}")
    for secret in ("hunter22", "deadbeef1", "abcdef12", "pw%21x", "TokenA", "TokenB", "TokenC", "123456789", "_hij"):
        assert secret not in told
    assert all(host in told for host in shown)


def test_why_a_message_is_not_taken_is_told_without_its_address() -> None:
    # As with many chats, the token stands where others have their host.
    url = "json://someone:9/hunter22"
    order = {"url": url, "title": "t", "body": "b", "level": "warning"}
    done = subprocess.run(
        [sys.executable, "-m", "workers.notify"], input=json.dumps(order).encode(), capture_output=True, check=True
    )
    assert b"Connection error" in done.stdout
    assert b"someone" not in done.stdout + done.stderr


# What is declared.


def test_a_declaration() -> None:
    problems: list[str] = []
    channels = {"ops": {"url": {"variable": "OPS_URL"}, "levels": ["critical"], "kinds": ["disk", "failed"]}}
    found = declared.section({"channels": channels, "remind_critical_s": 3600}, problems)
    assert not problems
    assert found.channels[0].levels == ("critical",)
    assert found.remind_warning_s == 86400
    assert found == replace(found, remind_critical_s=3600.0)


def test_what_is_wrong_with_a_declaration_is_named_without_the_address() -> None:
    problems: list[str] = []
    wrong = {"url": "nothing secretsecret", "levels": ["warm"], "kinds": ["disc"]}
    declared.section({"channels": {"ops": wrong, "Ops": {}}, "gather": 1}, problems)
    told = "\n".join(problems)
    assert "alerts.channels.ops.url: expected `{variable: NAME}`, or an address that Apprise knows" in told
    assert "did you mean disk?" in told
    assert "did you mean gather_s?" in told
    assert "alerts.channels.ops.levels: expected a list of: info, warning, critical" in told
    assert "alerts.channels.Ops: a name has small letters" in told
    assert "secretsecret" not in told
    good = declared.Channel(name="a", url="json://u:secretsecret@h")
    assert "secretsecret" not in repr(good)


def test_the_levels_that_are_declared_are_those_that_there_are() -> None:
    assert {str(level) for level in declared.Level} == {str(level) for level in Level} - {"ok"}
    assert judgement.MAX_GAP_S <= judgement.MAX_IDLE_GAP_S
