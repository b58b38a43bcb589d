"""Services: what may be declared, and what follows from where one is."""

from pathlib import Path
from typing import Any

import pytest

from azaion.declarations import Declarations, read
from azaion.declarations.services import Check, Declaration, Restart
from azaion.settings import ConfigError, SecretReference
from supervisor.gpus import Gpu, Reading, Tenant
from supervisor.jobs.model import Job, Kind, State
from supervisor.jobs.scheduler import Plan
from supervisor.units import model
from supervisor.units.model import Act, End, Step, UnitState, Wish, decide, environment_of, pause_after
from supervisor.units.way import cleared, holder_of

# What may be declared.


def declare(folder: Path, text: str) -> tuple[Declaration, ...]:
    path = folder / "azaion.yaml"
    path.write_text(text, encoding="utf-8")
    return read(path, required=True).services


def problems(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        declare(folder, text)
    return caught.value.problems


def test_everything_can_be_declared_and_comes_in_its_order(tmp_path: Path) -> None:
    text = """
services:
  web:
    argv: [serve, --port, "80"]
    env: {MODEL: /m.pt, TOKEN: {variable: SOME_TOKEN}}
    cwd: /srv
    ready: {http: "http://127.0.0.1:80/health", timeout_s: 2}
    after: [cache]
    restart: on-failure
    holds_gpu: true
    grace_s: 5
    enabled: false
  cache: {argv: [cache], ready: {tcp: 6379}}
"""
    assert declare(tmp_path, text) == (
        Declaration(name="cache", argv=("cache",), ready=Check(tcp=6379)),
        Declaration(
            name="web",
            argv=("serve", "--port", "80"),
            env={"MODEL": "/m.pt", "TOKEN": SecretReference(variable="SOME_TOKEN")},
            cwd="/srv",
            ready=Check(http="http://127.0.0.1:80/health", timeout_s=2),
            after=("cache",),
            restart=Restart.ON_FAILURE,
            holds_gpu=True,
            grace_s=5,
            enabled=False,
        ),
    )


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    text = """
servces: {}
services:
  web: {agv: [x], env: {PASSWORD: 12345}, ready: {tcp: 80000}, after: [chache], restart: sometimes}
  cache: {argv: [x, 5], cwd: here, grace_s: -1, ready: {tcp: 1, http: "http://x"}}
  third: {argv: [x], ready: {htp: "http://x"}, enabled: "yes"}
  consumer: {argv: [x]}
  Big Name: {argv: [x]}
  empty:
"""
    found = problems(tmp_path, text)
    assert found == (
        "servces: unknown; did you mean services?",
        "services.web.agv: unknown; did you mean argv?",
        "services.web.argv: missing",
        "services.web.env: expected names with texts (put numbers in quotes), or with `{variable: NAME}` for a secret",
        "services.web.restart: expected one of always, on-failure, never, got sometimes",
        "services.web.ready.tcp: expected a port, 1 to 65535, got 80000",
        "services.cache.argv: expected a list of words (put numbers in quotes), the program first, got list",
        "services.cache.cwd: expected an absolute path, got here",
        "services.cache.grace_s: expected a number of seconds up to 3600, got -1",
        "services.cache.ready: expected exactly one of tcp, http and command",
        "services.third.enabled: expected true or false, got yes",
        "services.third.ready.htp: unknown; did you mean http?",
        "services.consumer: that is the annotation consumer, which is there already; choose another name",
        "services.Big Name: a name has small letters, digits, - and _, 40 at the most",
        "services.empty: expected keys with values, such as `argv: [...]`",
        "services.web.after: there is no service chache; did you mean cache?",
    )


def test_a_cycle_is_named(tmp_path: Path) -> None:
    text = "services: {a: {argv: [x], after: [c]}, b: {argv: [x], after: [a]}, c: {argv: [x], after: [b]}}"
    (problem,) = problems(tmp_path, text)
    around = problem.removeprefix("services: each of these is to come after the one before it: ").split(" -> ")
    assert around[0] == around[-1]
    assert "".join(around[:-1]) in {"abc", "bca", "cab"}


def test_an_absent_file_declares_nothing_unless_somebody_has_named_it(tmp_path: Path) -> None:
    assert read(tmp_path / "azaion.yaml", required=False) == Declarations()
    with pytest.raises(ConfigError, match="there is no such file"):
        read(tmp_path / "azaion.yaml", required=True)


@pytest.mark.parametrize(("given", "address"), [(80, ("127.0.0.1", 80)), ("example.test:81", ("example.test", 81))])
def test_a_port_is_this_machine_s_unless_a_host_stands_before_it(given: int | str, address: tuple[str, int]) -> None:
    assert Check(tcp=given).address == address


# What follows.

HOLDER = "job 12"
DECLARED = Declaration(name="it", argv=("x",))
GREEDY = Declaration(name="it", argv=("x",), holds_gpu=True)


def step(declared: Declaration | None = DECLARED, **given: Any) -> Step:
    told: dict[str, Any] = {
        "wish": Wish(),
        "digest": "d",
        "running": None,
        "asked": "",
        "last": None,
        "holder": "",
        "blockers": (),
        "now": 1000.0,
    }
    return decide(declared, **(told | given))


def died(deaths: int, **given: Any) -> End:
    told: dict[str, Any] = {"number": 5, "code": 1, "deaths": deaths, "digest": "d", "time": 990.0, "pause": 30.0}
    return End(**(told | given))


def test_one_that_does_not_run_is_started() -> None:
    assert step().act is Act.START
    assert step(GREEDY).act is Act.START


@pytest.mark.parametrize(
    ("declared", "given", "why"),
    [
        (None, {}, "it is declared no more"),
        (Declaration(name="it", argv=("x",), enabled=False), {}, "its declaration says `enabled: false`"),
        (DECLARED, {"wish": Wish(stopped=True, by="ann")}, "stopped by ann"),
        (GREEDY, {"holder": HOLDER}, "paused for job 12"),
    ],
)
def test_one_that_is_not_wanted_is_stopped_and_stays_so(
    declared: Declaration | None, given: dict[str, Any], why: str
) -> None:
    running = step(declared, running="d", **given)
    assert (running.act, running.state, running.why) == (Act.STOP, UnitState.STOPPING, why)
    resting = step(declared, **given)
    assert (resting.act, resting.why) == (Act.REST, why)
    assert resting.state is (UnitState.PAUSED if "paused" in why else UnitState.STOPPED)


def test_one_that_does_not_hold_the_gpu_cares_for_no_job() -> None:
    assert step(DECLARED, holder=HOLDER).act is Act.START
    assert step(DECLARED, running="d", holder=HOLDER).act is Act.KEEP


def test_what_was_asked_to_end_is_asked_again_whatever_is_wanted_now() -> None:
    assert step(running="d").act is Act.KEEP
    asked = step(running="d", asked="paused for job 3")
    assert (asked.act, asked.why) == (Act.STOP, "paused for job 3")


def test_a_changed_declaration_is_another_process() -> None:
    changed = step(running="older")
    assert (changed.act, changed.why) == (Act.STOP, "its declaration has changed")
    assert step(last=died(99, digest="older")).act is Act.START


def test_it_waits_for_those_that_it_comes_after() -> None:
    waiting = step(blockers=["waits for a, which is starting", "waits for b, which is failed"])
    assert (waiting.act, waiting.state) == (Act.REST, UnitState.WAITING)
    assert waiting.why == "waits for a, which is starting; waits for b, which is failed"


def test_it_waits_for_its_backoff_whatever_the_clock_does() -> None:
    waiting = step(last=died(3))
    assert (waiting.state, waiting.wait_s, waiting.why) == (UnitState.WAITING, 20.0, "ended with 1; again in 30.0 s")
    assert step(last=died(3), now=1020.0).act is Act.START
    # Set back by a year.
    assert step(last=died(3), now=990.0 - 3e7).wait_s == 30.0


@pytest.mark.parametrize(
    "given",
    [
        {"last": died(model.DEATHS, asked=True)},
        {"last": died(model.DEATHS, rebooted=True)},
        {"last": died(model.DEATHS), "wish": Wish(forgiven=5)},
    ],
)
def test_an_end_that_says_nothing_of_it_holds_nothing_up(given: dict[str, Any]) -> None:
    assert step(**given).act is Act.START
    assert step(Declaration(name="it", argv=("x",), restart=Restart.NEVER), **given).act is Act.START


def test_it_has_failed_after_so_many_deaths() -> None:
    assert step(last=died(model.DEATHS - 1)).state is UnitState.WAITING
    failed = step(last=died(model.DEATHS, code=None, signal=11))
    assert (failed.act, failed.state, failed.wait_s) == (Act.REST, UnitState.FAILED, None)
    assert failed.why == "has ended 8 times in a row; was killed by signal 11"


@pytest.mark.parametrize(
    ("restart", "code", "act", "state"),
    [
        (Restart.ALWAYS, 0, Act.START, UnitState.STARTING),
        (Restart.ALWAYS, 1, Act.START, UnitState.STARTING),
        (Restart.ON_FAILURE, 0, Act.REST, UnitState.STOPPED),
        (Restart.ON_FAILURE, 1, Act.START, UnitState.STARTING),
        (Restart.ON_FAILURE, None, Act.START, UnitState.STARTING),
        (Restart.NEVER, 0, Act.REST, UnitState.STOPPED),
        (Restart.NEVER, 1, Act.REST, UnitState.FAILED),
    ],
)
def test_its_policy_says_what_follows_an_end(restart: Restart, code: int | None, act: Act, state: UnitState) -> None:
    declared = Declaration(name="it", argv=("x",), restart=restart)
    found = step(declared, last=died(1, code=code, pause=0.0))
    assert (found.act, found.state) == (act, state)


def test_the_first_pause_is_none_and_the_others_double_up_to_the_cap() -> None:
    assert [pause_after(deaths, 1.0) for deaths in (0, 1, 2, 3, 4, 7, 8, 9, 99)] == [0, 0, 1, 2, 4, 32, 60, 60, 60]
    assert pause_after(3, 0.0) == 1.0


def test_only_one_that_holds_the_gpu_sees_it() -> None:
    assert environment_of(GREEDY, {"PATH": "/bin"}, ["0", "2"])["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert environment_of(DECLARED, {}, ["0", "2"])["CUDA_VISIBLE_DEVICES"] == ""
    declared = Declaration(name="it", argv=("x",), env={"PATH": "/mine", "CUDA_VISIBLE_DEVICES": "1"})
    told = environment_of(declared, {"PATH": "/bin"}, ["0"])
    assert (told["PATH"], told["CUDA_VISIBLE_DEVICES"]) == ("/mine", "1")


# Who has the GPU.


def job(number: int, **given: Any) -> Job:
    return Job(id=number, uid="u", kind=Kind.TRAIN, name="n", state=State.QUEUED, parameters={}, owner="ann", **given)


def plan(*starts: tuple[Job, tuple[str, ...]]) -> Plan:
    return Plan(starts=starts, waits={}, asides=(), wake=None)


def test_a_job_that_has_it_or_is_about_to_is_its_holder() -> None:
    assert holder_of({}, plan(), now=0.0) == ""
    assert holder_of({"gpu0": 12}, plan(), now=0.0) == "job 12"
    assert holder_of({}, plan((job(3), ("gpu0",))), now=0.0) == "job 3"
    assert holder_of({"gpu0": 12, "gpu1": 12}, plan((job(3), ("gpu2",))), now=0.0) == "jobs 3, 12"
    assert holder_of({f"gpu{n}": n for n in range(1, 6)}, plan(), now=0.0) == "jobs 1, 2, 3 and 2 more"
    assert holder_of({}, plan(), strangers=True, now=0.0) == "an unknown run"


def test_one_without_a_device_or_that_may_lack_something_is_not() -> None:
    assert holder_of({}, plan((job(3, devices=0), ())), now=0.0) == ""
    assert holder_of({}, plan((job(3), ("gpu0",))), asking=[3], now=0.0) == ""


def test_one_whose_time_is_near_is() -> None:
    soon = [job(1, devices=0, begins=110.0), job(2, not_before=110.0), job(3, begins=200.0), job(4)]
    assert holder_of({}, plan(), queued=soon, now=100.0) == "job 2"


def test_the_memory_of_those_that_make_way_is_there_for_a_job() -> None:
    tenants = (Tenant(pid=1, nonce="ours", used=6), Tenant(pid=2, used=3))
    reading = Reading(gpus=(Gpu(number=0, total=10, free=1, tenants=tenants), Gpu(number=1, total=10, free=10)))
    found = cleared(reading, {"ours"})
    assert found is not None
    assert (found.gpus[0].free, found.gpus[0].tenants, found.gpus[1]) == (7, tenants[1:], reading.gpus[1])
    assert cleared(reading, frozenset()) is reading
    assert cleared(None, {"ours"}) is None


def test_where_the_driver_does_not_tell_how_much_they_have_nobody_knows_what_will_be_free() -> None:
    reading = Reading(gpus=(Gpu(number=0, total=10, free=1, tenants=(Tenant(pid=1, nonce="ours"),)),))
    found = cleared(reading, {"ours"})
    assert found is not None
    assert found.gpus[0].free is None
