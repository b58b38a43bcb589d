"""When a training is due, over a clock that is set."""

import os
import random
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from azaion.declarations import retrain
from azaion.declarations.retrain import RetrainDeclaration
from azaion.layout import SnapshotFolder
from supervisor.retraining import fresh
from supervisor.retraining.decision import Past, Standing, Verdict, decide, past_of
from tests.training_runs import World

DAY = 86400.0
#: A Monday at noon.
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
#: Every night at two.
NIGHTLY = RetrainDeclaration(cron="0 2 * * *")
SIMULATIONS = int(os.environ.get("AZAION_SIMULATIONS", "300"))


def after(count: int, **more: Any) -> RetrainDeclaration:
    return RetrainDeclaration(annotations=count, **more)


def at(hour: float, **more: Any) -> Verdict:
    """The verdict so many hours after noon, on a rule that has been there since noon."""
    return decide(NIGHTLY, Standing(**{"new": 7, "since": NOON, **more}), NOON + 3600 * hour)


def test_it_is_due_when_enough_is_new() -> None:
    assert decide(after(500), Standing(new=312), NOON) == Verdict(text="312 of 500 new annotations", since=0.0)
    assert decide(after(500), Standing(new=500), NOON).due == "500 new annotations"
    assert decide(after(500), Standing(), NOON) == Verdict(text="? of 500 new annotations", since=0.0)


def test_what_one_was_filed_for_does_not_count_again_until_there_is_another_model() -> None:
    past = Past(basis="azaion-2026-11-01", new=500, filed=NOON)
    standing = Standing(basis="azaion-2026-11-01", new=999, past=past)
    assert decide(after(500), standing, NOON + 1) == Verdict(text="499 of 500 new annotations", since=0.0)
    assert decide(after(500), replace(standing, new=1000), NOON).due
    assert decide(after(500), replace(standing, basis="azaion-2026-11-23", new=500), NOON).due
    # Deleted annotations do not make it negative.
    assert decide(after(500), replace(standing, new=3), NOON).text == "0 of 500 new annotations"


def test_a_time_is_due_once_and_made_up_for_once() -> None:
    assert at(13.9).due == ""
    assert at(13.9).text == "Tue 2026-11-24 02:00 UTC"
    assert at(14.1).due == "it is past Tue 02:00 UTC"
    # It was away for three nights.
    assert at(14.1 + 72).due == "it is past Fri 02:00 UTC"
    past = Past(basis="", new=0, filed=NOON + 3600 * 14.1)
    assert at(14.2, past=past).due == ""
    assert at(38.1, past=past).due


def test_a_time_at_which_nothing_is_new_passes() -> None:
    verdict = at(14.1, new=0)
    assert (verdict.due, verdict.since) == ("", NOON + 3600 * 14.1)
    assert at(15, since=verdict.since).due == ""
    # As long as nobody has counted it does not.
    assert at(14.1, new=None) == Verdict(text="Wed 2026-11-25 02:00 UTC", since=NOON)


def test_what_is_in_its_way_is_told_and_it_comes_after() -> None:
    assert at(14.1, obstacle="job 7 is running") == Verdict(
        text="it is past Tue 02:00 UTC, but job 7 is running", since=NOON
    )
    assert at(20).due
    assert (
        decide(after(5), Standing(new=9, obstacle="job 7 is held"), NOON).text == "9 new annotations, but job 7 is held"
    )


def test_whichever_comes_first() -> None:
    both = RetrainDeclaration(annotations=500, cron="0 2 * * *")
    standing = Standing(new=7, since=NOON)
    assert decide(both, standing, NOON).text == "7 of 500 new annotations, or Tue 2026-11-24 02:00 UTC"
    assert decide(both, standing, NOON + DAY).due == "it is past Tue 02:00 UTC"
    assert decide(both, replace(standing, new=500), NOON).due == "500 new annotations"


def test_a_clock_that_is_set_back_stops_nothing() -> None:
    past = Past(basis="", new=0, filed=NOON + 1000 * DAY)
    found = decide(NIGHTLY, Standing(new=7, since=NOON + 1000 * DAY, past=past), NOON)
    assert found.since == NOON
    assert decide(NIGHTLY, Standing(new=7, since=found.since, past=replace(past, filed=NOON)), NOON + DAY).due


@pytest.mark.parametrize("basis", ["", "azaion-2026-11-01-2"])
def test_a_key_tells_all_of_it(basis: str) -> None:
    past = Past(basis=basis, new=500, filed=NOON)
    assert past_of(past.key) == past


@pytest.mark.parametrize("key", ["", "retrain", "retrain - x 1", "retrain - 1", "mine - 1 2", "retrain - 1 2 3"])
def test_other_keys_are_other_peoples(key: str) -> None:
    assert past_of(key) is None


@dataclass
class Life:
    """Annotations come, trainings end well or badly, the clock is set, the daemon is away."""

    rule: RetrainDeclaration
    dice: random.Random
    now: float = NOON
    new: int = 0
    basis: int = 0
    past: Past | None = None
    since: float = NOON
    training: bool = False


@pytest.mark.parametrize("part", range(3))
def test_simulation(part: int) -> None:
    seed = int(os.environ.get("AZAION_SEED", time.time_ns() % 1_000_000))
    for number in range(part, SIMULATIONS, 3):
        simulate(seed + number)


def simulate(seed: int) -> None:
    dice = random.Random(seed)
    rule = dice.choice([after(50), NIGHTLY, RetrainDeclaration(annotations=80, cron="30 1 * * 0")])
    world = Life(rule, dice)
    filed: list[tuple[float, int, int]] = []
    for _ in range(400):
        # Now and then nobody looks for days.
        world.now += dice.choice([60.0, 600.0, 3600.0, 3 * DAY]) if dice.random() > 0.02 else -dice.uniform(0, 2 * DAY)
        world.new += dice.choice([0, 0, 1, 5, 60])
        if world.training and dice.random() < 0.3:
            world.training = False
            if dice.random() < 0.5:
                world.basis, world.new = world.basis + 1, 0
        standing = Standing(
            basis=f"azaion-2026-01-{world.basis}" if world.basis else "",
            new=world.new if dice.random() > 0.05 else None,
            past=world.past,
            obstacle="job 1 is running" if world.training else "",
            since=world.since,
        )
        verdict = decide(rule, standing, world.now)
        world.since = verdict.since
        assert verdict.since <= world.now, seed
        assert verdict.text, seed
        if not verdict.due:
            continue
        assert not world.training, seed
        assert world.new > 0, seed
        if filed and filed[-1][1] == world.basis and rule.cron is None:
            assert world.new - filed[-1][2] >= 50, f"{seed}: again for the same"
        filed.append((world.now, world.basis, world.new))
        # It may die right after: all that it knows is in the key.
        world.past = past_of(Past(basis=standing.basis, new=world.new, filed=world.now).key)
        world.training = True
    assert len(filed) > 3, f"{seed}: nothing was ever filed"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("weekly", "retrain: expected keys with values, such as `annotations: 500`"),
        ({"annotations": 0}, "retrain.annotations: expected a whole number above 0, got 0"),
        ({"anotations": 5}, "retrain.anotations: unknown; did you mean annotations?"),
        ({"cron": "0 2 * *"}, "retrain.cron: '0 2 * *' is no time that crontab(5) knows: Wrong number of fields"),
        ({"cron": "0 2 30 2 *"}, "retrain.cron: '0 2 30 2 *' is no time that crontab(5) knows: Bad day-of-month"),
        ({"epochs": 3}, "retrain: says not when; set `annotations: 500`, `cron: 0 2 * * 0`, or both"),
        ({"cron": "0 2 * * 0", "imgsz": 33}, "retrain.imgsz: expected a multiple of 32, up to 8192, got 33"),
    ],
)
def test_what_is_wrong_with_a_rule_is_told(given: object, problem: str) -> None:
    problems: list[str] = []
    retrain.section(given, problems)
    assert problems == [problem]


def test_without_a_rule_there_is_none() -> None:
    problems: list[str] = []
    assert not retrain.section({}, problems).on
    assert not problems


def test_what_is_new_is_what_the_newest_models_dataset_lacks(tmp_path: Path) -> None:
    world = World(tmp_path, images=5)
    assert fresh.basis(world.layout) == ""
    assert fresh.count(world.layout, "") == 5
    listed = SnapshotFolder(path=world.layout.datasets / "azaion-2026-11-01").files
    listed.parent.mkdir(parents=True)
    images = sorted(path.name for path in world.layout.data.images.iterdir())
    listed.write_text("".join(f"{'0' * 64}\t1\ttrain/images/{name}\n" for name in images[:3]))
    assert fresh.count(world.layout, "azaion-2026-11-01") == 2
    assert fresh.count(world.layout, "azaion-2026-11-02") == 5
    # A list that is damaged knows fewer, and ends nobody.
    listed.write_bytes(listed.read_bytes().replace(b"/images/", b"/images/\xff", 1))
    assert fresh.count(world.layout, "azaion-2026-11-01") == 3
