"""The training worker's own parts, without a trainer."""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from azaion import files
from azaion.layout import AttemptFolder, RunFolder
from azaion.progress import ExitCode
from workers.training import environment, failures, nms
from workers.training.errors import BaseModelError, CheckpointError, DataError, Interrupted, SpecError
from workers.training.reporter import Reporter
from workers.training.stop import StopSwitch


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    return AttemptFolder(path=tmp_path)


# Progress.


def train_epoch(reporter: Reporter, clock: Clock, epoch: int, *, epochs: int, batch_s: float, rest_s: float) -> None:
    reporter.epoch_begins(epoch, epochs=epochs, batches=10)
    for _ in range(10):
        clock.now += batch_s
        reporter.batch()
    reporter.phase("validating", batches=2)
    clock.now += rest_s
    reporter.batch()
    reporter.phase("saving")
    reporter.epoch_ends({"mAP50": epoch / 10})


def test_the_time_left_is_unknown_then_estimated_then_smoothed(folder: AttemptFolder, clock: Clock) -> None:
    reporter = Reporter(folder, clock=clock)
    reporter.phase("dataset")
    reporter.step(10, 40)
    assert files.read_json(folder.progress) | {"updated": 0} == {
        "phase": "dataset",
        "epoch": 0,
        "epochs": 0,
        "batch": 0,  # the step came within the same half second
        "batches": 0,
        "eta_s": None,
        "metrics": {},
        "gpu_mem_gb": None,
        "updated": 0,
    }
    reporter.epoch_begins(1, epochs=4, batches=10, gpu_mem_gb=1.5)
    assert files.read_json(folder.progress)["eta_s"] is None
    for _ in range(5):
        clock.now += 1.0
        reporter.batch()
    half = files.read_json(folder.progress)
    assert (half["batch"], half["batches"], half["epoch"], half["epochs"]) == (5, 10, 1, 4)
    assert half["eta_s"] == 35.0
    assert half["gpu_mem_gb"] == 1.5
    train_epoch(reporter, clock, 1, epochs=4, batch_s=1.0, rest_s=5.0)
    assert files.read_json(folder.progress)["eta_s"] == 45.0  # three more of 15 s, validation included
    train_epoch(reporter, clock, 2, epochs=4, batch_s=2.0, rest_s=5.0)
    assert files.read_json(folder.progress)["eta_s"] == 36.0  # 15 + 0.3 * (25 - 15) = 18 s an epoch
    reporter.epoch_begins(3, epochs=4, batches=10)
    clock.now += 6.0
    reporter.batch()
    assert files.read_json(folder.progress)["eta_s"] == 30.0
    clock.now += 100.0
    reporter.batch()
    assert files.read_json(folder.progress)["eta_s"] == 0.0  # late, but never negative


def test_every_epoch_is_a_line(folder: AttemptFolder, clock: Clock) -> None:
    reporter = Reporter(folder, clock=clock)
    for epoch in (3, 4):
        train_epoch(reporter, clock, epoch, epochs=4, batch_s=1.0, rest_s=5.0)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [(line["epoch"], line["epochs"], line["epoch_s"], line["metrics"]) for line in lines] == [
        (3, 4, 15.0, {"mAP50": 0.3}),
        (4, 4, 15.0, {"mAP50": 0.4}),
    ]


def test_reports_are_seldom_and_cheap(folder: AttemptFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = Reporter(folder)
    reporter.epoch_begins(1, epochs=1, batches=20_000)
    writes = []
    write = files.write_json

    def counted(path: Path, value: object, *, durable: bool = True) -> None:
        writes.append(path)
        write(path, value, durable=durable)

    monkeypatch.setattr(files, "write_json", counted)
    began = time.perf_counter()
    for _ in range(20_000):
        reporter.batch()
    each = (time.perf_counter() - began) / 20_000
    assert len(writes) <= 2 + (each * 20_000) / 0.5
    assert each < 100e-6  # 0.1 % of a batch of 100 ms


def test_a_full_disk_does_not_stop_a_report(
    folder: AttemptFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_json", full)
    Reporter(folder).phase("loading")
    assert "No space left" in caplog.text


# The stop switch.


@pytest.fixture
def switch() -> Iterator[StopSwitch]:
    before = signal.getsignal(signal.SIGTERM)
    switch = StopSwitch()
    switch.install()
    yield switch
    signal.signal(signal.SIGTERM, before)


def test_sigterm_stops_at_once(switch: StopSwitch) -> None:
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)
    assert switch.requested
    signal.raise_signal(signal.SIGTERM)  # a second one changes nothing


def test_sigterm_waits_while_held(switch: StopSwitch) -> None:
    switch.hold()
    switch.check()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        switch.check()
    with pytest.raises(Interrupted):
        switch.release()
    with pytest.raises(Interrupted):
        switch.hold()
    switch.ignore()
    signal.raise_signal(signal.SIGTERM)


def test_no_except_exception_swallows_a_stop() -> None:
    assert not issubclass(Interrupted, Exception)


# Causes.


def chained(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Interrupted(), ExitCode.INTERRUPTED),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (DataError("x"), ExitCode.DATA),
        (BaseModelError("x"), ExitCode.NO_INPUT),
        (SpecError("x"), ExitCode.CONFIG),
        (CheckpointError("x"), ExitCode.CHECKPOINT),
        (OSError(errno.ENOSPC, "full"), ExitCode.DISK),
        (OSError(errno.EDQUOT, "quota"), ExitCode.DISK),
        (OSError(errno.EIO, "broken"), ExitCode.DISK),
        (OSError(errno.EACCES, "denied"), ExitCode.SOFTWARE),
        (MemoryError(), ExitCode.OOM_RAM),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), ExitCode.OOM_RAM),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), ExitCode.OOM_RAM),
        (RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"), ExitCode.DISK),
        (RuntimeError("a bug\nin two lines"), ExitCode.SOFTWARE),
        (SystemExit(3), ExitCode.SOFTWARE),
        (chained(RuntimeError("Dataset error"), OSError(errno.ENOSPC, "full")), ExitCode.DISK),
        (chained(DataError("x"), MemoryError()), ExitCode.OOM_RAM),
        (chained(RuntimeError("x"), DataError("y")), ExitCode.DATA),
    ],
    ids=repr,
)
def test_each_cause_has_its_exit_code(error: BaseException, code: ExitCode) -> None:
    found, message = failures.classify(error)
    assert found is code
    assert message
    assert "\n" not in message


def test_the_gpu_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    torch = ModuleType("torch")
    torch.OutOfMemoryError = OutOfMemoryError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert failures.classify(OutOfMemoryError("CUDA out of memory"))[0] is ExitCode.OOM_GPU


# The stand-in for torchvision.


@pytest.fixture
def without_torchvision(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    return monkeypatch


def test_a_working_torchvision_is_left_alone(without_torchvision: pytest.MonkeyPatch) -> None:
    native = ModuleType("torchvision")
    without_torchvision.setitem(sys.modules, "torchvision", native)
    assert nms.provide() is False
    assert sys.modules["torchvision"] is native


def test_a_broken_torchvision_is_replaced(without_torchvision: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "half.py").write_text("")
    (package / "__init__.py").write_text(
        "import torchvision.half\nraise RuntimeError('operator torchvision::nms does not exist')"
    )
    without_torchvision.syspath_prepend(tmp_path)
    assert nms.provide() is True
    assert sys.modules["torchvision"].ops.nms is nms.suppress
    assert "torchvision.half" not in sys.modules
    assert nms.provide() is False  # once is enough
    for name in ("torchvision", "torchvision.ops"):
        del sys.modules[name]


# The environment.


def test_the_environment_is_kept_inside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    os.environ |= {"RANK": "1", "WORLD_SIZE": "2", "ULTRALYTICS_API_KEY": "secret"}
    run = RunFolder(path=tmp_path / "run")
    (run.cache / "tmp" / "pymp-killed").mkdir(parents=True)
    environment.prepare(run)
    assert os.environ["YOLO_OFFLINE"] == "1"
    assert os.environ["ULTRALYTICS_SAFE_LOAD"] == "1"
    assert Path.cwd() == run.path
    assert not {"RANK", "WORLD_SIZE", "ULTRALYTICS_API_KEY"} & os.environ.keys()
    assert (Path(os.environ["YOLO_CONFIG_DIR"]) / "Ultralytics" / "Arial.Unicode.ttf").stat().st_size > 1000
    assert not list((run.cache / "tmp").iterdir())
    environment.prepare(run)
