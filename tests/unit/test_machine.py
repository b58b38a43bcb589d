"""Which devices there are to hand out."""

from pathlib import Path

from supervisor.jobs.runner import machine_of
from supervisor.jobs.scheduler import CPU


def test_the_drivers_gpus_are_counted(tmp_path: Path) -> None:
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / bus).mkdir()
    assert machine_of(None, tmp_path).devices == ("gpu0", "gpu1")


def test_without_a_driver_there_is_the_cpu_slot(tmp_path: Path) -> None:
    assert machine_of(None, tmp_path / "absent").devices == (CPU,)
    assert machine_of((), tmp_path).devices == (CPU,)


def test_named_gpus_are_taken_as_named() -> None:
    assert machine_of((3, 1)).devices == ("gpu3", "gpu1")
