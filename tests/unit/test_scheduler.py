"""Which job starts, and why the others wait."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from supervisor.jobs.model import Intent, Job, Kind, Maintenance, State
from supervisor.jobs.outcome import BACKOFF_CAP_S
from supervisor.jobs.scheduler import CPU, Machine, Run, drain, plan

ONE = Machine(devices=(CPU,), light=2)
TWO = Machine(devices=("gpu0", "gpu1"), light=2)


def queued(number: int, **facts: Any) -> Job:
    return Job(
        id=number, uid=str(number), kind=Kind.COMMAND, name="n", state=State.QUEUED, parameters={}, owner="o", **facts
    )


def starts(*jobs: Job, machine: Machine = ONE, leases: dict[str, str] | None = None, light: int = 0) -> list[int]:
    made = plan(jobs, machine=machine, leases=leases or {}, light_running=light, now=0.0)
    return [job.id for job, _ in made.starts]


def test_priority_then_age() -> None:
    assert starts(queued(1), queued(2), queued(3, priority=5)) == [3]
    assert starts(queued(2), queued(1)) == [1]


def test_a_lease_is_waited_for_and_named() -> None:
    made = plan([queued(2), queued(3)], machine=ONE, leases={CPU: "job 1"}, light_running=0, now=0.0)
    assert not made.starts
    assert made.waits == {2: "needs the CPU slot; held: cpu by job 1", 3: "behind job 2"}


def test_a_job_without_a_device_does_not_wait_for_one() -> None:
    assert starts(queued(1), queued(2, devices=0), leases={CPU: "job 9"}) == [2]
    assert starts(queued(1, devices=0), light=2) == []


def test_nobody_overtakes_one_who_waits_for_two_devices() -> None:
    assert starts(queued(1, devices=2), queued(2), machine=TWO, leases={"gpu0": "job 9"}) == []
    assert starts(queued(1, devices=2), queued(2), machine=TWO) == [1]


def test_what_can_never_start_holds_nobody_up() -> None:
    assert starts(queued(1, devices=3), queued(2), machine=TWO) == [2]


def test_backoff_is_waited_for() -> None:
    made = plan([queued(1, not_before=50.0 + BACKOFF_CAP_S)], machine=ONE, leases={}, light_running=0, now=50.0)
    assert (made.starts, made.wake) == ((), 50.0 + BACKOFF_CAP_S)
    assert starts(queued(1, not_before=-5.0)) == [1]


def test_a_clock_that_jumped_back_holds_nobody_up() -> None:
    """Capped anew with every plan, the backoff would last until the clock has caught up."""
    assert starts(queued(1, not_before=86_400.0)) == [1]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3), st.floats(0, 100))),
    st.sets(st.sampled_from(TWO.devices)),
    st.integers(0, 3),
)
def test_no_device_is_handed_out_twice_and_everybody_else_knows_why(
    wishes: list[tuple[int, int, float]], taken: set[str], light: int
) -> None:
    jobs = [
        queued(number, devices=devices, priority=priority, not_before=later)
        for number, (devices, priority, later) in enumerate(wishes, 1)
    ]
    made = plan(jobs, machine=TWO, leases=dict.fromkeys(taken, "job 0"), light_running=light, now=10.0)
    handed = [device for _, devices in made.starts for device in devices]
    assert len(handed) == len(set(handed))
    assert not taken & set(handed)
    assert all(len(devices) == job.devices for job, devices in made.starts)
    assert {job.id for job, _ in made.starts} | set(made.waits) == {job.id for job in jobs}
    assert all(made.waits.values())


def test_a_job_waits_for_its_time_and_for_another() -> None:
    jobs = [queued(1, begins=50.0), queued(2, after=9), queued(3)]
    made = plan(jobs, machine=ONE, leases={}, light_running=0, now=10.0, awaited={9: State.RUNNING})
    # Neither keeps the one behind it from starting.
    assert [job.id for job, _ in made.starts] == [3]
    assert made.waits == {1: "begins at 1970-01-01 00:00:50 UTC", 2: "comes after job 9, which is running"}
    assert made.wake == 50.0
    later = plan(jobs[:2], machine=TWO, leases={}, light_running=0, now=50.0)
    assert ([job.id for job, _ in later.starts], later.wake) == ([1, 2], None)


def running(number: int, kind: Kind = Kind.TRAIN, devices: int = 1, **facts: Any) -> Run:
    facts = {"uid": str(number), "name": "n", "state": State.RUNNING, "parameters": {}, "owner": "o"} | facts
    return Run(job=Job(id=number, kind=kind, **facts), devices=devices)


def asides(urgent: Job, *runs: Run, free: int = 0) -> tuple[int, ...]:
    held = sum(run.devices for run in runs)
    machine = Machine(devices=tuple(f"gpu{number}" for number in range(held + free)), light=2)
    leases = dict.fromkeys(machine.devices[:held], "job x")
    return plan([urgent], machine=machine, leases=leases, light_running=0, now=0.0, running=runs).asides


def test_an_urgent_job_asks_the_least_important_training_to_step_aside() -> None:
    urgent = queued(9, priority=5, preempt=True)
    assert asides(urgent, running(1), running(2), running(3, priority=4)) == (2,)
    # Neither its equals, nor commands, which would begin again, nor more than are needed.
    assert asides(urgent, running(1, priority=5), running(2, kind=Kind.COMMAND)) == ()
    assert asides(queued(9, priority=5), running(1)) == ()
    assert asides(urgent, running(1), free=1) == ()
    assert asides(queued(9, priority=5, preempt=True, devices=3), running(1), running(2, devices=2)) == (2, 1)
    # If all of them together are not enough, nobody is disturbed.
    big = queued(9, priority=5, preempt=True, devices=2)
    assert asides(big, running(1), running(2, kind=Kind.COMMAND)) == ()


def test_who_steps_aside_already_is_counted() -> None:
    urgent = queued(9, priority=5, preempt=True)
    assert asides(urgent, running(1, intent=Intent.PAUSE), running(2)) == ()
    assert asides(urgent, running(1, intent=Intent.CANCEL), running(2)) == ()


def test_maintenance_starts_nothing_and_says_why() -> None:
    maintenance = Maintenance(reason="new driver", by="anna", since=1.0, stop_running=False)
    runs = [running(1), running(2, kind=Kind.COMMAND), running(3, intent=Intent.STOP)]
    made = drain([queued(4)], runs, maintenance)
    assert (made.starts, made.waits, made.asides) == ((), {4: "maintenance by anna: new driver"}, ())
    stopping = Maintenance(reason="", by="anna", since=1.0, stop_running=True)
    assert drain([queued(4)], runs, stopping).asides == (1,)
