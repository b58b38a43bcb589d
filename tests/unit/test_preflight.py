"""What jobs need before they start: the pure reasons, what the plan makes of them, and how the facts are had."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azaion.layout import Layout, SnapshotFolder
from supervisor import resources
from supervisor.gpus import Gpu, Probe, Reading, Tenant
from supervisor.jobs.gate import Gate
from supervisor.jobs.model import Job, Kind, Needs, State
from supervisor.jobs.preflight import PATIENCE_S, Check, Floors, Lack, Preflight, by_hand
from supervisor.jobs.scheduler import CPU, Machine, Plan, plan
from supervisor.resources import Disk, Facts, Inputs, Memory, Purpose
from tests.nvml import FakeNvml
from tests.waiting import until

GIB = 1 << 30
FLOORS = Floors(ram=GIB, disk=2 * GIB, vram=GIB)
HERE = Path("/data")
TWO = Machine(devices=("gpu0", "gpu1"), light=2)


def queued(number: int, *, ram: float = 0, vram: float = 0, **facts: Any) -> Job:
    given: dict[str, Any] = {"kind": Kind.COMMAND, "parameters": {}, "state": State.QUEUED, **facts}
    needs = Needs(ram=int(ram * GIB), vram=int(vram * GIB))
    return Job(id=number, uid=str(number), name="n", owner="o", needs=needs, **given)


def facts(*, ram: float = 20, disk: float = 100, gpus: Reading | None = None) -> Facts:
    one = Disk(path=HERE, device=1, free=int(disk * GIB))
    memory = Memory(total=32 * GIB, available=int(ram * GIB))
    return Facts(memory=memory, disks=dict.fromkeys(Purpose, one), gpus=gpus)


def gpu(number: int, free: float, *tenants: Tenant, total: float = 32) -> Gpu:
    return Gpu(number=number, total=int(total * GIB), free=int(free * GIB), tenants=tenants)


def reading(*gpus: Gpu) -> Reading:
    return Reading(gpus=gpus)


def scheduled(jobs: Sequence[Job], preflight: Preflight, **more: Any) -> Plan:
    given: dict[str, Any] = {"machine": TWO, "leases": {}, "light_running": 0, "now": 0.0, **more}
    return plan(jobs, preflight=preflight, **given)


def began(made: Plan) -> dict[int, tuple[str, ...]]:
    return {job.id: devices for job, devices in made.starts}


# Reasons.


def test_memory_that_lacks_is_told_in_figures() -> None:
    here = Preflight(facts=facts(ram=9.25), floors=FLOORS)
    assert here.lack(queued(1, ram=9.2)) is None
    assert here.lack(queued(1, ram=14)) == Lack(reason="needs 14.0 GiB RAM, 9.2 free")
    assert here.lack(queued(1, ram=200)) == Lack(reason="needs 200.0 GiB RAM, this machine has 32.0")
    assert Preflight(facts=facts(ram=0.5), floors=FLOORS).lack(queued(1)) == Lack(reason="needs 1.0 GiB RAM, 0.5 free")


def test_what_was_promised_to_runs_that_have_just_started_is_not_free() -> None:
    here = Preflight(facts=facts(ram=20), floors=FLOORS, promised=8 * GIB)
    assert here.lack(queued(1, ram=12)) is None
    assert here.lack(queued(1, ram=14)) == Lack(
        reason="needs 14.0 GiB RAM, 12.0 free; 8.0 promised to runs that have just started"
    )


def test_a_kernel_that_does_not_tell_keeps_only_those_that_ask() -> None:
    silent = replace(facts(), memory=None)
    assert Preflight(facts=silent, floors=FLOORS).lack(queued(1)) is None
    lack = Preflight(facts=silent, floors=FLOORS).lack(queued(1, ram=1))
    assert lack is not None
    assert "the kernel does not tell" in lack.reason


def test_who_holds_a_gpu_is_named() -> None:
    foreign = Tenant(pid=4711, name="python", used=int(11.6 * GIB))
    ours = Tenant(pid=12, name="python", nonce="n", used=int(10 * GIB))
    one = queued(1, vram=14)
    held = Preflight(facts=facts(gpus=reading(gpu(0, 9.25, foreign, total=21))), floors=FLOORS)
    assert held.unfit(one, "gpu0") == "needs 14.0 GiB VRAM, 9.2 free; 11.6 held by pid 4711 python"
    mixed = reading(gpu(0, 9.25, foreign, ours))
    assert Preflight(facts=facts(gpus=mixed), floors=FLOORS, owners={"n": 3}).unfit(one, "gpu0") == (
        "needs 14.0 GiB VRAM, 9.2 free; 11.6 held by pid 4711 python; 10.0 held by job 3 (pid 12 python); "
        "1.2 held by processes that the driver does not name"
    )


def test_a_gpu_that_would_never_do_says_so() -> None:
    here = Preflight(facts=facts(gpus=reading(gpu(0, 24, total=24))), floors=FLOORS)
    assert here.unfit(queued(1, vram=40), "gpu0") == "needs 40.0 GiB VRAM, it has 24.0"
    assert here.unfit(queued(1, vram=24), "gpu0") == ""
    assert here.unfit(queued(1), "gpu1") == "the NVIDIA driver does not show it"


def test_without_a_driver_only_those_wait_that_ask_for_its_memory() -> None:
    absent = Preflight(facts=facts(gpus=Reading(absent="no NVIDIA driver")), floors=FLOORS)
    assert absent.unfit(queued(1), "gpu0") == ""
    assert absent.unfit(queued(1, vram=2), "gpu0").endswith("nobody tells what is free: no NVIDIA driver")
    assert absent.unfit(queued(1), CPU) == ""
    assert absent.unfit(queued(1, vram=2), CPU) == "needs 2.0 GiB VRAM, and there is no GPU to use"


def test_a_driver_that_does_not_answer_keeps_its_gpus() -> None:
    hung = Preflight(facts=facts(gpus=Reading(problem="it has not answered")), floors=FLOORS)
    assert hung.unfit(queued(1), "gpu0") == "it has not answered"
    lost = Preflight(facts=facts(gpus=reading(Gpu(number=0, problem="GPU is lost"), gpu(1, 30))), floors=FLOORS)
    assert began(scheduled([queued(1)], lost)) == {1: ("gpu1",)}


WHOLE = Inputs(model="a.pt", weights=GIB // 2, dataset=None, images=True)


@pytest.mark.parametrize(
    ("inputs", "disk", "reason"),
    [
        (WHOLE, 3.5, None),
        (WHOLE, 3.25, "needs 3.5 GiB on the disk of /data (state, datasets, models), 3.2 free; make room"),
        (replace(WHOLE, copied=4 * GIB), 7.4, "needs 7.5 GiB on the disk of /data"),
        (replace(WHOLE, weights=None), 50, "the base model a.pt is not there"),
        (replace(WHOLE, images=False), 50, "there are no validated images"),
        (replace(WHOLE, images=False, dataset="d"), 50, "the dataset d is not there, or has no images"),
    ],
)
def test_a_training_needs_its_inputs_and_room(inputs: Inputs, disk: float, reason: str | None) -> None:
    here = Preflight(facts=facts(disk=disk), floors=FLOORS, inputs={1: inputs})
    lack = here.lack(queued(1))
    assert (lack is None) if reason is None else (lack is not None and lack.reason.startswith(reason))
    assert here.lack(queued(2)) is None


def test_each_disk_is_asked_for_what_it_is_to_hold() -> None:
    small, large = (Disk(path=HERE / name, device=number, free=number * GIB) for number, name in ((3, "s"), (50, "l")))
    disks = {Purpose.STATE: small, Purpose.DATASETS: large, Purpose.MODELS: large}
    here = Preflight(
        facts=replace(facts(), disks=disks), floors=FLOORS, inputs={1: WHOLE, 2: replace(WHOLE, weights=9)}
    )
    assert here.lack(queued(2)) is None
    lack = here.lack(queued(1, ram=0))
    assert lack is None
    big = Preflight(facts=replace(facts(), disks=disks), floors=FLOORS, inputs={1: replace(WHOLE, weights=GIB)})
    assert big.lack(queued(1)) == Lack(reason="needs 5.0 GiB on the disk of /data/s (state), 3.0 free; make room")


def test_a_full_disk_pauses_all_starts() -> None:
    assert Preflight(facts=facts(disk=2), floors=FLOORS).pause() == ""
    full = Preflight(facts=facts(disk=1.9), floors=FLOORS)
    assert full.pause().startswith("needs 2.0 GiB on the disk of /data")
    assert not full.admits([(queued(1), ())])
    gone = Disk(path=HERE, problem="Input/output error")
    assert (
        "out of reach: Input/output error"
        in Preflight(facts=Facts(memory=None, disks={Purpose.STATE: gone}), floors=Floors()).pause()
    )


# What the plan makes of them.


def test_a_job_gets_the_device_that_does() -> None:
    here = Preflight(facts=facts(gpus=reading(gpu(0, 9), gpu(1, 30))), floors=FLOORS)
    assert began(scheduled([queued(1, vram=14), queued(2)], here)) == {1: ("gpu1",), 2: ("gpu0",)}


def test_who_lacks_something_is_passed() -> None:
    here = Preflight(facts=facts(ram=20), floors=FLOORS)
    made = scheduled([queued(1, ram=30), queued(2), queued(3, devices=0)], here)
    assert began(made) == {2: ("gpu0",), 3: ()}
    assert made.lacking == (1,)
    assert made.waits[1].startswith("needs 30.0 GiB RAM")


def test_memory_is_handed_out_once() -> None:
    here = Preflight(facts=facts(ram=20), floors=FLOORS)
    made = scheduled([queued(1, ram=12), queued(2, ram=12), queued(3, ram=8)], here)
    assert began(made).keys() == {1, 3}
    assert not here.admits([(queued(1, ram=12), ("gpu0",)), (queued(2, ram=12), ("gpu1",))])


def test_who_has_long_lacked_memory_keeps_its_place_while_runs_may_give_it_back() -> None:
    jobs = [queued(1, ram=30), queued(2), queued(3, devices=0)]
    late = Preflight(facts=facts(ram=20), floors=FLOORS, waited={1: PATIENCE_S}, busy=True)
    made = scheduled(jobs, late)
    assert not made.starts
    assert made.waits[2] == made.waits[3] == "behind job 1, which has long waited for memory"
    assert made.lacking == (1,)
    assert began(scheduled(jobs, replace(late, busy=False))).keys() == {2, 3}
    assert began(scheduled(jobs, replace(late, waited={1: PATIENCE_S - 1}))).keys() == {2, 3}
    assert began(scheduled([queued(1, ram=64), queued(2)], late)).keys() == {2}


def test_a_foreign_process_holds_up_only_those_that_need_its_gpu() -> None:
    here = Preflight(facts=facts(gpus=reading(gpu(0, 9), gpu(1, 9))), floors=FLOORS)
    made = scheduled([queued(1, vram=14), queued(2)], here)
    assert began(made) == {2: ("gpu0",)}
    assert (made.lacking, made.unfit) == ((1,), True)
    assert made.waits[1] == (
        "gpu0: needs 14.0 GiB VRAM, 9.0 free; 23.0 held by processes that the driver does not name; "
        "gpu1: needs 14.0 GiB VRAM, 9.0 free; 23.0 held by processes that the driver does not name"
    )


def test_who_waits_for_a_lease_keeps_what_it_could_use_and_nothing_else() -> None:
    # gpu1 is fit for the job that needs two, gpu2 is not; gpu0 is leased.
    three = Machine(devices=("gpu0", "gpu1", "gpu2"), light=2)
    here = Preflight(facts=facts(gpus=reading(gpu(0, 1), gpu(1, 30), gpu(2, 9))), floors=FLOORS)
    jobs = [queued(1, vram=14, devices=2), queued(2), queued(3)]
    made = scheduled(jobs, here, machine=three, leases={"gpu0": "job 9"})
    assert began(made) == {2: ("gpu2",)}
    assert made.waits[1].startswith("needs 2 GPUs; held: gpu0 by job 9; gpu2: needs 14.0 GiB VRAM, 9.0 free")
    assert made.waits[3] == "behind job 1"
    assert (made.lacking, made.unfit) == ((), True)
    # No run of ours holds what it lacks: its device may be used meanwhile.
    assert began(scheduled(jobs, here, machine=replace(three, devices=("gpu1", "gpu2")))).keys() == {2, 3}


def test_one_gpu_needs_no_name() -> None:
    here = Preflight(facts=facts(gpus=reading(gpu(0, 9, Tenant(pid=7, name="x", used=23 * GIB)))), floors=FLOORS)
    one = Machine(devices=("gpu0",), light=2)
    assert scheduled([queued(1, vram=14)], here, machine=one).waits[1] == (
        "needs 14.0 GiB VRAM, 9.0 free; 23.0 held by pid 7 x"
    )


@given(
    jobs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 24), st.integers(0, 40), st.integers(0, 3)), max_size=8),
    ram=st.integers(0, 32),
    free=st.tuples(st.integers(0, 32), st.integers(0, 32)),
    leased=st.sets(st.sampled_from(TWO.devices)),
    late=st.sets(st.integers(1, 8)),
)
def test_nothing_starts_that_lacks_anything(
    jobs: list[tuple[int, int, int, int]], ram: int, free: tuple[int, int], leased: set[str], late: set[int]
) -> None:
    waiting = [
        queued(number, devices=devices, ram=memory, vram=vram, priority=priority)
        for number, (devices, memory, vram, priority) in enumerate(jobs, 1)
    ]
    here = Preflight(
        facts=facts(ram=ram, gpus=reading(gpu(0, free[0]), gpu(1, free[1]))),
        floors=FLOORS,
        waited=dict.fromkeys(late, PATIENCE_S),
        busy=bool(leased),
    )
    made = scheduled(waiting, here, leases=dict.fromkeys(leased, "job 0"))
    assert here.admits(made.starts)
    assert began(made).keys() | made.waits.keys() == {job.id for job in waiting}
    assert not began(made).keys() & made.waits.keys()
    given_out = [device for devices in began(made).values() for device in devices]
    assert len(given_out) == len(set(given_out))
    assert not leased & set(given_out)
    assert all(made.waits.values())
    # Once nothing of ours runs, nobody who lacks memory keeps those behind it waiting.
    idle = scheduled(waiting, replace(here, busy=False))
    assert not any("for memory" in reason for reason in idle.waits.values())


# By hand.


def checks(needs: Needs, disk: int = 0, *, given: Inputs = WHOLE, **more: Any) -> dict[str, Check]:
    devices = more.pop("devices", (CPU,))
    made = by_hand(needs, disk, facts=facts(**more), floors=FLOORS, given=given, devices=devices)
    return {check.name: check for check in made}


def test_the_checks_by_hand() -> None:
    good = checks(Needs())
    assert all(check.ok for check in good.values())
    assert list(good) == ["memory", "gpu", "disk", "model", "data"]
    assert good["memory"].text == "20.0 GiB free, 1.0 needed"
    assert not checks(Needs(ram=21 * GIB))["memory"].ok
    assert not checks(Needs(), 101 * GIB)["disk"].ok
    assert checks(Needs(), 100 * GIB)["disk"].ok
    assert not checks(Needs(vram=GIB))["gpu"].ok
    assert not checks(Needs(), given=replace(WHOLE, weights=None))["model"].ok
    assert not checks(Needs(), given=replace(WHOLE, images=False))["data"].ok


def test_one_gpu_that_does_is_enough() -> None:
    both: dict[str, Any] = {"devices": TWO.devices, "gpus": reading(gpu(0, 9), gpu(1, 30))}
    assert checks(Needs(vram=14 * GIB), **both)["gpu"] == Check(
        name="gpu", ok=True, text="gpu1: 30.0 GiB of 32.0 free, 14.0 needed"
    )
    lacking = checks(Needs(vram=31 * GIB), **both)["gpu"]
    assert not lacking.ok
    assert lacking.text.startswith("gpu0: needs 31.0 GiB VRAM, 9.0 free")


# Facts.


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    made = FakeNvml(tmp_path / "nvml")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


async def test_what_nvml_tells(nvml: FakeNvml) -> None:
    nvml.tell(count=2, lost_0=1, total_mb_1=24000, free_mb_1=9000, pid_1_0=os.getpid(), pid_mb_1_0=11000)
    told = await Probe().ask()
    assert (told.absent, told.problem) == ("", "")
    assert told.gpus[0] == Gpu(number=0, problem="GPU is lost")
    tenant = Tenant(pid=os.getpid(), name=_own_name(), used=11000 << 20)
    assert told.gpus[1] == Gpu(
        number=1,
        name="Fake GPU",
        total=24000 << 20,
        free=9000 << 20,
        tenants=(tenant,),
        temperature=40,
        ecc_errors=0,
        busy_percent=0,
    )


def _own_name() -> str:
    return Path("/proc/self/comm").read_text(encoding="ascii").strip()


async def test_without_a_driver_there_is_nothing_to_ask(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.tell(nodriver=1)
    assert (await Probe().ask()).absent.startswith("no NVIDIA driver")
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert (await Probe().ask()).absent.startswith("no NVIDIA driver")


async def test_nvml_that_crashes_or_hangs_costs_a_child(nvml: FakeNvml) -> None:
    nvml.tell(crash=1)
    assert (await Probe().ask()).problem == "asking the NVIDIA driver has ended by SIGABRT"
    nvml.tell(hang=1)
    began_at = time.monotonic()
    assert (await Probe(limit_s=0.5).ask()).problem == "the NVIDIA driver has not answered within 0.5 s"
    assert time.monotonic() - began_at < 5
    until(lambda: not _children(), "the child has gone")


def _children() -> list[str]:
    here = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    return [pid for pid in here if "supervisor.gpus" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")]


async def test_an_answer_is_kept_for_a_while(nvml: FakeNvml) -> None:
    now = 100.0
    probe = Probe(clock=lambda: now)
    nvml.tell(free_mb_0=1)
    first = await probe.glance()
    nvml.tell(free_mb_0=2)
    now = 104.0
    assert await probe.glance() is first
    # What is asked for after a moment is not answered with what was told before it.
    assert probe.known(101.0, 10.0) is None
    assert (await probe.ask(101.0, 10.0)).gpus[0].free == 2 << 20
    now = 110.0
    nvml.tell(crash=1)
    assert (await probe.glance()).problem
    now = 140.0
    nvml.tell()
    assert (await probe.glance()).problem, "whoever looks waits once in a minute for a driver that is silent"
    now = 171.0
    assert not (await probe.glance()).problem


def test_memory_is_what_the_kernel_estimates(tmp_path: Path) -> None:
    told = tmp_path / "meminfo"
    told.write_text("MemTotal:       100 kB\nMemFree:   1 kB\nMemAvailable:    50 kB\nHugePages_Total:   0\n")
    assert resources.memory(told) == Memory(total=100 << 10, available=50 << 10)
    told.write_text("MemTotal:  100 kB\n")
    assert resources.memory(told) is None


def layout(tmp_path: Path) -> Layout:
    (tmp_path / "root").mkdir()
    return Layout(
        root=tmp_path / "root", state=tmp_path / "state", spool=tmp_path / "spool", socket=tmp_path / "socket"
    )


def test_a_folder_that_is_not_made_yet_would_be_made_above(tmp_path: Path) -> None:
    here = layout(tmp_path)
    found = resources.disks(here)
    assert found[Purpose.STATE].path == tmp_path
    assert found[Purpose.MODELS].path == here.root
    assert found[Purpose.MODELS].free > 0
    here.root.rmdir()
    assert resources.disks(here)[Purpose.MODELS].problem


def test_what_a_training_begins_with(tmp_path: Path) -> None:
    here = layout(tmp_path)
    assert resources.inputs(here, "a.pt", None) == Inputs(model="a.pt", weights=None, dataset=None, images=False)
    here.models.mkdir()
    (here.models / "a.pt").write_bytes(b"x" * 10)
    here.data.images.mkdir(parents=True)
    (here.data.images / ".tmp-1.jpg").touch()
    assert resources.inputs(here, "a.pt", None) == Inputs(model="a.pt", weights=10, dataset=None, images=False)
    (here.data.images / "a.JPG").touch()
    assert resources.inputs(here, "b.yaml", None) == Inputs(model="b.yaml", weights=0, dataset=None, images=True)
    assert not resources.inputs(here, "a.pt", "d").images
    learnt = SnapshotFolder(path=here.datasets / "d").annotations("train").images
    learnt.mkdir(parents=True)
    (learnt / "a.png").touch()
    assert resources.inputs(here, "a.pt", "d").images


# How long it lasts.


class Watch:
    """A gate with a clock, and what it has noted."""

    def __init__(self, tmp_path: Path) -> None:
        self.now = 1000.0
        self.notes: list[tuple[str, str, int | None]] = []
        self.gate = Gate(
            layout=layout(tmp_path),
            floors=FLOORS,
            probe=Probe(),
            note=lambda *event: self.notes.append(event),
            clock=lambda: self.now,
        )

    def mind(self, *lacking: int, pause: str = "", asking: Sequence[int] = ()) -> Plan:
        made = Plan(starts=(), waits=dict.fromkeys(lacking, "needs"), asides=(), lacking=lacking, wake=None)
        self.gate.mind(made, asking, pause, self.now)
        return made


def test_who_waits_for_long_is_told_of_once(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    watch.mind(1)
    watch.now += 300
    watch.mind(1, 2)
    watch.now += 299
    watch.mind(2, asking=[1])
    assert watch.notes == []
    watch.now += 1
    made = watch.mind(1, 2)
    assert watch.notes == [("lacking", "needs", 1)]
    (alert,) = watch.gate.alerts(made, watch.now)
    assert (alert.job, alert.since, alert.text) == (1, 1000.0, "needs")
    watch.now += 1
    watch.mind(1, 2)
    assert len(watch.notes) == 1
    watch.mind(2)
    watch.mind(1, 2)
    assert watch.gate.alerts(watch.mind(1, 2), watch.now) == [], "it has started to wait anew"


def test_a_pause_is_told_of_at_its_begin_and_its_end(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    watch.mind(pause="full")
    made = watch.mind(pause="fuller")
    assert watch.gate.paused
    assert [alert.text for alert in watch.gate.alerts(made, watch.now)] == ["fuller"]
    watch.mind()
    assert watch.notes == [("starts-paused", "full", None), ("starts-resumed", "", None)]
    assert not watch.gate.paused


def test_a_training_that_has_a_checkpoint_needs_no_base_model(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    job = queued(1, kind=Kind.TRAIN, parameters={"model": "gone.pt", "dataset": None})
    here = watch.gate.look([job])
    assert here.lack(job) == Lack(
        reason="the base model gone.pt is not there: put it among the models or into the root"
    )
    weights = tmp_path / "state" / "jobs" / "1-1" / "run" / "train" / "weights"
    weights.mkdir(parents=True)
    (weights / "last.pt").touch()
    assert watch.gate.look([job]).lack(job) is None


def test_nvml_is_asked_before_a_start_on_a_gpu_alone(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    assert watch.gate.knows(())
    assert watch.gate.knows((CPU,))
    assert not watch.gate.knows(("gpu0",))


def test_the_daemon_never_loads_nvml() -> None:
    script = "import supervisor.daemon, sys; sys.exit('pynvml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
